// The module's C interface: find a kernel, run its tiles on torch's threads. It links neither Python
// nor torch, so one file serves every version of both. It asks of the C library what glibc has had
// since 2.14: dlsym, exceptions or a guarded static would each want a newer one.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512;
#endif

namespace {

const Kernels& best_kernels() {
#if defined(__x86_64__)
  // POLYFIELD_ISA asks for less than the machine has, for tests; more than it has is not granted.
  const char* wish = getenv("POLYFIELD_ISA");
  const bool avx512 = __builtin_cpu_supports("x86-64-v4"), avx2 = __builtin_cpu_supports("x86-64-v3");
  if (wish && *wish) {
    if (!strcmp(wish, "avx512") && avx512) return kernels_avx512;
    if (!strcmp(wish, "avx2") && avx2) return kernels_avx2;
    return kernels_baseline;
  }
  if (avx512) return kernels_avx512;
  if (avx2) return kernels_avx2;
#endif
  return kernels_baseline;
}

// The OpenMP runtime that torch has already loaded, borrowed and never linked: its threads are warm,
// torch.set_num_threads rules them, and the process holds one pool.
struct OpenMP {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
  int (*max_threads)();
};
OpenMP openmp = {};

struct Job {
  const Kernel* kernel;
  const void* body;
  int width, height, rows_are_owned, chunk;
  long long next = 0;

  // The next of `count` pieces. The compiler's own atomic: no C++ library is needed, on any system.
  long long take(int count) { return __atomic_fetch_add(&next, count, __ATOMIC_RELAXED); }

  void work() {
    if (rows_are_owned) {
      for (long long y; (y = take(1)) < height;)
        for (int x = 0; x < width; ++x) kernel->run(body, x, (int)y);
      return;
    }
    const long long total = (long long)width * height;
    for (long long begin; (begin = take(chunk)) < total;) {
      const long long end = begin + chunk < total ? begin + chunk : total;
      for (long long i = begin; i < end; ++i) kernel->run(body, (int)(i % width), (int)(i / width));
    }
  }
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* polyfield_instruction_set() { return best_kernels().instruction_set; }

// Lends the runtime's GOMP_parallel and omp_get_max_threads, before the first launch; null for none.
EXPORT void polyfield_borrow_threads(decltype(OpenMP::parallel) parallel,
                                     decltype(OpenMP::max_threads) max_threads) {
  openmp = parallel && max_threads ? OpenMP{parallel, max_threads} : OpenMP{};
}

// How many threads a launch uses: torch's count, or 1 where no OpenMP runtime was lent.
EXPORT int polyfield_threads() { return openmp.parallel ? openmp.max_threads() : 1; }

// Whether the module has an OpenMP runtime to borrow.
EXPORT int polyfield_has_threads() { return openmp.parallel != nullptr; }

EXPORT const Kernel* polyfield_find(const char* name) {
  const Kernels& kernels = best_kernels();
  for (int k = 0; k < kernels.count; ++k)
    if (!strcmp(kernels.table[k].name, name)) return &kernels.table[k];
  return nullptr;
}

EXPORT size_t polyfield_size(const Kernel* kernel) { return kernel->size; }

EXPORT int polyfield_count() { return best_kernels().count; }

EXPORT const char* polyfield_name(int index) { return best_kernels().table[index].name; }

// Runs tiles (x, y) for x in [0, width), y in [0, height), row by row. Where rows are owned, one
// thread runs a whole row, its tiles in order: memory that belongs to a row needs no atomics, and
// what is added there is added in the same order for any number of threads.
EXPORT void polyfield_launch(const Kernel* kernel, const void* body, int width, int height,
                             int rows_are_owned) {
  if (width <= 0 || height <= 0) return;
  Job job{kernel, body, width, height, rows_are_owned, 1};
  const int threads = polyfield_threads();
  const long long pieces = rows_are_owned ? height : (long long)width * height;
  // Small enough that no thread is left with the heaviest at the end.
  const long long chunk = pieces / (32LL * threads);
  job.chunk = chunk < 1 ? 1 : chunk > 64 ? 64 : (int)chunk;
  if (threads == 1 || pieces == 1) return job.work();
  openmp.parallel([](void* j) { static_cast<Job*>(j)->work(); }, &job, (unsigned)threads, 0);
}
