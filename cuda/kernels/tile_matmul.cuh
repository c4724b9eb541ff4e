// The matrix product of tiles: c[i][j] = (or +=) the sum over k of a[i, k] * b[k][j]. The rows of b
// and c are contiguous; a is read one number at a time and may have any steps, so that its transpose
// costs nothing. CPU: a block of c stays in vector registers while k runs; GPU: lanes over c.
#pragma once
#include "tile.cuh"

struct TileMatrix {  // rows contiguous, `step` numbers from one row to the next
  float* at;
  int step;
};
struct TileFactor {  // a[i, k] = at[i * row_step + k * inner_step]
  const float* at;
  int row_step;
  int inner_step;
};

#if defined(__CUDACC__) || defined(BLOCK_OF_THREADS)

// Four rows a lane: each number of b that is read serves four products.
template <bool ADD>
FN void tile_matmul(TileMatrix c, TileFactor a, const float* b, int b_step, int rows, int inner,
                    int columns) {
  constexpr int ROWS = 4;
  LANES(lane, ceil_divide(rows, ROWS) * columns) {
    const int first = lane / columns * ROWS, j = lane % columns;
    const int count = rows - first < ROWS ? rows - first : ROWS;
    float sum[ROWS] = {};
    const float* row[ROWS];
    for (int r = 0; r < ROWS; ++r)  // rows past the end repeat the last one, and are not written
      row[r] = a.at + (size_t)(first + (r < count ? r : count - 1)) * a.row_step;
    for (int k = 0; k < inner; ++k) {
      const float factor = b[(size_t)k * b_step + j];
      for (int r = 0; r < ROWS; ++r) sum[r] += row[r][(size_t)k * a.inner_step] * factor;
    }
    for (int r = 0; r < ROWS; ++r)
      if (r < count) {
        float* to = c.at + (size_t)(first + r) * c.step + j;
        if (ADD)
          add_to(to, sum[r]);
        else
          *to = sum[r];
      }
  }
}

#else

  // Registers bound the block: rows * vectors sums, one row of b, one broadcast number of a.
  #if defined(__AVX512F__)
constexpr int MATMUL_LANES = 16, MATMUL_VECTORS = 4;
  #elif defined(__AVX__)
constexpr int MATMUL_LANES = 8, MATMUL_VECTORS = 2;
  #else
constexpr int MATMUL_LANES = 4, MATMUL_VECTORS = 2;
  #endif
constexpr int MATMUL_ROWS = 6, MATMUL_PANEL = 128;
typedef float MatmulVector
    __attribute__((vector_size(4 * MATMUL_LANES), aligned(4), may_alias));

// lanes: how many of the (then only) vector's columns exist in c.
template <int ROWS, int VECTORS>
__attribute__((noinline)) void matmul_block(float* c, int c_step, TileFactor a, const float* b,
                                            int b_step, int inner, bool add, int lanes) {
  MatmulVector sum[ROWS][VECTORS] = {};
  for (int k = 0; k < inner; ++k) {
    MatmulVector factor[VECTORS];
  #pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v)
      factor[v] = *(const MatmulVector*)(b + (size_t)k * b_step + v * MATMUL_LANES);
  #pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const float number = a.at[(size_t)r * a.row_step + (size_t)k * a.inner_step];
  #pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sum[r][v] += number * factor[v];
    }
  }
  if (lanes == MATMUL_LANES) {
  #pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
  #pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) {
        MatmulVector* to = (MatmulVector*)(c + (size_t)r * c_step + v * MATMUL_LANES);
        *to = add ? *to + sum[r][v] : sum[r][v];
      }
    }
    return;
  }
  #pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    float numbers[MATMUL_LANES];
    *(MatmulVector*)numbers = sum[r][0];
    float* to = c + (size_t)r * c_step;
    for (int j = 0; j < lanes; ++j) to[j] = add ? to[j] + numbers[j] : numbers[j];
  }
}

template <int ROWS, int VECTORS>
inline void matmul_last_rows(float* c, int c_step, TileFactor a, const float* b, int b_step, int rows,
                             int inner, bool add, int lanes) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS)
      matmul_block<ROWS, VECTORS>(c, c_step, a, b, b_step, inner, add, lanes);
    else
      matmul_last_rows<ROWS - 1, VECTORS>(c, c_step, a, b, b_step, rows, inner, add, lanes);
  }
}

template <int VECTORS>
inline void matmul_columns(float* c, int c_step, TileFactor a, const float* b, int b_step, int rows,
                           int inner, bool add, int lanes = MATMUL_LANES) {
  for (; rows >= MATMUL_ROWS; rows -= MATMUL_ROWS) {
    matmul_block<MATMUL_ROWS, VECTORS>(c, c_step, a, b, b_step, inner, add, lanes);
    c += (size_t)MATMUL_ROWS * c_step, a.at += (size_t)MATMUL_ROWS * a.row_step;
  }
  matmul_last_rows<MATMUL_ROWS - 1, VECTORS>(c, c_step, a, b, b_step, rows, inner, add, lanes);
}

template <bool ADD>
inline void tile_matmul(TileMatrix c, TileFactor a, const float* b, int b_step, int rows, int inner,
                        int columns) {
  constexpr int GROUP = MATMUL_VECTORS * MATMUL_LANES;
  int j = 0;
  for (; j + GROUP <= columns; j += GROUP)
    matmul_columns<MATMUL_VECTORS>(c.at + j, c.step, a, b + j, b_step, rows, inner, ADD);
  for (; MATMUL_VECTORS > 2 && j + 2 * MATMUL_LANES <= columns; j += 2 * MATMUL_LANES)
    matmul_columns<2>(c.at + j, c.step, a, b + j, b_step, rows, inner, ADD);
  for (; j + MATMUL_LANES <= columns; j += MATMUL_LANES)
    matmul_columns<1>(c.at + j, c.step, a, b + j, b_step, rows, inner, ADD);
  const int lanes = columns - j;
  if (lanes == 0) return;
  // Part of a vector: the columns of b are copied out, because a whole vector would end past b.
  alignas(64) float panel[MATMUL_PANEL * MATMUL_LANES];
  for (int from = 0; from < inner || from == 0; from += MATMUL_PANEL) {
    const int count = inner - from < MATMUL_PANEL ? inner - from : MATMUL_PANEL;
    for (int k = 0; k < count; ++k)
      for (int l = 0; l < MATMUL_LANES; ++l)
        panel[k * MATMUL_LANES + l] = l < lanes ? b[(size_t)(from + k) * b_step + j + l] : 0.f;
    const TileFactor part = {a.at + (size_t)from * a.inner_step, a.row_step, a.inner_step};
    matmul_columns<1>(c.at + j, c.step, part, panel, MATMUL_LANES, rows, count, ADD || from, lanes);
  }
}

#endif
