// All kernels in one shared library for tests, compiled on the spot: with -DBLOCK_OF_THREADS a tile
// is a GPU block played by real threads, with -DREVERSE_LANES the CPU's lanes run backwards. The
// lists of sources and kernels are written beside it by host_builds.py.
#include <atomic>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#if defined(BLOCK_OF_THREADS)
constexpr int BLOCK = 4;  // threads that share a tile
inline std::barrier<> block_barrier{BLOCK};
inline thread_local int thread_in_block = 0;
#endif

namespace {
#include "all_sources.inc"

struct Kernel {
  const char* name;
  size_t size;
  void (*run)(const void* body, int x, int y);
};

template <class Body>
void run(const void* body, int x, int y) {
  (*static_cast<const Body*>(body))(x, y);
}

#undef KERNEL
#define KERNEL(...) {#__VA_ARGS__, sizeof(__VA_ARGS__), run<__VA_ARGS__>},
constexpr Kernel table[] = {
#include "all_kernels.inc"
};
constexpr int table_size = sizeof(table) / sizeof(table[0]);
}  // namespace

extern "C" const char* polyfield_instruction_set() { return "test build"; }
extern "C" int polyfield_threads() { return 1; }
extern "C" int polyfield_has_threads() { return 0; }
extern "C" int polyfield_count() { return table_size; }
extern "C" const char* polyfield_name(int index) { return table[index].name; }
extern "C" size_t polyfield_size(const Kernel* kernel) { return kernel->size; }
extern "C" const Kernel* polyfield_find(const char* name) {
  for (const Kernel& kernel : table)
    if (!std::strcmp(kernel.name, name)) return &kernel;
  return nullptr;
}

// Tiles one after the other, in the order of the native launcher. With BLOCK_OF_THREADS every thread
// of the block walks all tiles, as one block after the other.
extern "C" void polyfield_launch(const Kernel* kernel, const void* body, int width, int height, int) {
  const auto walk = [&] {
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) {
        kernel->run(body, x, y);
#if defined(BLOCK_OF_THREADS)
        block_barrier.arrive_and_wait();  // the next block reuses the tile's memory
#endif
      }
  };
#if defined(BLOCK_OF_THREADS)
  std::vector<std::thread> block;
  for (int t = 0; t < BLOCK; ++t)
    block.emplace_back([&, t] {
      thread_in_block = t;
      walk();
    });
  for (auto& thread : block) thread.join();
#else
  walk();
#endif
}

// The same from what a CUDA driver gets: one pointer an argument. The body is put together again from
// the members' sizes and offsets, so a wrong pointer, order or count is a wrong result here too.
// Returns 0, or 1 where the members do not lie within the body.
extern "C" int polyfield_launch_arguments(const Kernel* kernel, void** arguments, const size_t* sizes,
                                          const size_t* offsets, int count, int width, int height) {
  std::vector<std::max_align_t> body(kernel->size / sizeof(std::max_align_t) + 1);
  char* bytes = reinterpret_cast<char*>(body.data());
  std::memset(bytes, 0xAB, kernel->size);  // a member left out is not zero by luck
  for (int i = 0; i < count; ++i) {
    if (offsets[i] + sizes[i] > kernel->size) return 1;
    std::memcpy(bytes + offsets[i], arguments[i], sizes[i]);
  }
  polyfield_launch(kernel, bytes, width, height, 0);
  return 0;
}
