// Real spherical harmonics of a direction, and their gradient. The m-th column of bands shares
// (x + iy)^m; along it the Legendre polynomials follow a three-term recurrence in z whose
// coefficients (normalisation included) the launcher passes.
#pragma once
#include "tile.cuh"

constexpr int DIRECTIONS = 64;  // in one tile

// start [bands], and [bands * bands] for step a and b of band l, order m at l * bands + m.
struct SphericalHarmonics {
  const float* directions;
  const float* start;
  const float* step_a;
  const float* step_b;
  float* out;
  int n;
  int bands;

  FN void operator()(int tile, int) const {
    const int first = tile * DIRECTIONS;
    const int count = n - first < DIRECTIONS ? n - first : DIRECTIONS, width = bands * bands;
    LANES(i, count) {
      const float x = directions[3 * (first + i)], y = directions[3 * (first + i) + 1];
      const float z = directions[3 * (first + i) + 2];
      float* o = out + (size_t)(first + i) * width;
      float re = 1, im = 0;
      for (int m = 0; m < bands; ++m) {
        float before = 0, value = start[m];
        for (int l = m; l < bands; ++l) {
          if (l > m) {
            const float next = step_a[l * bands + m] * z * value - step_b[l * bands + m] * before;
            before = value, value = next;
          }
          o[l * l + l + m] = value * re;
          if (m) o[l * l + l - m] = value * im;
        }
        const float turned = re * x - im * y;
        im = re * y + im * x, re = turned;
      }
    }
  }
};

struct SphericalHarmonicsBackward {
  const float* directions;
  const float* grad_out;
  const float* start;
  const float* step_a;
  const float* step_b;
  float* grad_directions;
  int n;
  int bands;

  FN void operator()(int tile, int) const {
    const int first = tile * DIRECTIONS;
    const int count = n - first < DIRECTIONS ? n - first : DIRECTIONS, width = bands * bands;
    LANES(i, count) {
      const float x = directions[3 * (first + i)], y = directions[3 * (first + i) + 1];
      const float z = directions[3 * (first + i) + 2];
      const float* g = grad_out + (size_t)(first + i) * width;
      float gx = 0, gy = 0, gz = 0;
      float re = 1, im = 0, re_below = 0, im_below = 0;  // (x + iy)^m and ^(m - 1)
      for (int m = 0; m < bands; ++m) {
        float before = 0, value = start[m], slope_before = 0, slope = 0;
        for (int l = m; l < bands; ++l) {
          if (l > m) {
            const float a = step_a[l * bands + m], b = step_b[l * bands + m];
            const float next_slope = a * (value + z * slope) - b * slope_before;
            const float next = a * z * value - b * before;
            before = value, value = next, slope_before = slope, slope = next_slope;
          }
          const float g_re = g[l * l + l + m], g_im = m ? g[l * l + l - m] : 0.f;
          gz += slope * (g_re * re + g_im * im);
          gx += m * value * (g_re * re_below + g_im * im_below);
          gy += m * value * (g_im * re_below - g_re * im_below);
        }
        re_below = re, im_below = im;
        re = re_below * x - im_below * y, im = re_below * y + im_below * x;
      }
      float* o = grad_directions + 3 * (size_t)(first + i);
      o[0] = gx, o[1] = gy, o[2] = gz;
    }
  }
};

KERNEL(SphericalHarmonics)
KERNEL(SphericalHarmonicsBackward)
