// Multiresolution hash encoding (instant-ngp): features, their gradient to table and position, and
// the derivatives of that gradient. One level is a grid of nodes over the unit cube; a point takes
// the weighted features of the 2^D nodes around it. With a tangent q [n, D], the weights are replaced
// by their derivative along q: the same three bodies then give the second order.
#pragma once
#include "adam.cuh"
#include "tile.cuh"

constexpr int HASH_POINTS = 128;  // in one tile

struct HashLevel {
  float scale;  // cells along an axis
  u32 side;     // nodes along an axis
  u32 size;     // entries of this level; a power of two where hashed
  u32 offset;   // its first entry in the table
  u32 hashed;
};

FN HashLevel hash_level(const float* scales, const u32* shapes, int level) {
  const u32* s = shapes + 4 * level;
  return {scales[level], s[0], s[1], s[2], s[3]};
}

FN u32 hash_prime(int axis) {
  return axis == 0 ? 1u : axis == 1 ? 2654435761u : axis == 2 ? 805459861u : 3674653429u;
}

// Where a point lies: per axis, what each of the two nodes adds to the index, and the upper node's
// weight with its first and second derivative by the position.
template <int D>
struct HashCell {
  u32 low[D];
  u32 high[D];
  float at[D];
  float slope[D];
  float bend[D];
};

template <int D>
FN HashCell<D> hash_cell(const float* x, HashLevel level, int smooth) {
  HashCell<D> cell;
  u32 stride = 1;
  UNROLL for (int d = 0; d < D; ++d) {
    const float p = larger(smaller(x[d], 1.f), 0.f) * level.scale + 0.5f;
    const int node = (int)p;
    const float f = p - node;
    const u32 step = level.hashed ? hash_prime(d) : stride;
    cell.low[d] = (u32)node * step, cell.high[d] = cell.low[d] + step;
    cell.at[d] = smooth ? f * f * (3 - 2 * f) : f;
    cell.slope[d] = smooth ? level.scale * 6 * f * (1 - f) : level.scale;
    cell.bend[d] = smooth ? level.scale * level.scale * (6 - 12 * f) : 0;
    stride *= level.side;
  }
  return cell;
}

// The entry of a corner (bit d of its number: upper node on axis d). Where a level is not hashed, the
// node past the last one continues in the next row, and at the end of the table at its start.
template <int D>
FN u32 hash_index(const HashCell<D>& cell, int corner, HashLevel level) {
  u32 sum = 0, mix = 0;
  UNROLL for (int d = 0; d < D; ++d) {
    const u32 part = corner >> d & 1 ? cell.high[d] : cell.low[d];
    sum += part, mix ^= part;
  }
  const u32 index = level.hashed ? mix & (level.size - 1) : sum;
  return index >= level.size ? index - level.size : index;
}

// The weight of a corner, differentiated by the axes k and m (-1: not).
template <int D>
FN float hash_weight(const HashCell<D>& cell, int corner, int k = -1, int m = -1) {
  float weight = 1;
  UNROLL for (int d = 0; d < D; ++d) {
    const bool upper = corner >> d & 1;
    const int order = (d == k) + (d == m);
    const float part = order == 0 ? cell.at[d] : order == 1 ? cell.slope[d] : cell.bend[d];
    weight *= upper ? part : order == 0 ? 1 - part : -part;
  }
  return weight;
}

template <int D>
FN float hash_weight_along(const HashCell<D>& cell, int corner, const float* tangent) {
  float weight = 0;
  UNROLL for (int k = 0; k < D; ++k) weight += tangent[k] * hash_weight(cell, corner, k);
  return weight;
}

// The corners of a tile's points: their entries within the level, and their weights.
template <int D>
struct HashCorners {
  u32 index[1 << D][HASH_POINTS];
  float weight[1 << D][HASH_POINTS];
};

