// Features of points on planes along the axes (tri-planes, K-planes): in each scale a point is dropped
// on the plane of every pair of axes, and what the planes hold there is multiplied, or summed.
// Channels lie in blocks of 8: [scale][block][pair][node of the later axis][node of the earlier][8].
// A block is worked on alone, so on a CPU its owner adds to it without atomics, in one order.
#pragma once
#include "tile.cuh"

constexpr int PLANE_POINTS = 128;  // in one tile
constexpr int PLANE_CHANNELS = 8;  // of a block

using PlaneRow = Row<PLANE_CHANNELS>;

// A scale: nodes along each axis and the first entry of each pair's plane in block 0; then how many
// entries lie between a block and the next.
template <int D>
struct PlaneScale {
  static constexpr int PAIRS = D * (D - 1) / 2;
  int side[D];
  int offset[PAIRS];
  int block;

  static FN PlaneScale read(const int* shapes, int scale) {
    const int* s = shapes + scale * (D + PAIRS + 1);
    PlaneScale found;
    UNROLL for (int d = 0; d < D; ++d) found.side[d] = s[d];
    UNROLL for (int p = 0; p < PAIRS; ++p) found.offset[p] = s[D + p];
    found.block = s[D + PAIRS];
    return found;
  }
};

// The axes of a pair: (0, 1), (0, 2), (1, 2), (0, 3), ...; so pairs of the first axes come first.
FN int plane_later(int pair) { return pair < 1 ? 1 : pair < 3 ? 2 : 3; }
FN int plane_earlier(int pair) { return pair < 1 ? 0 : pair < 3 ? pair - 1 : pair - 3; }

// Where a tile's points lie: per axis how far past a node, per pair the entry of the lower nodes.
template <int D>
struct PlaneCells {
  static constexpr int PAIRS = PlaneScale<D>::PAIRS;
  float past[D][PLANE_POINTS];
  int entry[PAIRS][PLANE_POINTS];

  FN void find(const float* x, int count, const PlaneScale<D>& scale, int block) {
    LANES(i, count) {
      int node[D];
      UNROLL for (int d = 0; d < D; ++d) {
        const float p = larger(smaller(x[D * i + d], 1.f), 0.f) * (scale.side[d] - 1);
        const int last = scale.side[d] - 2;
        node[d] = (int)p < last ? (int)p : last;
        past[d][i] = p - node[d];
      }
      UNROLL for (int p = 0; p < PAIRS; ++p) {
        const int a = plane_earlier(p), b = plane_later(p);
        entry[p][i] = scale.offset[p] + block * scale.block + node[b] * scale.side[a] + node[a];
      }
    }
  }

  // Asks for the nodes of the cells. Two that are neighbours along the earlier axis lie side by side.
  FN void fetch_early_from(const float* table, int count, const PlaneScale<D>& scale) const {
    LANES_IN_ORDER(i, count) {
      UNROLL for (int p = 0; p < PAIRS; ++p) {
        const float* node = table + (size_t)PLANE_CHANNELS * entry[p][i];
        fetch_early(node);
        fetch_early(node + (size_t)PLANE_CHANNELS * scale.side[plane_earlier(p)]);
      }
    }
  }
};

// The four nodes of a point's cell on a plane, and their weights.
struct PlaneCorner {
  const float* low;
  const float* high;
  float a;
  float b;

  FN PlaneRow sample() const {
    PlaneRow sum = PlaneRow::zero();
    sum.add((1 - a) * (1 - b), low), sum.add(a * (1 - b), low + PLANE_CHANNELS);
    sum.add((1 - a) * b, high), sum.add(a * b, high + PLANE_CHANNELS);
    return sum;
  }
  FN PlaneRow along_earlier() const {
    PlaneRow sum = PlaneRow::zero();
    sum.add(b - 1, low), sum.add(1 - b, low + PLANE_CHANNELS);
    sum.add(-b, high), sum.add(b, high + PLANE_CHANNELS);
    return sum;
  }
  FN PlaneRow along_later() const {
    PlaneRow sum = PlaneRow::zero();
    sum.add(a - 1, low), sum.add(-a, low + PLANE_CHANNELS);
    sum.add(1 - a, high), sum.add(a, high + PLANE_CHANNELS);
    return sum;
  }
};

