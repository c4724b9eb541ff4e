// Which squares of 16 x 16 pixels each Gaussian reaches: counted, written down as pairs, and these put
// in order by square.
#pragma once
#include "tile.cuh"

constexpr int BIN_ROWS = 64;  // in one tile
constexpr int BIN_SIDE = 16;
constexpr float BIN_ROOM = 1e-3f;  // added to what counts as reached: rounding must lose no pixel

// A Gaussian's ellipse on the sensor, within which it is drawn.
struct SplatEllipse {
  float x, y, half_x, half_y;
  float A, B, C;
  float reach;  // of the exponent's double
  int x0, x1, y0, y1;

  FN void load(const float* mean, const float* conic, float opacity, const float* extent, int columns, int rows) {
    x = mean[0], y = mean[1], half_x = extent[0], half_y = extent[1];
    A = conic[0], B = conic[1], C = conic[2];
    reach = 2 * logarithm(larger(255 * opacity, 1.f)) + BIN_ROOM;
    x0 = square_of(x - half_x, columns), x1 = square_of(x + half_x, columns) + 1;
    y0 = square_of(y - half_y, rows), y1 = square_of(y + half_y, rows) + 1;
  }
  static FN int square_of(float at, int count) {
    const float square = round_down(at * (1.f / BIN_SIDE));
    return square < 0 ? 0 : square > count - 1 ? count - 1 : (int)square;
  }
  // Whether any pixel's middle of a square may be within: the least exponent over their rectangle.
  FN bool reaches(int column, int row) const {
    const float left = column * BIN_SIDE + 0.5f - x, right = left + (BIN_SIDE - 1);
    const float top = row * BIN_SIDE + 0.5f - y, bottom = top + (BIN_SIDE - 1);
    const bool in_x = left <= 0 && right >= 0, in_y = top <= 0 && bottom >= 0;
    if (in_x && in_y) return true;
    float least = 3e38f;
    if (!in_x) {
      const float ex = left > 0 ? left : right;
      const float ey = between(-B * ex / C, top, bottom);
      least = smaller(least, A * ex * ex + 2 * B * ex * ey + C * ey * ey);
    }
    if (!in_y) {
      const float ey = top > 0 ? top : bottom;
      const float ex = between(-B * ey / A, left, right);
      least = smaller(least, A * ex * ex + 2 * B * ex * ey + C * ey * ey);
    }
    return least <= reach;
  }
  static FN float between(float at, float low, float high) { return at < low ? low : at > high ? high : at; }
};

// means2d [n, 2], conics [n, 3], opacities [n], extents [n, 2] -> counts [n] of squares reached.
struct SplatCount {
  const float* means2d;
  const float* conics;
  const float* opacities;
  const float* extents;
  int* counts;
  int n;
  int columns;
  int rows;

  FN void operator()(int tile, int) const {
    const int first = tile * BIN_ROWS, left = n - first;
    LANES_IN_ORDER(lane, left < BIN_ROWS ? left : BIN_ROWS) {
      const size_t i = first + lane;
      SplatEllipse ellipse;
      ellipse.load(means2d + 2 * i, conics + 3 * i, opacities[i], extents + 2 * i, columns, rows);
      int count = 0;
      for (int row = ellipse.y0; row < ellipse.y1; ++row)
        for (int column = ellipse.x0; column < ellipse.x1; ++column) count += ellipse.reaches(column, row);
      counts[i] = count;
    }
  }
};

// offsets [n]: where each one's pairs begin -> squares of the pairs, numbered view by view; owners: which
// Gaussian. view [n]: of which the squares are.
struct SplatPairs {
  const float* means2d;
  const float* conics;
  const float* opacities;
  const float* extents;
  const int* view;
  const i64* offsets;
  int* squares;
  int* owners;
  int n;
  int columns;
  int rows;

  FN void operator()(int tile, int) const {
    const int first = tile * BIN_ROWS, left = n - first;
    LANES_IN_ORDER(lane, left < BIN_ROWS ? left : BIN_ROWS) {
      const size_t i = first + lane;
      SplatEllipse ellipse;
      ellipse.load(means2d + 2 * i, conics + 3 * i, opacities[i], extents + 2 * i, columns, rows);
      i64 at = offsets[i];
      for (int row = ellipse.y0; row < ellipse.y1; ++row)
        for (int column = ellipse.x0; column < ellipse.x1; ++column) {
          if (!ellipse.reaches(column, row)) continue;
          squares[at] = (view[i] * rows + row) * columns + column, owners[at] = (int)i, ++at;
        }
    }
  }
};

// Deals the pairs of Gaussians out to their squares, the Gaussians in the order drawn [n]. A tile is a
// run of them, with its own row of places [tiles, squares]. First without order, places all 0: they
// become how many pairs of each square the run has. Then with places where the run's first pair of each
// square goes -> order [m], the pairs. No square is twice among the pairs of one Gaussian.
struct SplatSort {
  const i64* drawn;
  const i64* offsets;
  const int* squares;
  int* places;
  i64* order;
  int n;
  int count;  // of squares
  int run;

  FN void operator()(int tile, int) const {
    int* place = places + (size_t)tile * count;
    const int first = tile * run, left = n - first, end = first + (left < run ? left : run);
    for (int at = first; at < end; ++at) {
      const i64 begin = offsets[drawn[at]];
      LANES_IN_ORDER(k, (int)(offsets[drawn[at] + 1] - begin)) {
        int& next = place[squares[begin + k]];
        if (order) order[next] = begin + k;
        ++next;
      }
      SYNC();
    }
  }
};

KERNEL(SplatCount)
KERNEL(SplatPairs)
KERNEL(SplatSort)