template <int D, bool HASHED, bool SMOOTH>
FN void hash_corners_of(HashCorners<D>& to, const float* x, int count, HashLevel level) {
  u32* const index = to.index[0];
  float* const weight = to.weight[0];
  LANES(i, count) {
    u32 at[1 << D];
    float part[1 << D];
    at[0] = 0, part[0] = 1;
    u32 step = 1;
    UNROLL for (int d = 0; d < D; ++d) {
      const float p = larger(smaller(x[D * i + d], 1.f), 0.f) * level.scale + 0.5f;
      const int node = (int)p;
      const float f = p - node, upper = SMOOTH ? f * f * (3 - 2 * f) : f;
      if (HASHED) step = hash_prime(d);
      const u32 low = (u32)node * step, high = low + step;
      UNROLL for (int c = (1 << d) - 1; c >= 0; --c) {
        at[c | 1 << d] = HASHED ? at[c] ^ high : at[c] + high;
        at[c] = HASHED ? at[c] ^ low : at[c] + low;
        part[c | 1 << d] = part[c] * upper, part[c] *= 1 - upper;
      }
      step *= level.side;
    }
    UNROLL for (int c = 0; c < 1 << D; ++c) {
      const u32 past = at[c] - level.size;
      index[c * HASH_POINTS + i] = HASHED ? at[c] & (level.size - 1) : at[c] < level.size ? at[c] : past;
      weight[c * HASH_POINTS + i] = part[c];
    }
  }
}

// With a tangent, weights are their derivative along it.
template <int D>
FN void hash_corners(HashCorners<D>& to, const float* x, const float* tangent, int count,
                     HashLevel level, int smooth) {
  if (!tangent) {
    if (level.hashed)
      smooth ? hash_corners_of<D, true, true>(to, x, count, level)
             : hash_corners_of<D, true, false>(to, x, count, level);
    else
      smooth ? hash_corners_of<D, false, true>(to, x, count, level)
             : hash_corners_of<D, false, false>(to, x, count, level);
    return;
  }
  LANES(i, count) {
    const HashCell<D> cell = hash_cell<D>(x + D * i, level, smooth);
    UNROLL for (int c = 0; c < 1 << D; ++c) {
      to.index[c][i] = hash_index(cell, c, level);
      to.weight[c][i] = hash_weight_along(cell, c, tangent + D * i);
    }
  }
}

// Asks for the entries of a tile's corners. The upper node of the first axis lies beside the lower one.
template <int D, int F>
FN void hash_fetch_early(const HashCorners<D>& corners, const float* features, int count) {
  LANES_IN_ORDER(i, count) {
    UNROLL for (int c = 0; c < 1 << D; c += 2) fetch_early(features + (size_t)F * corners.index[c][i]);
  }
}

// x [n, D], table [entries, F], tangent [n, D] or null -> out: features of a level, of a point, at
// level_stride and point_stride. Row y does the levels from y * per_row: one after the other over all
// points where the table is larger than the caches, all of them tile by tile where it is not.
template <int D, int F>
struct HashEncode {
  const float* x;
  const float* table;
  const float* tangent;
  float* out;
  const float* scales;
  const u32* shapes;
  int n;
  int n_levels;
  int smooth;
  int per_row;
  i64 point_stride;
  i64 level_stride;

  FN void operator()(int tile, int row) const {
    TILE HashCorners<D> corners;
    const int first = tile * HASH_POINTS, left = n - first;
    const int count = left < HASH_POINTS ? left : HASH_POINTS;
    const int begin = row * per_row, end = begin + per_row < n_levels ? begin + per_row : n_levels;
    for (int number = begin; number < end; ++number) {
      const HashLevel level = hash_level(scales, shapes, number);
      hash_corners<D>(corners, x + (size_t)D * first, tangent ? tangent + (size_t)D * first : 0, count,
                      level, smooth);
      SYNC();
      const float* features = table + (size_t)F * level.offset;
      hash_fetch_early<D, F>(corners, features, count);
      float* o = out + first * point_stride + number * level_stride;
      LANES_IN_ORDER(i, count) {
        Row<F> sum = Row<F>::zero();
        UNROLL for (int c = 0; c < 1 << D; ++c)
          sum.add(corners.weight[c][i], features + (size_t)F * corners.index[c][i]);
        sum.store(o + i * point_stride);
      }
      SYNC();
    }
  }
};

