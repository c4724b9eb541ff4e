// One kernel body, three meanings. A body is a struct of arguments whose call operator computes one
// tile of the work; how tiles are divided among threads is the launcher's business.
//   LANES(i, n)  runs its block once for every i in [0, n), in no promised order.
//   LANES_IN_ORDER(i, n) is for lanes that add to the same memory: the CPU takes them one by one,
//                where LANES promises the compiler that no two of them meet.
//   SUM(i, n, s, ...)  adds to s, ... in a loop over i in [0, n) whose order the compiler may choose.
//   UNROLL       before a loop of constant length in LANES: the CPU's compiler then vectorises lanes.
//   SYNC()       stands between a phase that writes tile memory and one that reads it.
//   TILE         marks tile memory.
//   KERNEL(Body) names a body that launchers may run; build and Python read these lines.
//
//              CPU                                  GPU                      BLOCK_OF_THREADS (tests)
//   a tile     one call on one thread               one thread block         BLOCK real threads
//   LANES      a loop that the compiler vectorises  threads share the lanes  threads share the lanes
//   TILE       the stack                            __shared__               static
//   add_to     += (the launcher owns the memory)    atomicAdd                atomic
//
// In BLOCK_OF_THREADS a missing SYNC, or a plain write where add_to belongs, is a data race that
// ThreadSanitizer reports without a GPU. REVERSE_LANES runs the CPU's lanes backwards: a result that
// changes has lost a SYNC.
#pragma once
#define KERNEL(...)

#if defined(__CUDACC__)
  typedef unsigned char u8;
  typedef int i32;
  typedef unsigned int u32;
  typedef long long i64;
  typedef unsigned long long u64;
  #define FN __device__ __forceinline__
  #define TILE __shared__
  #define SYNC() __syncthreads()
  #define LANES(i, n) for (int i = threadIdx.x; i < (n); i += blockDim.x)
  #define LANES_IN_ORDER(i, n) LANES(i, n)
  #define SUM(i, n, ...) for (int i = 0; i < (n); ++i)
  #define UNROLL _Pragma("unroll")
FN void fetch_early(const float*) {}
FN void add_to(float* p, float v) { atomicAdd(p, v); }
FN void add_to(int* p, int v) { atomicAdd(p, v); }
// The larger of two floats that are not negative: their bits order like whole numbers. A negative
// number, whose first bit is set, stays as it is.
FN void max_to(float* p, float v) { atomicMax((u32*)p, __float_as_uint(v)); }
FN float exponential(float x) { return expf(x); }
FN float power_of_two(float x) { return exp2f(x); }
FN float logarithm(float x) { return logf(x); }
FN float square_root(float x) { return sqrtf(x); }
FN double square_root(double x) { return sqrt(x); }
FN void sine_and_cosine(float x, float& sine, float& cosine) { sincosf(x, &sine, &cosine); }
FN float round_down(float x) { return floorf(x); }
FN float absolute(float x) { return fabsf(x); }
FN double absolute(double x) { return fabs(x); }
FN float larger(float a, float b) { return fmaxf(a, b); }
FN float smaller(float a, float b) { return fminf(a, b); }
FN float bits_to_float(u32 b) { return __uint_as_float(b); }
FN u32 float_to_bits(float f) { return __float_as_uint(f); }
#else
  #include <stddef.h>
  #include <stdint.h>
typedef uint8_t u8;
typedef int32_t i32;
typedef uint32_t u32;
typedef int64_t i64;
typedef uint64_t u64;
  #define FN inline __attribute__((always_inline))
  #define PRAGMA(text) _Pragma(#text)
  #define SUM(i, n, ...) \
    PRAGMA(omp simd reduction(+ : __VA_ARGS__)) for (int i = 0; i < (n); ++i)
  #define UNROLL _Pragma("GCC unroll 16")
  #if defined(BLOCK_OF_THREADS)
    #define TILE static
    #define SYNC() block_barrier.arrive_and_wait()
    #define LANES(i, n) for (int i = thread_in_block; i < (n); i += BLOCK)
    #define LANES_IN_ORDER(i, n) LANES(i, n)
