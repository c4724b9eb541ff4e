// How alike two images are in structure (SSIM), in windows of 11 x 11 pixels weighted by a Gaussian
// of 1.5; beyond the border there is 0. And how far apart their numbers are. A tile is a square of
// 16 x 16 pixels of one channel of one image: a plane.
#pragma once
#include "wide.cuh"

constexpr int SSIM_REACH = 5;
constexpr int SSIM_ROWS = 26;    // of a square and what its windows reach
constexpr int SSIM_STRIDE = 32;
constexpr float SSIM_FLAT = 1e-4f;    // what keeps quotients of flat windows finite
constexpr float SSIM_EVEN = 9e-4f;

FN float ssim_weight(int tap) {
  const float weight[6] = {0.0010283801f, 0.0075987582f, 0.0360007721f, 0.1093606895f, 0.2130055377f, 0.2660117249f};
  return weight[tap < 6 ? tap : 10 - tap];
}

// A square of a plane whose numbers lie so far apart, with what its windows reach; 0 beyond the border.
FN void ssim_load(const float* plane, int apart, float* into, int left, int top, int width, int height) {
  LANES_IN_ORDER(row, SSIM_ROWS) {
    const int y = top - SSIM_REACH + row, x = left - SSIM_REACH;
    const bool there = y >= 0 && y < height;
    const int begin = there ? (x < 0 ? -x : 0) : SSIM_ROWS;
    const int end = width - x < SSIM_ROWS ? width - x : SSIM_ROWS;
    float* out = into + SSIM_STRIDE * row;
    if (begin > 0 || end < SSIM_ROWS)
      for (int i = 0; i < SSIM_STRIDE; i += WIDE) wide_store(out + i, wide_of(0.f));
    for (int i = begin; i < end; ++i) out[i] = plane[apart * ((i64)y * width + x + i)];
  }
}

// Of rows that a window reaches, the weighted sum along them, or across.
FN Wide ssim_along(const float* from, int g) {
  Wide sum = ssim_weight(0) * wide_load(from + wide_at(g, SSIM_STRIDE));
  UNROLL for (int k = 1; k < 11; ++k) sum = sum + ssim_weight(k) * wide_load(from + wide_at(g, SSIM_STRIDE) + k);
  return sum;
}
FN Wide ssim_across(const float* rows, int g) {
  Wide sum = ssim_weight(0) * wide_load(rows + WIDE * g);
  UNROLL for (int k = 1; k < 11; ++k) sum = sum + ssim_weight(k) * wide_load(rows + WIDE * g + 16 * k);
  return sum;
}

// Where a plane of images [n, H, W, C] begins.
FN size_t ssim_plane(int plane, int channels, int width, int height) {
  return (size_t)(plane / channels) * channels * width * height + plane % channels;
}

// x, y [n, H, W, C] -> sums [2, planes, tiles], over each square: of the likeness, and of |x - y|;
// slopes [3, planes, H, W], where they are there: of the likeness by the mean of x, of x x and of x y.
struct Ssim {
  const float* x;
  const float* y;
  float* sums;
  float* slopes;
  int planes;
  int channels;
  int width;
  int height;
  int columns;
  int squares;