// from [n_levels, n, F] -> to [n, n_levels, F], or back. Where a level is done over all points, its
// features lie side by side: strewn over rows, each would bring its own cache line.
template <int F>
struct HashRows {
  const float* from;
  float* to;
  int n;
  int n_levels;
  int back;

  FN void operator()(int tile, int) const {
    const int first = tile * HASH_POINTS, left = n - first;
    const int count = left < HASH_POINTS ? left : HASH_POINTS;
    for (int level = 0; level < n_levels; ++level) {
      LANES(i, count) {
        const size_t point = first + i;
        const size_t by_level = F * ((size_t)level * n + point), by_point = F * (point * n_levels + level);
        Row<F>::load(from + (back ? by_point : by_level)).store(to + (back ? by_level : by_point));
      }
    }
  }
};

// grad_out (strides as out of HashEncode), tangent [n, D] or null -> adds to grad_table [entries, F].
// kept [n] or null: points where it is 0 are left out, their gradients never read.
// Row y is part y % parts of level n_levels - 1 - y / parts: whoever owns the row adds only to this
// part of the level, so on a CPU no sum depends on how many parts or threads there are. A tile past
// the points, where the launcher asks for one, takes the step of Adam in that part while it is still
// in the cache.
template <int D, int F>
struct HashScatter {
  const float* x;
  const float* grad_out;
  const float* tangent;
  const u8* kept;
  float* grad_table;
  float* table;
  float* first_moment;
  float* second_moment;
  int* steps;
  const float* scales;
  const u32* shapes;
  int n;
  int n_levels;
  int smooth;
  int parts;
  i64 point_stride;
  i64 level_stride;
  float rate;
  float beta1;
  float beta2;
  float eps;
  float log_beta1;
  float log_beta2;
  float correction1;
  float correction2;

  FN void operator()(int tile, int row) const {
    const int number = n_levels - 1 - row / parts, part = row % parts;
    const HashLevel level = hash_level(scales, shapes, number);
    const u32 length = (level.size + parts - 1) / parts, begin = part * length;
    const u32 end = begin + length < level.size ? begin + length : level.size;
    if (begin >= end) return;
    if (tile * HASH_POINTS >= n)
      adam().walk((size_t)F * (level.offset + begin), F * (int)(end - begin));
    else
      scatter(tile, number, level, begin, end);
  }

  FN AdamStep adam() const {
    return {table, first_moment, second_moment, steps, grad_table, rate, beta1, beta2, eps, log_beta1,
            log_beta2, correction1, correction2};
  }

  FN void scatter(int tile, int number, HashLevel level, u32 begin, u32 end) const {
    TILE HashCorners<D> corners;
    const int first = tile * HASH_POINTS, left = n - first;
    const int count = left < HASH_POINTS ? left : HASH_POINTS;
    hash_corners<D>(corners, x + (size_t)D * first, tangent ? tangent + (size_t)D * first : 0, count,
                    level, smooth);
    SYNC();
    float* features = grad_table + (size_t)F * level.offset;
    const float* g = grad_out + first * point_stride + number * level_stride;
    hash_fetch_early<D, F>(corners, features, count);
    const bool whole = parts == 1;
    LANES_IN_ORDER(i, count) {
      if (kept && !kept[first + i]) continue;
      const Row<F> grad = Row<F>::load(g + i * point_stride);
      UNROLL for (int c = 0; c < 1 << D; ++c) {
        const u32 at = corners.index[c][i];
        if (whole || at - begin < end - begin) add_row_to(features + (size_t)F * at, corners.weight[c][i], grad);
      }
    }
    SYNC();
  }
};

