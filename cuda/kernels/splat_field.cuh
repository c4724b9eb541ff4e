// What Gaussians amount to at points of space: those in the cells of an octree about each point.
#pragma once
#include "tile.cuh"

constexpr int FIELD_POINTS = 64;  // in one tile
constexpr int FIELD_NUMBERS = 16;  // of a Gaussian

// The polylogarithm of order 1/2 of v in [0, 0.99], 5e-7 of it off. Times the root of 1 - v over v
// it is smooth in that root, from where v is 0 to beyond where it is 1.
FN float half_polylogarithm(float v) {
  const float q = square_root(1 - v);
  float p = -4.42806356e-2f * q + 2.37410715e-1f;
  p = p * q - 5.90480166e-1f, p = p * q + 9.47297623e-1f, p = p * q - 1.18005951f;
  p = p * q + 1.31692865f, p = p * q - 1.45923065f, p = p * q + 1.77241361f;
  return v * p / q;
}

// x [n, 3]; gaussians [count, 16]: mean, three rows that lead to where it is round, and of width 1,
// its opacity, what its density is in, the square of how many widths it reaches, and nothing; harmonics [count, 3 (D + 1)^2]. Of each cell children
// [cells, 8], below 0 where nothing is, and where its part of members begins, starts [cells + 1]:
// Gaussians, by number. Cell 0 is for all points, wherever they are. The cube of the others begins
// at corner [3] and has 2^depth finest cells a side, `fine` of them in a unit of x.
// -> density [n], features [n, 3 (D + 1)^2]: the mean of harmonics, by density.
template <int D>
struct SplatField {
  const float* x;
  const float* gaussians;
  const float* harmonics;
  const int* children;
  const int* starts;
  const int* members;
  const float* corner;
  float* density;
  float* features;
  float fine;
  int depth;
  int n;

  FN void operator()(int tile, int) const {
    constexpr int WIDTH = 3 * (D + 1) * (D + 1);
    const int first = tile * FIELD_POINTS, left = n - first;
    LANES_IN_ORDER(lane, left < FIELD_POINTS ? left : FIELD_POINTS) {
      const size_t i = first + lane;
      const float point[3] = {x[3 * i], x[3 * i + 1], x[3 * i + 2]};
      float total = 0, sum[WIDTH];
      for (int k = 0; k < WIDTH; ++k) sum[k] = 0;
      int place[3], cell = 0;
      bool inside = true;
      UNROLL for (int d = 0; d < 3; ++d) {
        const float at = (point[d] - corner[d]) * fine;
        inside = inside && at >= 0 && at < (float)(1 << depth);
        place[d] = inside ? (int)at : 0;
      }
      look(0, point, total, sum);
      for (int level = depth - 1; inside && level >= 0; --level) {
        const int side = place[0] >> level & 1, row = place[1] >> level & 1;
        cell = children[8 * (size_t)cell + side + 2 * row + 4 * (place[2] >> level & 1)];
        if (cell < 0) break;  // with all that is finer
        look(cell, point, total, sum);
      }
      density[i] = total;
      const float share = total > 0 ? 1 / total : 0.f;
      for (int k = 0; k < WIDTH; ++k) features[WIDTH * i + k] = share * sum[k];
    }
  }

  FN void look(int cell, const float* point, float& total, float* sum) const {
    constexpr int WIDTH = 3 * (D + 1) * (D + 1);
    for (int j = starts[cell]; j < starts[cell + 1]; ++j) {
      const int number = members[j];
      const float* own = gaussians + FIELD_NUMBERS * (size_t)number;
      const float a = point[0] - own[0], b = point[1] - own[1], c = point[2] - own[2];
      const float u = own[3] * a + own[4] * b + own[5] * c;
      const float v = own[6] * a + own[7] * b + own[8] * c;
      const float w = own[9] * a + own[10] * b + own[11] * c;
      const float away = u * u + v * v + w * w;
      if (!(away <= own[14])) continue;
      const float here = own[13] * half_polylogarithm(own[12] * exponential(-0.5f * away));
      const float* held = harmonics + WIDTH * (size_t)number;
      total += here;
      for (int k = 0; k < WIDTH; ++k) sum[k] += here * held[k];
    }
  }
};

KERNEL(SplatField<0>)
KERNEL(SplatField<1>)
KERNEL(SplatField<2>)
KERNEL(SplatField<3>)
