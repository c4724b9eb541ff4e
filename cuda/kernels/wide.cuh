// The 256 pixels of a square of 16 x 16, as many at once as a target takes: a part of a row in a
// register on a CPU, one a thread on a GPU. A group is what is taken at once, row after row.
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
  // The same in two steps: for each part of a row that has columns in [x0, x1), down its rows.
  #define WIDE_PARTS_OF(part, x0, x1) for (int part = 0; part < 1; ++part)
  #define WIDE_DOWN(g, part, y0, y1) WIDE_GROUPS(g, y0, y1)
FN Wide wide_load(const float* p) { return *p; }
FN void wide_store(float* p, Wide v) { *p = v; }
FN Wide wide_of(float v) { return v; }
FN Wide wide_x(int group) { return (float)(group & 15); }
FN float wide_y(int group) { return (float)(group >> 4); }
FN Wide wide_row(int group) { return wide_y(group); }
FN Wide wide_select(WideMask m, Wide a, Wide b) { return m ? a : b; }
FN bool wide_any(WideMask m) { return m; }
FN Wide wide_absolute(Wide v) { return absolute(v); }
FN Wide wide_least(Wide a, Wide b) { return smaller(a, b); }
FN Wide wide_power_of_two(Wide x) { return power_of_two(x); }
FN Wide wide_where(WideMask m, Wide a) { return m ? a : 0.f; }
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
  // As wide as a register: of wider vectors the compiler makes single numbers, and a Gaussian of a
  // few pixels leaves half a row alone.
  #if defined(__AVX512F__)
    #define WIDE_BYTES 64
  #elif defined(__AVX__)
    #define WIDE_BYTES 32
  #else
    #define WIDE_BYTES 16
  #endif
constexpr int WIDE = WIDE_BYTES / 4;
constexpr int WIDE_OF_ROW = WIDE_SIDE / WIDE;
  #if defined(REVERSE_LANES)
    #define WIDE_GROUPS(g, y0, y1) for (int g = WIDE_OF_ROW * (y1) - 1; g >= WIDE_OF_ROW * (y0); --g)
    #define WIDE_DOWN(g, part, y0, y1) \
      for (int g = WIDE_OF_ROW * ((y1) - 1) + (part); g >= WIDE_OF_ROW * (y0); g -= WIDE_OF_ROW)
  #else
    #define WIDE_GROUPS(g, y0, y1) for (int g = WIDE_OF_ROW * (y0); g < WIDE_OF_ROW * (y1); ++g)
    #define WIDE_DOWN(g, part, y0, y1) \
      for (int g = WIDE_OF_ROW * (y0) + (part); g < WIDE_OF_ROW * (y1); g += WIDE_OF_ROW)
  #endif
  #define WIDE_PARTS_OF(part, x0, x1) for (int part = (x0) / WIDE; part * WIDE < (x1); ++part)
typedef float WidePart __attribute__((vector_size(WIDE_BYTES)));
typedef i32 WideBits __attribute__((vector_size(WIDE_BYTES)));
typedef WidePart WideUnaligned __attribute__((aligned(4), may_alias));
struct Wide {
  WidePart at;
};
struct WideMask {
  WideBits at;  // all bits or none
};
FN Wide wide_of(float v) { return {v - WidePart{}}; }
  #define WIDE_OPERATOR(op)                                             \
    FN Wide operator op(Wide a, Wide b) { return {a.at op b.at}; }      \
    FN Wide operator op(Wide a, float b) { return a op wide_of(b); }    \
    FN Wide operator op(float a, Wide b) { return wide_of(a) op b; }
WIDE_OPERATOR(+)
WIDE_OPERATOR(-)
WIDE_OPERATOR(*)
WIDE_OPERATOR(/)
  #undef WIDE_OPERATOR
FN Wide operator-(Wide a) { return 0.f - a; }
  #define WIDE_COMPARISON(op)                                           \
    FN WideMask operator op(Wide a, Wide b) { return {a.at op b.at}; }  \
    FN WideMask operator op(Wide a, float b) { return a op wide_of(b); }
WIDE_COMPARISON(<)
WIDE_COMPARISON(>)
WIDE_COMPARISON(<=)
WIDE_COMPARISON(>=)
  #undef WIDE_COMPARISON
