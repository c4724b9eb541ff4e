// Gaussians seen by a camera: where their middles fall, how wide they are on the sensor, and how
// opaque; and the gradients of that. One row of a packed result is one Gaussian that is seen. A camera
// is world to camera [3, 4], focal, center, and the lens's numbers: k1 to k4 of a fisheye; of one that
// bends k1 k2 p1 p2 k3 to k6, and the farthest r^2.
#pragma once
#include "splat_lens.cuh"
#include "splat_points.cuh"

constexpr int SPLAT_CAMERA = 20, SPLAT_BENT_CAMERA = 25;  // numbers
constexpr float SPLAT_FAINTEST = 1 / 255.f;
constexpr float SPLAT_WIDEST = 1e18f;   // square pixels

// A Gaussian's middle, and half the sides of what is drawn of it, as columns of one row; 0 where
// nothing is. Numbers that are none fail every comparison.
FN void splat_columns(const SplatSpread& seen, const float* at, float depth, bool may, float width, float height,
                      float* mean2d, float* conic, float* opacity, float* row_depth, float* extent) {
  const float left = seen.opacity * seen.share, by = 1 / seen.full_det;
  const float reach = 2 * logarithm(larger(255 * left, 1.f));
  const float half_x = square_root(reach * seen.xx), half_y = square_root(reach * seen.yy);
  const bool there = may && left >= SPLAT_FAINTEST && seen.full_det > 0 && seen.full_det < 3e38f &&
                     at[0] + half_x > 0 && at[0] - half_x < width && at[1] + half_y > 0 && at[1] - half_y < height;
  mean2d[0] = at[0], mean2d[1] = at[1];
  conic[0] = seen.yy * by, conic[1] = -seen.xy * by, conic[2] = seen.xx * by;
  *opacity = left, *row_depth = depth;
  extent[0] = there ? half_x : 0, extent[1] = there ? half_y : 0;
}

// One Gaussian before a camera, and all that leads from its numbers to the sensor.
template <int MODEL>
struct SplatSeen : SplatPlaced, SplatSpread {
  float slope[6];   // J
  float across[6];  // J factor: the covariance on the sensor is its square
  float at[2];      // where its middle falls
  float depth;
  bool may;         // be seen, as far as the lens goes

  FN void look(const float* mean, const float* log_scale, const float* quaternion, float logit,
               const float* camera, float near, float width, float height, float dilation, bool antialiased) {
    place(mean, log_scale, quaternion, camera);
    depth = SplatLens<MODEL>::depth(p), may = SplatLens<MODEL>::sees(camera, p) && depth > near;
    SplatLens<MODEL>::pixel(camera, p, at);
    SplatLens<MODEL>::slopes(camera, p, width, height, slope);
    UNROLL for (int i = 0; i < 2; ++i) {
      UNROLL for (int k = 0; k < 3; ++k)
        across[3 * i + k] = slope[3 * i] * factor[k] + slope[3 * i + 1] * factor[3 + k] + slope[3 * i + 2] * factor[6 + k];
    }
    const float *a = across, *b = across + 3;
    const float most = larger(a[0] * a[0] + a[1] * a[1] + a[2] * a[2], b[0] * b[0] + b[1] * b[1] + b[2] * b[2]);
    const float by = most > SPLAT_WIDEST ? square_root(SPLAT_WIDEST / most) : 1.f;
    UNROLL for (int i = 0; i < 6; ++i) across[i] *= by;
    xx = a[0] * a[0] + a[1] * a[1] + a[2] * a[2], yy = b[0] * b[0] + b[1] * b[1] + b[2] * b[2];
    xy = a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    // The square of the rows' cross product: no difference of large numbers.
    const float c0 = a[1] * b[2] - a[2] * b[1], c1 = a[2] * b[0] - a[0] * b[2], c2 = a[0] * b[1] - a[1] * b[0];
    spread(c0 * c0 + c1 * c1 + c2 * c2, logit, dilation, antialiased);
  }

