// The 256 pixels of a square of 16 x 16, as many at once as a target takes: a row of 16 in a vector
// on a CPU, one a thread on a GPU. A group is what is taken at once, row after row.
#pragma once
#include "tile.cuh"

constexpr int WIDE_SIDE = 16;
constexpr int WIDE_PIXELS = 256;

#if defined(__CUDACC__) || defined(BLOCK_OF_THREADS)
constexpr int WIDE = 1;
typedef float Wide;
typedef bool WideMask;
  // Runs its block for those groups whose row is in [y0, y1).
  #define WIDE_GROUPS(g, y0, y1) \
    LANES(g, WIDE_PIXELS) if ((g >> 4) >= (y0) && (g >> 4) < (y1))
FN Wide wide_load(const float* p) { return *p; }
FN void wide_store(float* p, Wide v) { *p = v; }
FN Wide wide_of(float v) { return v; }
FN Wide wide_x(int group) { return (float)(group & 15); }
FN float wide_y(int group) { return (float)(group >> 4); }
FN Wide wide_select(WideMask m, Wide a, Wide b) { return m ? a : b; }
FN bool wide_any(WideMask m) { return m; }
FN Wide wide_absolute(Wide v) { return absolute(v); }
FN Wide wide_exponential(Wide x) { return exponential(x); }
  #if defined(__CUDACC__)
// Adds what all threads of the block have; each of them has to call it.
FN void wide_sum_to(float* p, Wide v) {
  for (int by = 16; by; by >>= 1) v += __shfl_down_sync(0xffffffffu, v, by);
  if ((threadIdx.x & 31) == 0) add_to(p, v);
}
  #else
FN void wide_sum_to(float* p, Wide v) { add_to(p, v); }
  #endif
#else
constexpr int WIDE = WIDE_SIDE;
typedef float Wide __attribute__((vector_size(64)));
typedef i32 WideMask __attribute__((vector_size(64)));  // all bits or none
  #if defined(REVERSE_LANES)
    #define WIDE_GROUPS(g, y0, y1) for (int g = (y1) - 1; g >= (y0); --g)
  #else
    #define WIDE_GROUPS(g, y0, y1) for (int g = (y0); g < (y1); ++g)
  #endif
typedef Wide WideUnaligned __attribute__((aligned(4), may_alias));
FN Wide wide_load(const float* p) { return *(const WideUnaligned*)p; }
FN void wide_store(float* p, Wide v) { *(WideUnaligned*)p = v; }
FN Wide wide_of(float v) { return v - Wide{}; }
FN Wide wide_x(int) { return Wide{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
FN float wide_y(int group) { return (float)group; }
FN Wide wide_select(WideMask m, Wide a, Wide b) { return (Wide)((m & (WideMask)a) | (~m & (WideMask)b)); }
FN bool wide_any(WideMask m) {
  typedef u64 Half __attribute__((vector_size(32)));
  typedef u64 Quarter __attribute__((vector_size(16)));
  Half half[2];
  __builtin_memcpy(half, &m, sizeof half);
  const Half either = half[0] | half[1];
  Quarter quarter[2];
  __builtin_memcpy(quarter, &either, sizeof quarter);
  const Quarter last = quarter[0] | quarter[1];
  return (last[0] | last[1]) != 0;
}
FN Wide wide_absolute(Wide v) { return (Wide)((WideMask)v & 0x7fffffff); }
// As `exponential`, for x at most 0; below -87.3 the smallest normal number.
FN Wide wide_exponential(Wide x) {
  x = wide_select(x < -87.33f, wide_of(-87.33f), x);
  const Wide shifted = x * 1.44269504f + 12582912.f;  // the integer part lands in the low bits
  const Wide n = shifted - 12582912.f;
  const Wide r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Wide p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f, p = p * r + 5.0000001201e-1f;
  const Wide e = (p * r * r + r) + 1.f;
  return e * (Wide)(((WideMask)shifted - 0x4b400000 + 127) << 23);
}
FN void wide_sum_to(float* p, Wide v) {
  float sum = 0;
  UNROLL for (int j = 0; j < WIDE; ++j) sum += v[j];
  *p += sum;
}
#endif

// As WIDE_GROUPS, for any number of rows of 16; where a group's first number lies in rows that are
// so far apart.
#if defined(__CUDACC__) || defined(BLOCK_OF_THREADS)
  #define WIDE_ROWS(g, rows) LANES(g, 16 * (rows))
FN int wide_at(int group, int stride) { return (group >> 4) * stride + (group & 15); }
#else
  #define WIDE_ROWS(g, rows) WIDE_GROUPS(g, 0, rows)
FN int wide_at(int group, int stride) { return group * stride; }
#endif