// x [n, D], table [entries, F], grad_out [n, n_levels * F] -> grad_x [n, D]; with a tangent, the
// gradient by x of (that gradient . tangent).
template <int D, int F>
struct HashPull {
  const float* x;
  const float* table;
  const float* grad_out;
  const float* tangent;
  float* grad_x;
  const float* scales;
  const u32* shapes;
  int n;
  int n_levels;
  int smooth;

  FN void operator()(int tile, int) const {
    if (tangent) pull<true>(tile);
    else pull<false>(tile);
  }

  template <bool ALONG>
  FN void pull(int tile) const {
    TILE float sum[D][HASH_POINTS];
    const int first = tile * HASH_POINTS, left = n - first;
    const int count = left < HASH_POINTS ? left : HASH_POINTS;
    const float* here = x + (size_t)D * first;
    const float* along = tangent + (size_t)D * first;
    const int width = n_levels * F;
    LANES(i, count) {
      UNROLL for (int k = 0; k < D; ++k) sum[k][i] = 0;
    }
    for (int number = 0; number < n_levels; ++number) {
      const HashLevel level = hash_level(scales, shapes, number);
      const float* features = table + (size_t)F * level.offset;
      const float* g = grad_out + ((size_t)first * n_levels + number) * F;
      LANES(i, count) {
        const HashCell<D> cell = hash_cell<D>(here + D * i, level, smooth);
        float slope[D] = {};
        UNROLL for (int corner = 0; corner < 1 << D; ++corner) {
          const float* f = features + (size_t)F * hash_index(cell, corner, level);
          float e = 0;
          UNROLL for (int j = 0; j < F; ++j) e += g[width * i + j] * f[j];
          UNROLL for (int k = 0; k < D; ++k) {
            if (ALONG) {
              UNROLL for (int m = 0; m < D; ++m)
                slope[k] += e * along[D * i + m] * hash_weight(cell, corner, k, m);
            } else {
              slope[k] += e * hash_weight(cell, corner, k);
            }
          }
        }
        UNROLL for (int k = 0; k < D; ++k) sum[k][i] += slope[k];
      }
    }
    LANES(i, count) {
      UNROLL for (int k = 0; k < D; ++k) grad_x[(size_t)D * (first + i) + k] = sum[k][i];
    }
  }
};

KERNEL(HashRows<1>)
KERNEL(HashRows<2>)
KERNEL(HashRows<4>)
KERNEL(HashRows<8>)
KERNEL(HashEncode<2, 1>)
KERNEL(HashEncode<2, 2>)
KERNEL(HashEncode<2, 4>)
KERNEL(HashEncode<2, 8>)
KERNEL(HashEncode<3, 1>)
KERNEL(HashEncode<3, 2>)
KERNEL(HashEncode<3, 4>)
KERNEL(HashEncode<3, 8>)
KERNEL(HashEncode<4, 1>)
KERNEL(HashEncode<4, 2>)
KERNEL(HashEncode<4, 4>)
KERNEL(HashEncode<4, 8>)
KERNEL(HashScatter<2, 1>)
KERNEL(HashScatter<2, 2>)
KERNEL(HashScatter<2, 4>)
KERNEL(HashScatter<2, 8>)
KERNEL(HashScatter<3, 1>)
KERNEL(HashScatter<3, 2>)
KERNEL(HashScatter<3, 4>)
KERNEL(HashScatter<3, 8>)
KERNEL(HashScatter<4, 1>)
KERNEL(HashScatter<4, 2>)
KERNEL(HashScatter<4, 4>)
KERNEL(HashScatter<4, 8>)
KERNEL(HashPull<2, 1>)
KERNEL(HashPull<2, 2>)
KERNEL(HashPull<2, 4>)
KERNEL(HashPull<2, 8>)
KERNEL(HashPull<3, 1>)
KERNEL(HashPull<3, 2>)
KERNEL(HashPull<3, 4>)
KERNEL(HashPull<3, 8>)
KERNEL(HashPull<4, 1>)
KERNEL(HashPull<4, 2>)
KERNEL(HashPull<4, 4>)
KERNEL(HashPull<4, 8>)
