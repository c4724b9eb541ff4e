// The centres nearest to each point, by a grid of cells: the centres of a cell lie one after the other,
// and cells are looked through in rings about the point's own until nothing nearer can be left.
#pragma once
#include "tile.cuh"

constexpr int NEAREST_POINTS = 64;  // in one tile
constexpr int NEAREST_MOST = 16;    // neighbours

// The nearest found so far, in order; of two that are as near, the one of lower number comes first.
struct NearestFound {
  float distance[NEAREST_MOST];
  int number[NEAREST_MOST];

  FN void clear(int k) {
    for (int j = 0; j < k; ++j) distance[j] = 3e38f, number[j] = -1;
  }
  FN void offer(float d, int id, int k) {
    if (d > distance[k - 1] || (d == distance[k - 1] && id > number[k - 1])) return;
    int j = k - 1;
    for (; j > 0 && (d < distance[j - 1] || (d == distance[j - 1] && id < number[j - 1])); --j)
      distance[j] = distance[j - 1], number[j] = number[j - 1];
    distance[j] = d, number[j] = id;
  }
};

// x [n, D], centers [count, D] sorted by cell, numbers [count] of theirs before that, starts
// [cells + 1], gaps [cells]: rings about it, itself the first, that are empty -> index [n, k].
// Cells are cubes of edge `size` from `low` on, sides[d] of them along axis d, the first axis quickest.
template <int D>
struct Nearest {
  const float* x;
  const float* centers;
  const int* numbers;
  const int* starts;
  const int* gaps;
  const float* low;
  const int* sides;
  int* index;
  float size;
  int n;
  int k;

  FN void operator()(int tile, int) const {
    const int first = tile * NEAREST_POINTS, left = n - first;
    LANES_IN_ORDER(i, left < NEAREST_POINTS ? left : NEAREST_POINTS) {
      NearestFound found;
      found.clear(k);
      search(found, x + (size_t)D * (first + i));
      for (int j = 0; j < k; ++j) index[(size_t)k * (first + i) + j] = found.number[j];
    }
  }

  FN void search(NearestFound& found, const float* point) const {
    int own[3] = {0, 0, 0}, side[3] = {1, 1, 1}, at = 0;
    for (int d = D - 1; d >= 0; --d) {
      side[d] = sides[d];
      // Compared as floats: a point far outside has no whole number of cells.
      const float cell = (point[d] - low[d]) / size;
      own[d] = cell > 0 ? cell < side[d] - 1 ? (int)cell : side[d] - 1 : 0;
      at = at * side[d] + own[d];
    }
    for (int ring = gaps[at];; ++ring) {
      for (int z = own[2] - ring; z <= own[2] + ring; ++z) {
        if (D < 3 && z != 0) continue;
        if (z < 0 || z >= side[2]) continue;
        for (int y = own[1] - ring; y <= own[1] + ring; ++y) {
          if (y < 0 || y >= side[1]) continue;
          const bool face = y == own[1] - ring || y == own[1] + ring ||
                            (D == 3 && (z == own[2] - ring || z == own[2] + ring));
          const int row = (z * side[1] + y) * side[0], step = face || ring == 0 ? 1 : 2 * ring;
          for (int c = own[0] - ring; c <= own[0] + ring; c += step)
            if (c >= 0 && c < side[0]) look(found, point, row + c);
        }
      }
      if (done(found, point, own, side, ring)) return;
    }
  }

  FN void look(NearestFound& found, const float* point, int cell) const {
    for (int j = starts[cell]; j < starts[cell + 1]; ++j) {
      float distance = 0;
      UNROLL for (int d = 0; d < D; ++d) {
        const float off = centers[(size_t)D * j + d] - point[d];
        distance += off * off;
      }
      found.offer(distance, numbers[j], k);
    }
  }

  // Whether what lies beyond the rings so far is farther than the last of those found.
  FN bool done(const NearestFound& found, const float* point, const int* own, const int* side,
               int ring) const {
    float reach = 3e38f;
    bool all = true;
    UNROLL for (int d = 0; d < D; ++d) {
      const int below = own[d] - ring, above = own[d] + ring + 1;
      if (below > 0) all = false, reach = smaller(reach, point[d] - (low[d] + below * size));
      if (above < side[d]) all = false, reach = smaller(reach, low[d] + above * size - point[d]);
    }
    // Rounded edges may lie a little nearer than they seem.
    reach = reach > 0 ? reach * 0.9999f : 0;
    return all || found.distance[k - 1] < reach * reach;
  }
};

KERNEL(Nearest<2>)
KERNEL(Nearest<3>)
