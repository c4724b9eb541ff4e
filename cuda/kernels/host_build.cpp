// Kernels in one shared library for tests, compiled on the spot: with -DBLOCK_OF_THREADS=n a tile is a
// GPU block played by n real threads, with -DREVERSE_LANES the CPU's lanes run backwards. The lists of
// sources and kernels are written beside it by host_builds.py.
#if defined(__linux__)
  #include <linux/futex.h>
  #include <sys/syscall.h>
  #include <unistd.h>
#endif

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

namespace {
#if defined(BLOCK_OF_THREADS)
// Of this library alone, as the tiles' memory is: two copies of it play two blocks at the same time.
constexpr int BLOCK = BLOCK_OF_THREADS;  // threads that share a tile

// Orders what the block does before it with what it does after it, and nothing else. std::barrier's
// waiters share counters with those of other blocks, and a mutex orders whoever wakes up late after
// the others' next steps: both hide races. So a waiter sleeps by the bare system call, or not at all.
struct BlockBarrier {
  std::atomic<int> arrived = 0;
  std::atomic<unsigned> turn = 0;

  void arrive_and_wait() {
    const unsigned mine = turn.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == BLOCK - 1) {
      arrived.store(0, std::memory_order_relaxed);
      turn.store(mine + 1, std::memory_order_release);
  #if defined(__linux__)
      syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, BLOCK, nullptr, nullptr, 0);
  #endif
      return;
    }
    while (turn.load(std::memory_order_acquire) == mine) {
  #if defined(__linux__)
      syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, mine, nullptr, nullptr, 0);
  #else
      std::this_thread::yield();
  #endif
    }
  }
};
BlockBarrier block_barrier;
thread_local int thread_in_block = 0;
#endif

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

// How many threads play a block; 0 in a build of the CPU meaning.
extern "C" int polyfield_block_threads() {
#if defined(BLOCK_OF_THREADS)
  return BLOCK;
#else
  return 0;
#endif
}

// Every parts-th tile from the part-th on, one after the other in the order of the native launcher; of
// the CPU meaning whole rows where they are owned. With BLOCK_OF_THREADS every thread of the block
// walks all of them, as one block after the other.
extern "C" void polyfield_launch_part(const Kernel* kernel, const void* body, int width, int height,
                                      int rows_are_owned, int part, int parts) {
  const bool by_row = rows_are_owned && !polyfield_block_threads();
  const auto walk = [&] {
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) {
        if ((by_row ? y : (long long)y * width + x) % parts != part) continue;
        kernel->run(body, x, y);
#if defined(BLOCK_OF_THREADS)
        block_barrier.arrive_and_wait();  // the next block reuses the tile's memory
#endif
      }
  };
#if defined(BLOCK_OF_THREADS)
  static std::mutex one_block;  // there is one tile's memory and one barrier in this library
  const std::lock_guard held(one_block);
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

extern "C" void polyfield_launch(const Kernel* kernel, const void* body, int width, int height, int) {
  polyfield_launch_part(kernel, body, width, height, 0, 0, 1);
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