template <int D>
FN PlaneCorner plane_corner(const PlaneCells<D>& cells, int pair, int i, const float* table,
                            const PlaneScale<D>& scale) {
  const int a = plane_earlier(pair), b = plane_later(pair);
  const float* low = table + (size_t)PLANE_CHANNELS * cells.entry[pair][i];
  const float* high = low + (size_t)PLANE_CHANNELS * scale.side[a];
  return {low, high, cells.past[a][i], cells.past[b][i]};
}

// What the gradient of the features is to each plane's sample: where samples are multiplied, times
// all the others, never by division, for a sample may be 0.
template <int D>
FN void plane_shares(PlaneRow* share, const PlaneCells<D>& cells, int i, const float* table,
                     const PlaneScale<D>& scale, PlaneRow grad, int product) {
  constexpr int PAIRS = PlaneScale<D>::PAIRS;
  if (!product || PAIRS == 1) {
    UNROLL for (int p = 0; p < PAIRS; ++p) share[p] = grad;
    return;
  }
  PlaneRow sample[PAIRS];
  UNROLL for (int p = 0; p < PAIRS; ++p) sample[p] = plane_corner<D>(cells, p, i, table, scale).sample();
  PlaneRow before = grad;
  UNROLL for (int p = 0; p < PAIRS; ++p) {
    share[p] = before;
    before = before.times(sample[p]);
  }
  PlaneRow after = sample[PAIRS - 1];
  UNROLL for (int p = PAIRS - 2; p >= 0; --p) {
    share[p] = share[p].times(after);
    after = after.times(sample[p]);
  }
}

// x [n, D], table [entries, 8] -> out [n, scales * channels].
template <int D>
struct PlaneEncode {
  const float* x;
  const float* table;
  float* out;
  const int* shapes;
  int n;
  int n_scales;
  int n_blocks;
  int product;

  FN void operator()(int tile, int) const {
    TILE PlaneCells<D> cells;
    const int first = tile * PLANE_POINTS, left = n - first;
    const int count = left < PLANE_POINTS ? left : PLANE_POINTS;
    const int width = n_scales * n_blocks * PLANE_CHANNELS;
    for (int number = 0; number < n_scales; ++number) {
      const PlaneScale<D> scale = PlaneScale<D>::read(shapes, number);
      for (int block = 0; block < n_blocks; ++block) {
        cells.find(x + (size_t)D * first, count, scale, block);
        SYNC();
        cells.fetch_early_from(table, count, scale);
        float* o = out + (size_t)width * first + (number * n_blocks + block) * PLANE_CHANNELS;
        LANES_IN_ORDER(i, count) {
          PlaneRow sum = plane_corner<D>(cells, 0, i, table, scale).sample();
          UNROLL for (int p = 1; p < PlaneScale<D>::PAIRS; ++p) {
            const PlaneRow next = plane_corner<D>(cells, p, i, table, scale).sample();
            sum = product ? sum.times(next) : sum.plus(next);
          }
          sum.store(o + (size_t)width * i);
        }
        SYNC();
      }
    }
  }
};

// grad_out [n, scales * channels] -> adds to grad_table [entries, 8]. Row y is a block of a scale, the
// last ones, which take longest, first.
template <int D>
struct PlaneScatter {
  const float* x;
  const float* table;
  const float* grad_out;
  float* grad_table;
  const int* shapes;
  int n;
  int n_scales;
  int n_blocks;
  int product;