  // Of gradients to the covariance, to the middle on the sensor and to the depth: to p and factor.
  FN void back(const float* camera, float width, float height, float vxx, float vxy, float vyy, const float* to_at,
               float to_depth, float* to_p, float* to_factor) const {
    // To J factor, whose square the covariance is; then to either.
    float to_across[6], to_slope[6];
    UNROLL for (int k = 0; k < 3; ++k) {
      to_across[k] = 2 * (vxx * across[k] + vxy * across[3 + k]);
      to_across[3 + k] = 2 * (vxy * across[k] + vyy * across[3 + k]);
    }
    UNROLL for (int r = 0; r < 2; ++r) {
      UNROLL for (int c = 0; c < 3; ++c) {
        to_slope[3 * r + c] = 0;
        UNROLL for (int k = 0; k < 3; ++k) to_slope[3 * r + c] += to_across[3 * r + k] * factor[3 * c + k];
      }
    }
    UNROLL for (int r = 0; r < 3; ++r) {
      UNROLL for (int k = 0; k < 3; ++k)
        to_factor[3 * r + k] = slope[r] * to_across[k] + slope[3 + r] * to_across[3 + k];
    }
    // Pixels move by J as it is for the point itself, beside the sensor too.
    float own[6];
    SplatLens<MODEL>::slopes(camera, p, 1e9f, 1e9f, own);
    UNROLL for (int d = 0; d < 3; ++d) to_p[d] = own[d] * to_at[0] + own[3 + d] * to_at[1];
    SplatLens<MODEL>::depth_back(p, to_depth, to_p);
    SplatLens<MODEL>::slopes_back(camera, p, width, height, to_slope, to_p);
  }
};

// means, log_scales [n, 3], quaternions [n, 4], logits [n], camera -> means2d [n, 2], conics
// [n, 3], opacities, depths [n], extents [n, 2]: half the sides of what may be drawn; 0 where none is.
template <int MODEL>
struct SplatProject {
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
    TILE float lens[SPLAT_BENT_CAMERA], given[11 * SPLAT_ROWS], found[9 * SPLAT_ROWS];
    const int first = tile * SPLAT_ROWS, left = n - first;
    const int here = left < SPLAT_ROWS ? left : SPLAT_ROWS;
    LANES(k, MODEL == SPLAT_BENT ? SPLAT_BENT_CAMERA : SPLAT_CAMERA) lens[k] = camera[k];
    LANES(lane, here) splat_take(means, log_scales, quaternions, logits, first + lane, given + lane);
    SYNC();
    const float w = (float)width, h = (float)height, from = near, grown = dilation;
    const bool smooth = antialiased;
    LANES(lane, here) {
      float number[11], column[9];
      UNROLL for (int k = 0; k < 11; ++k) number[k] = given[k * SPLAT_ROWS + lane];
      SplatSeen<MODEL> seen;
      seen.look(number, number + 3, number + 6, number[10], lens, from, w, h, grown, smooth);
      splat_columns(seen, seen.at, seen.depth, seen.may, w, h, column, column + 2, column + 5, column + 6, column + 7);
      UNROLL for (int k = 0; k < 9; ++k) found[k * SPLAT_ROWS + lane] = column[k];
    }
    SYNC();
    LANES(lane, here) {
      const size_t i = first + lane;
      const float* column = found + lane;
      UNROLL for (int k = 0; k < 2; ++k) means2d[2 * i + k] = column[k * SPLAT_ROWS];
      UNROLL for (int k = 0; k < 3; ++k) conics[3 * i + k] = column[(2 + k) * SPLAT_ROWS];
      opacities[i] = column[5 * SPLAT_ROWS], depths[i] = column[6 * SPLAT_ROWS];
      UNROLL for (int k = 0; k < 2; ++k) extents[2 * i + k] = column[(7 + k) * SPLAT_ROWS];
    }
  }
};