  FN void operator()(int tile, int plane) const {
    TILE float own[SSIM_ROWS * SSIM_STRIDE], other[SSIM_ROWS * SSIM_STRIDE];
    TILE float rows[5 * SSIM_ROWS * 16], found[2];
    const int left = WIDE_SIDE * (tile % columns), top = WIDE_SIDE * (tile / columns);
    const size_t pixels = (size_t)width * height;
    const size_t first = ssim_plane(plane, channels, width, height);
    ssim_load(x + first, channels, own, left, top, width, height);
    ssim_load(y + first, channels, other, left, top, width, height);
    LANES(k, 2) found[k] = 0;
    SYNC();
    WIDE_ROWS(g, SSIM_ROWS) {
      Wide sum[5];
      UNROLL for (int m = 0; m < 5; ++m) sum[m] = wide_of(0.f);
      UNROLL for (int k = 0; k < 11; ++k) {
        const Wide a = wide_load(own + wide_at(g, SSIM_STRIDE) + k), b = wide_load(other + wide_at(g, SSIM_STRIDE) + k);
        const Wide wa = ssim_weight(k) * a, wb = ssim_weight(k) * b;
        sum[0] = sum[0] + wa, sum[1] = sum[1] + wb, sum[2] = sum[2] + wa * a;
        sum[3] = sum[3] + wb * b, sum[4] = sum[4] + wa * b;
      }
      UNROLL for (int m = 0; m < 5; ++m) wide_store(rows + m * SSIM_ROWS * 16 + WIDE * g, sum[m]);
    }
    SYNC();
    Wide total = wide_of(0.f), apart = wide_of(0.f);
    WIDE_GROUPS(g, 0, WIDE_SIDE) {
      Wide mean[5];
      UNROLL for (int m = 0; m < 5; ++m) mean[m] = ssim_across(rows + m * SSIM_ROWS * 16, g);
      const Wide square_x = mean[0] * mean[0], square_y = mean[1] * mean[1], product = mean[0] * mean[1];
      const Wide a = square_x + square_y + SSIM_FLAT, b = mean[2] - square_x + mean[3] - square_y + SSIM_EVEN;
      const Wide c = 2 * product + SSIM_FLAT, d = 2 * (mean[4] - product) + SSIM_EVEN;
      const Wide by = 1.f / (a * b), value = c * d * by;
      const int at = top + (int)wide_y(g);
      const WideMask within = (wide_x(g) + (float)left < (float)width) & (wide_of((float)at) < (float)height);
      total = total + wide_where(within, value);
      const int here = wide_at(g, SSIM_STRIDE) + SSIM_REACH * (SSIM_STRIDE + 1);  // 0 beyond the border
      apart = apart + wide_absolute(wide_load(own + here) - wide_load(other + here));
      if (slopes && at < height) {
        // b falls by the square of the mean, d by the product of the means.
        const Wide of_mean = 2 * by * mean[1] * (d - c) - 2 * mean[0] * value / a + 2 * mean[0] * value / b;
        const Wide of[3] = {of_mean, -c * d * by / b, 2 * c * by};
        float* begin = slopes + pixels * plane + (size_t)at * width + left;
        UNROLL for (int m = 0; m < 3; ++m) put(begin + m * pixels * planes, of[m], g, width - left);
      }
    }
    wide_sum_to(found, total), wide_sum_to(found + 1, apart);
    SYNC();
    LANES(k, 2) sums[((size_t)k * planes + plane) * squares + tile] = found[k];
  }

  // Of a row with so much room, a group's part.
  FN void put(float* row, Wide value, int group, int room) const {
    const int column = wide_at(group, 0);
    float number[WIDE];
    if (room >= column + WIDE) {
      wide_store(row + column, value);
      return;
    }
    wide_store(number, value);
    for (int i = 0; i < room - column; ++i) row[column + i] = number[i];
  }
};

// slopes as Ssim gave them -> grad [n, H, W, C]: to x, of the sum of the likeness times scale[0] and
// of that of |x - y| times scale[1].
struct SsimPull {
  const float* x;
  const float* y;
  const float* slopes;
  const float* scale;
  float* grad;
  int planes;
  int channels;
  int width;
  int height;
  int columns;

  FN void operator()(int tile, int plane) const {
    TILE float from[3 * SSIM_ROWS * SSIM_STRIDE], rows[3 * SSIM_ROWS * 16], found[3 * WIDE_PIXELS];
    const int left = WIDE_SIDE * (tile % columns), top = WIDE_SIDE * (tile / columns);
    const size_t pixels = (size_t)width * height, first = ssim_plane(plane, channels, width, height);
    for (int m = 0; m < 3; ++m)
      ssim_load(slopes + pixels * ((size_t)m * planes + plane), 1, from + m * SSIM_ROWS * SSIM_STRIDE, left, top, width, height);
    SYNC();
    for (int m = 0; m < 3; ++m) {
      WIDE_ROWS(g, SSIM_ROWS)
      wide_store(rows + m * SSIM_ROWS * 16 + WIDE * g, ssim_along(from + m * SSIM_ROWS * SSIM_STRIDE, g));
    }
    SYNC();
    for (int m = 0; m < 3; ++m) {
      WIDE_GROUPS(g, 0, WIDE_SIDE)
      wide_store(found + m * WIDE_PIXELS + WIDE * g, ssim_across(rows + m * SSIM_ROWS * 16, g));
    }
    SYNC();
    LANES(i, WIDE_PIXELS) {
      const int at_x = left + (i & 15), at_y = top + (i >> 4);
      if (at_x < width && at_y < height) {
        const size_t at = first + channels * ((size_t)at_y * width + at_x);
        const float a = x[at], b = y[at], sign = a > b ? 1.f : a < b ? -1.f : 0.f;
        grad[at] = scale[0] * (found[i] + 2 * a * found[WIDE_PIXELS + i] + b * found[2 * WIDE_PIXELS + i]) + scale[1] * sign;
      }
    }
  }
};

KERNEL(Ssim)
KERNEL(SsimPull)
