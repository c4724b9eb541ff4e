// Gaussians seen by a camera: where their middles fall, how wide they are on the sensor, and how
// opaque; and the gradients of that. One row of a packed result is one Gaussian that is seen. A camera
// is world to camera [3, 4], focal, center, and the lens's numbers: k1 to k4 of a fisheye; of one that
// bends k1 k2 p1 p2 k3 to k6, and the farthest r^2.
#pragma once
#include "splat_lens.cuh"
#include "splat_points.cuh"

constexpr int SPLAT_ROWS = 64;     // in one tile
constexpr float SPLAT_FAINTEST = 1 / 255.f;
constexpr float SPLAT_WIDEST = 1e18f;   // square pixels

// A Gaussian's middle, and half the sides of what is drawn of it, as columns of one row; 0 where
// nothing is. Numbers that are none fail every comparison.
FN void splat_columns(const SplatSpread& seen, const float* at, float depth, bool may, int width, int height,
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
    if (most > SPLAT_WIDEST) {
      const float by = square_root(SPLAT_WIDEST / most);
      UNROLL for (int i = 0; i < 6; ++i) across[i] *= by;
    }
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
    const int first = tile * SPLAT_ROWS, left = n - first;
    LANES_IN_ORDER(lane, left < SPLAT_ROWS ? left : SPLAT_ROWS) {
      const size_t i = first + lane;
      SplatSeen<MODEL> seen;
      seen.look(means + 3 * i, log_scales + 3 * i, quaternions + 4 * i, logits[i], camera, near, (float)width,
                (float)height, dilation, antialiased);
      splat_columns(seen, seen.at, seen.depth, seen.may, width, height, means2d + 2 * i, conics + 3 * i, opacities + i,
                    depths + i, extents + 2 * i);
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
    const float* mean = means + 3 * i;
    SplatSeen<MODEL> seen;
    seen.look(mean, log_scales + 3 * i, quaternions + 4 * i, logits[i], camera, 0.f, (float)width, (float)height,
              dilation, antialiased);
    float vxx, vxy, vyy;
    grad_logits[i] = seen.back_to_covariance(grad_conics + 3 * row, grad_opacities[row], dilation, antialiased, vxx, vxy, vyy);
    float to_p[3], to_factor[9];
    seen.back(camera, (float)width, (float)height, vxx, vxy, vyy, grad_means2d + 2 * row, grad_depths[row], to_p, to_factor);
    seen.back_to_numbers(mean, camera, to_p, to_factor, grad_means + 3 * i, grad_log_scales + 3 * i,
                           grad_quaternions + 4 * i, pose);
  }
};

KERNEL(SplatProject<0>)
KERNEL(SplatProject<1>)
KERNEL(SplatProject<2>)
KERNEL(SplatProjectPull<0>)
KERNEL(SplatProjectPull<1>)
KERNEL(SplatProjectPull<2>)
