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
  #if defined(REVERSE_LANES)
    #define WIDE_GROUPS(g, y0, y1) for (int g = (y1) - 1; g >= (y0); --g)
  #else
    #define WIDE_GROUPS(g, y0, y1) for (int g = (y0); g < (y1); ++g)
  #endif
  // As wide as a register: of wider vectors the compiler makes single numbers.
  #if defined(__AVX512F__)
    #define WIDE_BYTES 64
  #elif defined(__AVX__)
    #define WIDE_BYTES 32
  #else
    #define WIDE_BYTES 16
  #endif
constexpr int WIDE_PARTS = 64 / WIDE_BYTES;
typedef float WidePart __attribute__((vector_size(WIDE_BYTES)));
typedef i32 WideBits __attribute__((vector_size(WIDE_BYTES)));
typedef WidePart WideUnaligned __attribute__((aligned(4), may_alias));
struct Wide {
  WidePart at[WIDE_PARTS];
};
struct WideMask {
  WideBits at[WIDE_PARTS];  // all bits or none
};
FN Wide wide_of(float v) {
  Wide out;
  UNROLL for (int i = 0; i < WIDE_PARTS; ++i) out.at[i] = v - WidePart{};
  return out;
}
  #define WIDE_OPERATOR(op)                                                \
    FN Wide operator op(Wide a, Wide b) {                                  \
      UNROLL for (int i = 0; i < WIDE_PARTS; ++i) a.at[i] = a.at[i] op b.at[i]; \
      return a;                                                            \
    }                                                                      \
    FN Wide operator op(Wide a, float b) { return a op wide_of(b); }       \
    FN Wide operator op(float a, Wide b) { return wide_of(a) op b; }
WIDE_OPERATOR(+)
WIDE_OPERATOR(-)
WIDE_OPERATOR(*)
WIDE_OPERATOR(/)
  #undef WIDE_OPERATOR
FN Wide operator-(Wide a) { return 0.f - a; }
  #define WIDE_COMPARISON(op)                                              \
    FN WideMask operator op(Wide a, Wide b) {                              \
      WideMask out;                                                        \
      UNROLL for (int i = 0; i < WIDE_PARTS; ++i) out.at[i] = a.at[i] op b.at[i]; \
      return out;                                                          \
    }                                                                      \
    FN WideMask operator op(Wide a, float b) { return a op wide_of(b); }
WIDE_COMPARISON(<)
WIDE_COMPARISON(>)
WIDE_COMPARISON(<=)
WIDE_COMPARISON(>=)
  #undef WIDE_COMPARISON
FN WideMask operator&(WideMask a, WideMask b) {
  UNROLL for (int i = 0; i < WIDE_PARTS; ++i) a.at[i] &= b.at[i];
  return a;
}
FN Wide wide_load(const float* p) {
  Wide out;
  UNROLL for (int i = 0; i < WIDE_PARTS; ++i) out.at[i] = *(const WideUnaligned*)(p + WIDE_BYTES / 4 * i);
  return out;
}
FN void wide_store(float* p, Wide v) {
  UNROLL for (int i = 0; i < WIDE_PARTS; ++i) *(WideUnaligned*)(p + WIDE_BYTES / 4 * i) = v.at[i];
}
FN Wide wide_x(int) {
  const float x[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return wide_load(x);
}
FN float wide_y(int group) { return (float)group; }
FN Wide wide_select(WideMask m, Wide a, Wide b) {
  UNROLL for (int i = 0; i < WIDE_PARTS; ++i)
    a.at[i] = (WidePart)((m.at[i] & (WideBits)a.at[i]) | (~m.at[i] & (WideBits)b.at[i]));
  return a;
}
FN bool wide_any(WideMask m) {
  WideBits either = m.at[0];
  UNROLL for (int i = 1; i < WIDE_PARTS; ++i) either |= m.at[i];
#if defined(__AVX__) && !defined(__AVX512F__)
  return __builtin_ia32_movmskps256((WidePart)either) != 0;
#else
  typedef u64 Halves __attribute__((vector_size(WIDE_BYTES)));
  const Halves halves = (Halves)either;
  u64 any = 0;
  UNROLL for (int i = 0; i < WIDE_BYTES / 8; ++i) any |= halves[i];
  return any != 0;
#endif
}
FN Wide wide_absolute(Wide v) {
  UNROLL for (int i = 0; i < WIDE_PARTS; ++i) v.at[i] = (WidePart)((WideBits)v.at[i] & 0x7fffffff);
  return v;
}
// As `exponential`, for x at most 0; below -87.3 the smallest normal number.
FN Wide wide_exponential(Wide x) {
  x = wide_select(x < -87.33f, wide_of(-87.33f), x);
  const Wide shifted = x * 1.44269504f + 12582912.f;  // the integer part lands in the low bits
  const Wide n = shifted - 12582912.f;
  const Wide r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Wide p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f, p = p * r + 5.0000001201e-1f;
  Wide e = (p * r * r + r) + 1.f;
  UNROLL for (int i = 0; i < WIDE_PARTS; ++i)
    e.at[i] *= (WidePart)(((WideBits)shifted.at[i] - 0x4b400000 + 127) << 23);
  return e;
}
FN void wide_sum_to(float* p, Wide v) {
  float number[WIDE], sum = 0;
  wide_store(number, v);
  UNROLL for (int j = 0; j < WIDE; ++j) sum += number[j];
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