FN WideMask operator&(WideMask a, WideMask b) { return {a.at & b.at}; }
FN Wide wide_load(const float* p) { return {*(const WideUnaligned*)p}; }
FN void wide_store(float* p, Wide v) { *(WideUnaligned*)p = v.at; }
FN Wide wide_x(int group) {
  const float x[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return wide_load(x + WIDE * (group % WIDE_OF_ROW));
}
FN float wide_y(int group) { return (float)(group / WIDE_OF_ROW); }
// The same in every place: read, which costs less than a conversion.
FN Wide wide_row(int group) {
  const float y[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return wide_of(y[group / WIDE_OF_ROW]);
}
FN Wide wide_select(WideMask m, Wide a, Wide b) {
  return {m.at ? a.at : b.at};
}
// a, or 0 where it is not so.
FN Wide wide_where(WideMask m, Wide a) { return {(WidePart)(m.at & (WideBits)a.at)}; }
FN bool wide_any(WideMask m) {
  #if defined(__AVX__) && !defined(__AVX512F__)
  return __builtin_ia32_movmskps256((WidePart)m.at) != 0;
  #else
  typedef u64 Halves __attribute__((vector_size(WIDE_BYTES)));
  const Halves halves = (Halves)m.at;
  u64 any = 0;
  UNROLL for (int i = 0; i < WIDE_BYTES / 8; ++i) any |= halves[i];
  return any != 0;
  #endif
}
FN Wide wide_absolute(Wide v) { return {(WidePart)((WideBits)v.at & 0x7fffffff)}; }
FN Wide wide_least(Wide a, Wide b) {
  #if defined(__AVX__) && !defined(__AVX512F__)
  return {__builtin_ia32_minps256(a.at, b.at)};
  #else
  return {a.at < b.at ? a.at : b.at};
  #endif
}
// As `power_of_two`; of what lies beyond -120 and 120 it gives no number that means anything.
FN Wide wide_power_of_two(Wide x) {
  const Wide shifted = x + 12582912.f, r = x - (shifted - 12582912.f);
  Wide p = 1.3264727e-3f * r + 9.6715130e-3f;
  p = p * r + 5.5507336e-2f, p = p * r + 2.4022242e-1f, p = p * r + 6.9314700e-1f;
  const Wide e = p * r + 1.f;
  return {(WidePart)((WideBits)e.at + ((WideBits)shifted.at << 23))};
}
FN void wide_sum_to(float* p, Wide v) {
  float number[WIDE], sum = 0;
  wide_store(number, v);
  UNROLL for (int j = 0; j < WIDE; ++j) sum += number[j];
  *p += sum;
}
#endif

// Adds the sums of N vectors to p[0], ..., p[N - 1].
template <int N>
FN void wide_sums_to(float* p, const Wide* v) {
  int done = 0;
#if defined(__AVX__) && !defined(__AVX512F__) && !defined(BLOCK_OF_THREADS)
  typedef float Four __attribute__((vector_size(16)));
  typedef Four FourUnaligned __attribute__((aligned(4), may_alias));
  // Four at a time, by sums of neighbours: stored, each sum would wait for its numbers.
  UNROLL for (; done + 4 <= N; done += 4) {
    const WidePart two = __builtin_ia32_haddps256(v[done].at, v[done + 1].at);
    const WidePart more = __builtin_ia32_haddps256(v[done + 2].at, v[done + 3].at);
    const WidePart halves = __builtin_ia32_haddps256(two, more);
    const Four low = {halves[0], halves[1], halves[2], halves[3]};
    const Four high = {halves[4], halves[5], halves[6], halves[7]};
    *(FourUnaligned*)(p + done) += low + high;
  }
#endif
  UNROLL for (int k = done; k < N; ++k) wide_sum_to(p + k, v[k]);
}

// As WIDE_GROUPS, for any number of rows of 16; where a group's first number lies in rows that are
// so far apart.
#if defined(__CUDACC__) || defined(BLOCK_OF_THREADS)
  #define WIDE_ROWS(g, rows) LANES(g, 16 * (rows))
FN int wide_at(int group, int stride) { return (group >> 4) * stride + (group & 15); }
#else
  #define WIDE_ROWS(g, rows) WIDE_GROUPS(g, 0, rows)
FN int wide_at(int group, int stride) { return group / WIDE_OF_ROW * stride + group % WIDE_OF_ROW * WIDE; }
#endif
