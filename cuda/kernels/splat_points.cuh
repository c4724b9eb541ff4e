// Gaussians seen through a lens that bends straight lines: where it maps the middle of each and six
// points about it (the unscented transform, 3DGUT, arXiv:2412.12507, with alpha 1, beta 2, kappa 0),
// and the gradients of that.
#pragma once
#include "splat_project.cuh"

constexpr int POINTS_CAMERA = 25;  // numbers: world to camera [3, 4], focal, center, k1 k2 p1 p2 k3 to k6, farthest r^2
constexpr float POINTS_APART = 1.7320508f;  // standard deviations
constexpr float POINTS_BESIDE = 0.1f;  // of the sensor's sides, within which a point says where it is

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
struct SplatPointsSeen : SplatPlaced, SplatSpread {
  float at[14];     // on the sensor
  float slopes[42]; // J of each
  float mean[2];    // of the six
  bool may;

  FN void look(const float* middle, const float* log_scale, const float* quaternion, float logit, const float* camera,
               float near, float width, float height, float dilation, bool antialiased) {
    place(middle, log_scale, quaternion, camera);
    may = true;
    bool within = false;
    UNROLL for (int i = 0; i < 7; ++i) {
      float q[3];
      UNROLL for (int d = 0; d < 3; ++d)
        q[d] = p[d] + (i == 0 ? 0.f : (i < 4 ? POINTS_APART : -POINTS_APART) * factor[3 * d + (i + 2) % 3]);
      may = bent_pixel(camera, q, near, at + 2 * i, slopes + 6 * i) && may;
      const float x = at[2 * i], y = at[2 * i + 1];
      within = within || (x > -POINTS_BESIDE * width && x < (1 + POINTS_BESIDE) * width && y > -POINTS_BESIDE * height &&
                          y < (1 + POINTS_BESIDE) * height);
    }
    may = may && within;
    UNROLL for (int d = 0; d < 2; ++d) {
      mean[d] = 0;
      UNROLL for (int i = 1; i < 7; ++i) mean[d] += at[2 * i + d] / 6;
    }
    float off[14];  // from the mean, by the root of their weights
    UNROLL for (int i = 0; i < 7; ++i) {
      UNROLL for (int d = 0; d < 2; ++d) off[2 * i + d] = (i == 0 ? 1.41421356f : 0.40824829f) * (at[2 * i + d] - mean[d]);
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
};

// means, log_scales [n, 3], quaternions [n, 4], logits [n], camera [25] -> as SplatProject.
struct SplatPoints {
  const float* means;
  const float* log_scales;
  const float* quaternions;
  const float* logits;
  const float* camera;
  float* means2d;
  float* conics;
  float* opacities;
  float* depths;
  float* extents;
  int n;
  int width;
  int height;
  float near;
  float dilation;
  int antialiased;

  FN void operator()(int tile, int) const {
    const int first = tile * SPLAT_ROWS, left = n - first;
    LANES_IN_ORDER(lane, left < SPLAT_ROWS ? left : SPLAT_ROWS) {
      const size_t i = first + lane;
      SplatPointsSeen seen;
      seen.look(means + 3 * i, log_scales + 3 * i, quaternions + 4 * i, logits[i], camera, near, (float)width,
                (float)height, dilation, antialiased);
      splat_columns(seen, seen.mean, seen.p[2], seen.may, width, height, means2d + 2 * i, conics + 3 * i, opacities + i,
                    depths + i, extents + 2 * i);
    }
  }
};

// As SplatProjectPull.
struct SplatPointsPull {
  const float* means;
  const float* log_scales;
  const float* quaternions;
  const float* logits;
  const float* camera;
  const i64* index;
  const float* grad_means2d;
  const float* grad_conics;
  const float* grad_opacities;
  const float* grad_depths;
  float* grad_means;
  float* grad_log_scales;
  float* grad_quaternions;
  float* grad_logits;
  float* grad_camera;
  int n;
  int width;
  int height;
  float dilation;
  int antialiased;

  FN void operator()(int tile, int) const {
    TILE float pose[12 * SPLAT_ROWS];
    const int first = tile * SPLAT_ROWS, left = n - first;
    const int here = left < SPLAT_ROWS ? left : SPLAT_ROWS;
    LANES_IN_ORDER(lane, here) pull(first + lane, pose + 12 * lane);
    SYNC();
    LANES(part, 12) {
      float sum = 0;
      for (int lane = 0; lane < here; ++lane) sum += pose[12 * lane + part];
      grad_camera[12 * (size_t)tile + part] = sum;
    }
  }

  FN void pull(size_t row, float* pose) const {
    const i64 i = index[row];
    SplatPointsSeen seen;
    seen.look(means + 3 * i, log_scales + 3 * i, quaternions + 4 * i, logits[i], camera, 0.f, (float)width, (float)height,
              dilation, antialiased);
    float vxx, vxy, vyy;
    grad_logits[i] = seen.SplatSpread::back(grad_conics + 3 * row, grad_opacities[row], dilation, antialiased, vxx, vxy, vyy);
    // The mean moves the covariance through the middle alone: the six are about it.
    const float off_x = seen.at[0] - seen.mean[0], off_y = seen.at[1] - seen.mean[1];
    const float middle_x = 4 * (vxx * off_x + vxy * off_y), middle_y = 4 * (vxy * off_x + vyy * off_y);
    const float mean_x = grad_means2d[2 * row] - middle_x, mean_y = grad_means2d[2 * row + 1] - middle_y;
    float to_p[3] = {0, 0, grad_depths[row]}, to_factor[9];
    UNROLL for (int k = 0; k < 9; ++k) to_factor[k] = 0;
    UNROLL for (int k = 0; k < 7; ++k) {
      const float x = seen.at[2 * k] - seen.mean[0], y = seen.at[2 * k + 1] - seen.mean[1];
      const float gx = k == 0 ? middle_x : (2 * (vxx * x + vxy * y) + mean_x) / 6;
      const float gy = k == 0 ? middle_y : (2 * (vxy * x + vyy * y) + mean_y) / 6;
      const float* j = seen.slopes + 6 * k;
      UNROLL for (int d = 0; d < 3; ++d) {
        const float to_point = j[d] * gx + j[3 + d] * gy;
        to_p[d] += to_point;
        if (k > 0) to_factor[3 * d + (k + 2) % 3] += (k < 4 ? POINTS_APART : -POINTS_APART) * to_point;
      }
    }
    seen.SplatPlaced::back(means + 3 * i, camera, to_p, to_factor, grad_means + 3 * i, grad_log_scales + 3 * i,
                           grad_quaternions + 4 * i, pose);
  }
};

KERNEL(SplatPoints)
KERNEL(SplatPointsPull)
