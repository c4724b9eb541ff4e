// A Gaussian seen through a lens that bends straight lines: where it maps the middle and six points
// about it (the unscented transform, 3DGUT, arXiv:2412.12507, with alpha 1, beta 2, kappa 0).
#pragma once
#include "splat_placed.cuh"

constexpr int SPLAT_BENT = 2;
constexpr float POINTS_APART = 1.7320508f;  // standard deviations
constexpr float POINTS_BESIDE = 0.1f;  // of the sensor's sides, within which a point says where it is

template <int MODEL>
struct SplatSeen;

// How a lens of OpenCV's maps a point before the camera to pixels; J [2, 3]: the slopes of that.
// Source: OpenCV, Camera calibration and 3D reconstruction.
FN bool bent_pixel(const float* camera, const float* p, float near, float* at, float* j) {
  const float *k = camera + 16, by = 1 / p[2], a = p[0] * by, b = p[1] * by;
  const float r2 = a * a + b * b;
  const float up = 1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4])), down = 1 / (1 + r2 * (k[5] + r2 * (k[6] + r2 * k[7])));
  const float up_slope = k[0] + r2 * (2 * k[1] + r2 * 3 * k[4]), down_slope = k[5] + r2 * (2 * k[6] + r2 * 3 * k[7]);
  const float g = up * down, g_slope = (up_slope - g * down_slope) * down;
  const float p1 = k[2], p2 = k[3];
  at[0] = camera[12] * (a * g + 2 * p1 * a * b + p2 * (r2 + 2 * a * a)) + camera[14];
  at[1] = camera[13] * (b * g + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b) + camera[15];
  const float daa = g + 2 * a * a * g_slope + 2 * p1 * b + 6 * p2 * a, dbb = g + 2 * b * b * g_slope + 6 * p1 * b + 2 * p2 * a;
  const float dab = 2 * a * b * g_slope + 2 * p1 * a + 2 * p2 * b;
  const float fx = camera[12] * by, fy = camera[13] * by;
  j[0] = fx * daa, j[1] = fx * dab, j[2] = -fx * (daa * a + dab * b);
  j[3] = fy * dab, j[4] = fy * dbb, j[5] = -fy * (dab * a + dbb * b);
  return p[2] > near && r2 < camera[24];
}

// The seven points of a Gaussian: p, and p along its axes, one way and the other.
template <>
struct SplatSeen<SPLAT_BENT> : SplatPlaced, SplatSpread {
  float points[14];  // on the sensor
  float slopes[42];  // J of each
  float at[2];       // the mean of the six
  float depth;
  bool may;          // be seen, as far as the lens goes

  FN void look(const float* middle, const float* log_scale, const float* quaternion, float logit, const float* camera,
               float near, float width, float height, float dilation, bool antialiased) {
    place(middle, log_scale, quaternion, camera);
    may = true;
    bool within = false;
    UNROLL for (int i = 0; i < 7; ++i) {
      float q[3];
      UNROLL for (int d = 0; d < 3; ++d)
        q[d] = p[d] + (i == 0 ? 0.f : (i < 4 ? POINTS_APART : -POINTS_APART) * factor[3 * d + (i + 2) % 3]);
      may = bent_pixel(camera, q, near, points + 2 * i, slopes + 6 * i) && may;
      const float x = points[2 * i], y = points[2 * i + 1];
      within = within || (x > -POINTS_BESIDE * width && x < (1 + POINTS_BESIDE) * width && y > -POINTS_BESIDE * height &&
                          y < (1 + POINTS_BESIDE) * height);
    }
    may = may && within;
    depth = p[2];
    UNROLL for (int d = 0; d < 2; ++d) {
      at[d] = 0;
      UNROLL for (int i = 1; i < 7; ++i) at[d] += points[2 * i + d] / 6;
    }
    float off[14];  // from the mean, by the root of their weights
    UNROLL for (int i = 0; i < 7; ++i) {
      UNROLL for (int d = 0; d < 2; ++d) off[2 * i + d] = (i == 0 ? 1.41421356f : 0.40824829f) * (points[2 * i + d] - at[d]);
    }
    xx = xy = yy = 0;
    float det = 0;  // a sum of squares: no difference of large numbers
    UNROLL for (int i = 0; i < 7; ++i) {
      const float x = off[2 * i], y = off[2 * i + 1];
      xx += x * x, xy += x * y, yy += y * y;
      UNROLL for (int k = i + 1; k < 7; ++k) {
        const float cross = x * off[2 * k + 1] - y * off[2 * k];
        det += cross * cross;
      }
    }
    spread(det, logit, dilation, antialiased);
  }

  // Of gradients to the covariance, to the middle on the sensor and to the depth: to p and factor.
  FN void back(const float*, float, float, float vxx, float vxy, float vyy, const float* to_at, float to_depth,
               float* to_p, float* to_factor) const {
    // The mean moves the covariance through the middle alone: the six are about it.
    const float off_x = points[0] - at[0], off_y = points[1] - at[1];
    const float middle_x = 4 * (vxx * off_x + vxy * off_y), middle_y = 4 * (vxy * off_x + vyy * off_y);
    const float mean_x = to_at[0] - middle_x, mean_y = to_at[1] - middle_y;
    to_p[0] = to_p[1] = 0, to_p[2] = to_depth;
    UNROLL for (int k = 0; k < 9; ++k) to_factor[k] = 0;
    UNROLL for (int k = 0; k < 7; ++k) {
      const float x = points[2 * k] - at[0], y = points[2 * k + 1] - at[1];
      const float gx = k == 0 ? middle_x : (2 * (vxx * x + vxy * y) + mean_x) / 6;
      const float gy = k == 0 ? middle_y : (2 * (vxy * x + vyy * y) + mean_y) / 6;
      const float* j = slopes + 6 * k;
      UNROLL for (int d = 0; d < 3; ++d) {
        const float to_point = j[d] * gx + j[3 + d] * gy;
        to_p[d] += to_point;
        if (k > 0) to_factor[3 * d + (k + 2) % 3] += (k < 4 ? POINTS_APART : -POINTS_APART) * to_point;
      }
    }
  }
};