FN void add_to(float* p, float v) {
  std::atomic_ref<float>(*p).fetch_add(v, std::memory_order_relaxed);
}
FN void add_to(int* p, int v) { std::atomic_ref<int>(*p).fetch_add(v, std::memory_order_relaxed); }
FN void max_to(float* p, float v) {
  std::atomic_ref<u32> shared(*(u32*)p);
  u32 seen = shared.load(std::memory_order_relaxed), mine = __builtin_bit_cast(u32, v);
  while (seen < mine && !shared.compare_exchange_weak(seen, mine, std::memory_order_relaxed)) {
  }
}
  #else
    #define TILE alignas(64)
    #define SYNC() ((void)0)
    #if defined(REVERSE_LANES)
      #define LANES(i, n) for (int i = (n) - 1; i >= 0; --i)
      #define LANES_IN_ORDER(i, n) LANES(i, n)
    #else
      #define LANES(i, n) _Pragma("GCC ivdep") for (int i = 0; i < (n); ++i)
      #define LANES_IN_ORDER(i, n) for (int i = 0; i < (n); ++i)
    #endif
FN void add_to(float* p, float v) { *p += v; }
FN void add_to(int* p, int v) { *p += v; }
FN void max_to(float* p, float v) { *p = *p < 0.f || v < *p ? *p : v; }
  #endif
// Asks for memory that is read soon; a GPU hides the wait by its many threads.
FN void fetch_early(const float* p) { __builtin_prefetch(p); }
FN float bits_to_float(u32 b) { return __builtin_bit_cast(float, b); }
FN u32 float_to_bits(float f) { return __builtin_bit_cast(u32, f); }
FN float square_root(float x) { return __builtin_sqrtf(x); }
FN double square_root(double x) { return __builtin_sqrt(x); }
FN float round_down(float x) { return __builtin_floorf(x); }
FN float absolute(float x) { return __builtin_fabsf(x); }
FN double absolute(double x) { return __builtin_fabs(x); }
FN float larger(float a, float b) { return a > b ? a : b; }
FN float smaller(float a, float b) { return a < b ? a : b; }
// Of normal numbers above 0, without a call: the C library's asks for a newer system than we do. At
// most 2 units in the last place off.
FN float logarithm(float x) {
  const u32 bits = float_to_bits(x);
  const bool high = (bits & 0x7fffff) > 0x3504f3;  // beyond the root of 2
  const float e = (float)((int)(bits >> 23) - 127 + high);
  const float r = bits_to_float((bits & 0x7fffff) | (high ? 0x3f000000u : 0x3f800000u)) - 1, s = r * r;
  float p = 7.0376836292e-2f * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f, p = p * r - 1.2420140846e-1f, p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f, p = p * r + 2.0000714765e-1f, p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  return (r + ((p * r * s - 2.12194440e-4f * e) - 0.5f * s)) + 0.693359375f * e;
}
// Without a call into the C library, so that a loop over lanes becomes vector code. At most 2 units
// in the last place off; NaN stays NaN; below -87.3 the smallest normal number, not 0.
FN float exponential(float x) {
  x = x < -87.33f ? -87.33f : x > 88.72f ? 88.72f : x;
  const float shifted = x * 1.44269504f + 12582912.f;  // the integer part lands in the low bits
  const float n = shifted - 12582912.f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f, p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f, p = p * r + 5.0000001201e-1f;
  const float e = (p * r * r + r) + 1.f;
  // 2^n in two halves: n = 128 has no exponent bits of its own.
  const int whole = (int)n, half = whole >> 1;
  return e * bits_to_float((u32)(half + 127) << 23) * bits_to_float((u32)(whole - half + 127) << 23);
}
// 2^x for x from -120 to 120, 3e-7 of it off.
FN float power_of_two(float x) {
  const float shifted = x + 12582912.f, r = x - (shifted - 12582912.f);
  float p = 1.3264727e-3f;
  p = p * r + 9.6715130e-3f, p = p * r + 5.5507336e-2f, p = p * r + 2.4022242e-1f, p = p * r + 6.9314700e-1f;
  // The integer part, which landed in the low bits, is added to the exponent.
  return bits_to_float(float_to_bits(p * r + 1.f) + (float_to_bits(shifted) << 23));
}
// Also without a call. For |x| up to 8192: 2e-7 off, and as much as x itself is rounded.
FN void sine_and_cosine(float x, float& sine, float& cosine) {
  const float shifted = x * 0.636619772f + 12582912.f;  // quarters of a turn, to the nearest
  const float n = shifted - 12582912.f;
  const float r = ((x - n * 1.5703125f) - n * 4.837512969970703e-4f) - n * 7.54978995489188216e-8f;
  const float s = r * r;
  const float odd = ((-1.9515295891e-4f * s + 8.3321608736e-3f) * s - 1.6666654611e-1f) * s * r + r;
  const float even = ((2.443315711809948e-5f * s - 1.388731625493765e-3f) * s + 4.166664568298827e-2f) * s * s -
                     0.5f * s + 1.f;
  const u32 quarter = float_to_bits(shifted);
  const u32 swap = 0u - (quarter & 1);
  const u32 a = (float_to_bits(odd) & ~swap) | (float_to_bits(even) & swap);
  const u32 b = (float_to_bits(even) & ~swap) | (float_to_bits(odd) & swap);
  sine = bits_to_float(a ^ (quarter & 2) << 30);
  cosine = bits_to_float(b ^ ((quarter + 1) & 2) << 30);
}
#endif