  FN void operator()(int tile, int y) const {
    TILE PlaneCells<D> cells;
    const int row = n_scales * n_blocks - 1 - y;
    constexpr int PAIRS = PlaneScale<D>::PAIRS;
    const int first = tile * PLANE_POINTS, left = n - first;
    const int count = left < PLANE_POINTS ? left : PLANE_POINTS;
    const int width = n_scales * n_blocks * PLANE_CHANNELS;
    const PlaneScale<D> scale = PlaneScale<D>::read(shapes, row / n_blocks);
    cells.find(x + (size_t)D * first, count, scale, row % n_blocks);
    SYNC();
    cells.fetch_early_from(grad_table, count, scale);
    if (product) cells.fetch_early_from(table, count, scale);
    const float* g = grad_out + (size_t)width * first + row * PLANE_CHANNELS;
    LANES_IN_ORDER(i, count) {
      PlaneRow share[PAIRS];
      plane_shares<D>(share, cells, i, table, scale, PlaneRow::load(g + (size_t)width * i), product);
      UNROLL for (int p = 0; p < PAIRS; ++p) {
        const float a = cells.past[plane_earlier(p)][i], b = cells.past[plane_later(p)][i];
        float* low = grad_table + (size_t)PLANE_CHANNELS * cells.entry[p][i];
        float* high = low + (size_t)PLANE_CHANNELS * scale.side[plane_earlier(p)];
        add_row_to(low, (1 - a) * (1 - b), share[p]), add_row_to(low + PLANE_CHANNELS, a * (1 - b), share[p]);
        add_row_to(high, (1 - a) * b, share[p]), add_row_to(high + PLANE_CHANNELS, a * b, share[p]);
      }
    }
    SYNC();
  }
};

// grad_out [n, scales * channels] -> grad_x [n, D].
template <int D>
struct PlanePull {
  const float* x;
  const float* table;
  const float* grad_out;
  float* grad_x;
  const int* shapes;
  int n;
  int n_scales;
  int n_blocks;
  int product;

  FN void operator()(int tile, int) const {
    TILE PlaneCells<D> cells;
    TILE float sum[D][PLANE_POINTS];
    constexpr int PAIRS = PlaneScale<D>::PAIRS;
    const int first = tile * PLANE_POINTS, left = n - first;
    const int count = left < PLANE_POINTS ? left : PLANE_POINTS;
    const int width = n_scales * n_blocks * PLANE_CHANNELS;
    LANES(i, count) {
      UNROLL for (int d = 0; d < D; ++d) sum[d][i] = 0;
    }
    for (int number = 0; number < n_scales; ++number) {
      const PlaneScale<D> scale = PlaneScale<D>::read(shapes, number);
      for (int block = 0; block < n_blocks; ++block) {
        SYNC();
        cells.find(x + (size_t)D * first, count, scale, block);
        SYNC();
        const float* g = grad_out + (size_t)width * first + (number * n_blocks + block) * PLANE_CHANNELS;
        LANES_IN_ORDER(i, count) {
          PlaneRow share[PAIRS];
          plane_shares<D>(share, cells, i, table, scale, PlaneRow::load(g + (size_t)width * i), product);
          UNROLL for (int p = 0; p < PAIRS; ++p) {
            const PlaneCorner corner = plane_corner<D>(cells, p, i, table, scale);
            const int a = plane_earlier(p), b = plane_later(p);
            sum[a][i] += share[p].times(corner.along_earlier()).total() * (scale.side[a] - 1);
            sum[b][i] += share[p].times(corner.along_later()).total() * (scale.side[b] - 1);
          }
        }
      }
    }
    SYNC();
    LANES(i, count) {
      UNROLL for (int d = 0; d < D; ++d) grad_x[(size_t)D * (first + i) + d] = sum[d][i];
    }
  }
};

KERNEL(PlaneEncode<2>)
KERNEL(PlaneEncode<3>)
KERNEL(PlaneEncode<4>)
KERNEL(PlaneScatter<2>)
KERNEL(PlaneScatter<3>)
KERNEL(PlaneScatter<4>)
KERNEL(PlanePull<2>)
KERNEL(PlanePull<3>)
KERNEL(PlanePull<4>)