// index [v] of the Gaussians that are seen, and gradients to their rows -> rows of the gradients to
// all Gaussians, the others' left alone; grad_camera [tiles, 12]: a tile's part of that to the pose.
template <int MODEL>
struct SplatProjectPull {
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
    TILE float lens[SPLAT_BENT_CAMERA], given[11 * SPLAT_ROWS], grads[7 * SPLAT_ROWS];
    TILE float found[11 * SPLAT_ROWS], pose[12 * SPLAT_ROWS];
    const int first = tile * SPLAT_ROWS, left = n - first;
    const int here = left < SPLAT_ROWS ? left : SPLAT_ROWS;
    LANES(k, MODEL == SPLAT_BENT ? SPLAT_BENT_CAMERA : SPLAT_CAMERA) lens[k] = camera[k];
    LANES(lane, here) {
      const size_t row = first + lane;
      splat_take(means, log_scales, quaternions, logits, index[row], given + lane);
      float* own = grads + lane;
      UNROLL for (int k = 0; k < 2; ++k) own[k * SPLAT_ROWS] = grad_means2d[2 * row + k];
      UNROLL for (int k = 0; k < 3; ++k) own[(2 + k) * SPLAT_ROWS] = grad_conics[3 * row + k];
      own[5 * SPLAT_ROWS] = grad_opacities[row], own[6 * SPLAT_ROWS] = grad_depths[row];
    }
    SYNC();
    const float w = (float)width, h = (float)height, grown = dilation;
    const bool smooth = antialiased;
    LANES(lane, here) {
      float number[11], grad[7], to_number[11], moved[12];
      UNROLL for (int k = 0; k < 11; ++k) number[k] = given[k * SPLAT_ROWS + lane];
      UNROLL for (int k = 0; k < 7; ++k) grad[k] = grads[k * SPLAT_ROWS + lane];
      SplatSeen<MODEL> seen;
      seen.look(number, number + 3, number + 6, number[10], lens, 0.f, w, h, grown, smooth);
      float vxx, vxy, vyy, to_p[3], to_factor[9];
      to_number[10] = seen.back_to_covariance(grad + 2, grad[5], grown, smooth, vxx, vxy, vyy);
      seen.back(lens, w, h, vxx, vxy, vyy, grad, grad[6], to_p, to_factor);
      seen.back_to_numbers(number, lens, to_p, to_factor, to_number, to_number + 3, to_number + 6, moved);
      UNROLL for (int k = 0; k < 11; ++k) found[k * SPLAT_ROWS + lane] = to_number[k];
      UNROLL for (int k = 0; k < 12; ++k) pose[k * SPLAT_ROWS + lane] = moved[k];
    }
    SYNC();
    LANES(lane, here) {
      const i64 i = index[first + lane];
      const float* own = found + lane;
      UNROLL for (int k = 0; k < 3; ++k) grad_means[3 * i + k] = own[k * SPLAT_ROWS];
      UNROLL for (int k = 0; k < 3; ++k) grad_log_scales[3 * i + k] = own[(3 + k) * SPLAT_ROWS];
      UNROLL for (int k = 0; k < 4; ++k) grad_quaternions[4 * i + k] = own[(6 + k) * SPLAT_ROWS];
      grad_logits[i] = own[10 * SPLAT_ROWS];
    }
    LANES(part, 12) {
      float sum = 0;
      for (int lane = 0; lane < here; ++lane) sum += pose[part * SPLAT_ROWS + lane];
      grad_camera[12 * (size_t)tile + part] = sum;
    }
  }
};

KERNEL(SplatProject<0>)
KERNEL(SplatProject<1>)
KERNEL(SplatProject<2>)
KERNEL(SplatProjectPull<0>)
KERNEL(SplatProjectPull<1>)
KERNEL(SplatProjectPull<2>)
