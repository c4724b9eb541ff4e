// All kernel bodies, compiled once for each instruction set. No C++ library header is included here
// and everything lies in an anonymous namespace: a shared inline function with AVX-512 code in it
// may be the copy that the linker keeps for all. The table is constant data, because a static
// constructor would run this instruction set's code on every machine.
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

namespace {
#include "all_sources.inc"

template <class Body>
void run(const void* body, int x, int y) {
  (*static_cast<const Body*>(body))(x, y);
}

#undef KERNEL
#define KERNEL(...) {#__VA_ARGS__, sizeof(__VA_ARGS__), run<__VA_ARGS__>},
constexpr Kernel table[] = {
#include "all_kernels.inc"
};
}  // namespace

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
extern const Kernels JOIN(kernels_, ISA);
const Kernels JOIN(kernels_, ISA) = {TEXT(ISA), table, sizeof(table) / sizeof(table[0])};