// F numbers that lie side by side in memory, in one register where the machine has such.
#if defined(__CUDACC__) || defined(BLOCK_OF_THREADS)
template <int F>
struct Row {
  float at[F];
  static FN Row zero() { return {}; }
  static FN Row load(const float* p) {
    Row row;
    UNROLL for (int j = 0; j < F; ++j) row.at[j] = p[j];
    return row;
  }
  FN void add(float weight, const float* p) {
    UNROLL for (int j = 0; j < F; ++j) at[j] += weight * p[j];
  }
  FN void store(float* p) const {
    UNROLL for (int j = 0; j < F; ++j) p[j] = at[j];
  }
  FN Row times(Row other) const {
    UNROLL for (int j = 0; j < F; ++j) other.at[j] *= at[j];
    return other;
  }
  FN Row plus(Row other) const {
    UNROLL for (int j = 0; j < F; ++j) other.at[j] += at[j];
    return other;
  }
  FN float total() const {
    float sum = 0;
    UNROLL for (int j = 0; j < F; ++j) sum += at[j];
    return sum;
  }
};
template <int F>
FN void add_row_to(float* p, float weight, Row<F> row) {
  UNROLL for (int j = 0; j < F; ++j) add_to(p + j, weight * row.at[j]);
}
#else
template <int F>
struct Row {
  typedef float Numbers __attribute__((vector_size(4 * F)));
  typedef float Unaligned __attribute__((vector_size(4 * F), aligned(4), may_alias));
  Numbers at;
  static FN Row zero() { return {Numbers{}}; }
  static FN Row load(const float* p) { return {(Numbers) * (const Unaligned*)p}; }
  FN void add(float weight, const float* p) { at += weight * *(const Unaligned*)p; }
  FN void store(float* p) const { *(Unaligned*)p = at; }
  FN Row times(Row other) const { return {at * other.at}; }
  FN Row plus(Row other) const { return {at + other.at}; }
  FN float total() const {
    float number[F], sum = 0;
    store(number);
    UNROLL for (int j = 0; j < F; ++j) sum += number[j];
    return sum;
  }
};
template <int F>
FN void add_row_to(float* p, float weight, Row<F> row) {
  typedef typename Row<F>::Unaligned Unaligned;
  *(Unaligned*)p = *(Unaligned*)p + weight * row.at;
}
#endif

FN int ceil_divide(int a, int b) { return (a + b - 1) / b; }

// Counter-based random numbers: every draw is a function of (seed, stream, index) and nothing else,
// so a step can be replayed and resume needs no generator state. Philox-like mixing in 32 bits:
// three rounds of the murmur finaliser over the words (a bijection of the counter for each key).
FN u32 mix_bits(u32 h) {
  h ^= h >> 16, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
  return h;
}
FN u32 random_bits(u32 seed, u32 stream, u32 index) {
  return mix_bits(mix_bits(mix_bits(index + 0x9e3779b9u) ^ (stream * 0x9e3779b1u)) ^ seed);
}
FN float random_unit(u32 seed, u32 stream, u32 index) {  // in [0, 1), 24 bits
  return (float)(random_bits(seed, stream, index) >> 8) * 5.9604645e-8f;
}
