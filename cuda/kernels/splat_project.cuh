// Gaussians seen by a camera: where their middles fall, how wide they are on the sensor, and how
// opaque; and the gradients of that. One row of a packed result is one Gaussian that is seen.
#pragma once
#include "tile.cuh"

constexpr int SPLAT_ROWS = 64;     // in one tile
constexpr int SPLAT_CAMERA = 20;   // numbers: world to camera [3, 4], focal, center, k1 to k4
constexpr int SPLAT_PINHOLE = 0;
constexpr int SPLAT_FISHEYE = 1;
constexpr float SPLAT_FAINTEST = 1 / 255.f;
constexpr float SPLAT_BESIDE = 0.15f;   // of the sensor's sides, beyond which slopes are those there
constexpr float SPLAT_LEAST_SHARE = 0.005f;
constexpr float SPLAT_WIDEST = 1e18f;   // square pixels

// A number and its slopes along x, y, z of a point before the camera.
struct Sloped {
  float v;
  float d[3];
};
FN Sloped sloped(float v, int axis) { return {v, {axis == 0 ? 1.f : 0.f, axis == 1 ? 1.f : 0.f, axis == 2 ? 1.f : 0.f}}; }
FN Sloped with_slope(Sloped a, float v, float by) { return {v, {by * a.d[0], by * a.d[1], by * a.d[2]}}; }
FN Sloped operator+(Sloped a, Sloped b) { return {a.v + b.v, {a.d[0] + b.d[0], a.d[1] + b.d[1], a.d[2] + b.d[2]}}; }
FN Sloped operator-(Sloped a, Sloped b) { return {a.v - b.v, {a.d[0] - b.d[0], a.d[1] - b.d[1], a.d[2] - b.d[2]}}; }
FN Sloped operator*(Sloped a, Sloped b) {
  return {a.v * b.v, {a.v * b.d[0] + a.d[0] * b.v, a.v * b.d[1] + a.d[1] * b.v, a.v * b.d[2] + a.d[2] * b.v}};
}
FN Sloped operator*(float k, Sloped a) { return {k * a.v, {k * a.d[0], k * a.d[1], k * a.d[2]}}; }
FN Sloped operator+(float k, Sloped a) { return {k + a.v, {a.d[0], a.d[1], a.d[2]}}; }
FN Sloped over(Sloped a, Sloped b) { const float by = 1 / b.v; return a * with_slope(b, by, -by * by); }
FN Sloped root_of(Sloped a) { const float r = square_root(a.v); return with_slope(a, r, 0.5f / r); }

// The angle of (x, y), x and y not both 0 and y at least 0, within 4e-7: no call into a library.
FN float angle_of(float y, float x) {
  const float across = absolute(x);
  const bool steep = y > across;
  const float t = steep ? across / y : y / larger(across, 1e-30f);
  const bool far = t > 0.41421356f;  // tan of 22.5 degrees
  const float r = far ? (t - 1) / (t + 1) : t, s = r * r;
  const float p = ((8.05374449538e-2f * s - 1.38776856032e-1f) * s + 1.99777106478e-1f) * s - 3.33329491539e-1f;
  float a = p * s * r + r + (far ? 0.785398163397f : 0.f);
  a = steep ? 1.57079632679f - a : a;
  return x < 0 ? 3.14159265359f - a : a;
}

// How a lens maps a point p before the camera to pixels, and the slopes of that, J [2, 3].
// ahead: what J is made of, with the slopes of J itself.
template <int MODEL>
struct SplatLens;

template <>
struct SplatLens<SPLAT_PINHOLE> {
  static FN bool sees(const float*, const float*) { return true; }
  static FN float depth(const float* p) { return p[2]; }
  static FN void depth_back(const float*, float grad, float* grad_p) { grad_p[2] += grad; }

  static FN void pixel(const float* camera, const float* p, float* at) {
    at[0] = camera[12] * p[0] / p[2] + camera[14], at[1] = camera[13] * p[1] / p[2] + camera[15];
  }
  // Slopes of what is far beside the sensor are taken at its side: linear in a point, they explode.
  static FN float beside(float at, float focal, float center, float size, bool& within) {
    const float low = -(center + SPLAT_BESIDE * size) / focal;
    const float high = (size - center + SPLAT_BESIDE * size) / focal;
    within = at >= low && at <= high;
    return at < low ? low : at > high ? high : at;
  }
  static FN void slopes(const float* camera, const float* p, float width, float height, float* j) {
    bool within;
    const float by = 1 / p[2];
    const float u = beside(p[0] * by, camera[12], camera[14], width, within);
    const float v = beside(p[1] * by, camera[13], camera[15], height, within);
    j[0] = camera[12] * by, j[1] = 0, j[2] = -camera[12] * u * by;
    j[3] = 0, j[4] = camera[13] * by, j[5] = -camera[13] * v * by;
  }
  // Of the gradient to J: that to p.
  static FN void slopes_back(const float* camera, const float* p, float width, float height,
                             const float* grad_j, float* grad_p) {
    bool in_x, in_y;
    const float by = 1 / p[2], fx = camera[12], fy = camera[13];
    const float u = beside(p[0] * by, fx, camera[14], width, in_x);
    const float v = beside(p[1] * by, fy, camera[15], height, in_y);
    grad_p[0] += in_x ? -fx * by * by * grad_j[2] : 0;
    grad_p[1] += in_y ? -fy * by * by * grad_j[5] : 0;
    grad_p[2] += by * by * ((in_x ? 2 : 1) * fx * u * grad_j[2] + (in_y ? 2 : 1) * fy * v * grad_j[5] -
                            fx * grad_j[0] - fy * grad_j[4]);
  }
};

template <>
struct SplatLens<SPLAT_FISHEYE> {
  // Not what is past the angle at which the lens folds.
  static FN bool sees(const float* camera, const float* p) {
    float slope;
    bent(camera, angle_of(square_root(p[0] * p[0] + p[1] * p[1]), p[2]), slope);
    return slope > 0;
  }
  // Along the ray: it sees what is beside and behind.
  static FN float depth(const float* p) { return square_root(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]); }
  static FN void depth_back(const float* p, float grad, float* grad_p) {
    const float by = grad / depth(p);
    UNROLL for (int d = 0; d < 3; ++d) grad_p[d] += by * p[d];
  }
  // The angle on the sensor, and how fast it grows.
  static FN float bent(const float* camera, float angle, float& slope) {
    const float s = angle * angle, *k = camera + 16;
    slope = 1 + s * (3 * k[0] + s * (5 * k[1] + s * (7 * k[2] + s * 9 * k[3])));
    return angle * (1 + s * (k[0] + s * (k[1] + s * (k[2] + s * k[3]))));
  }
  static FN float bend_of_slope(const float* camera, float angle) {
    const float s = angle * angle, *k = camera + 16;
    return angle * (6 * k[0] + s * (20 * k[1] + s * (42 * k[2] + s * 72 * k[3])));
  }
  static FN void pixel(const float* camera, const float* p, float* at) {
    const float r = square_root(p[0] * p[0] + p[1] * p[1]);
    float slope;
    const float by = r > 1e-4f * absolute(p[2]) ? bent(camera, angle_of(r, p[2]), slope) / r : 1 / p[2];
    at[0] = camera[12] * p[0] * by + camera[14], at[1] = camera[13] * p[1] * by + camera[15];
  }
  static FN void ahead(const float* camera, const float* p, Sloped* j) {
    const Sloped x = sloped(p[0], 0), y = sloped(p[1], 1), z = sloped(p[2], 2);
    const Sloped xx = x * x, yy = y * y, across = xx + yy;
    if (!(across.v > 1e-8f * p[2] * p[2])) {  // along the axis a pinhole's
      const Sloped by = over(sloped(1, 3), z);
      j[0] = j[4] = by, j[1] = j[3] = sloped(0, 3), j[2] = -1.f * (x * by * by), j[5] = -1.f * (y * by * by);
    } else {
      const Sloped r = root_of(across), square = across + z * z;
      // The angle's slopes: along r it grows by z, along z it falls by r, over the squared distance.
      const float angle = angle_of(r.v, p[2]), by = 1 / square.v;
      Sloped theta = {angle, {}};
      UNROLL for (int d = 0; d < 3; ++d) theta.d[d] = (p[2] * r.d[d] - (d == 2 ? r.v : 0)) * by;
      float slope;
      const float angle_bent = bent(camera, angle, slope);
      const Sloped turned = with_slope(theta, angle_bent, slope);
      const Sloped grows = with_slope(theta, slope, bend_of_slope(camera, angle));
      const Sloped a = over(grows * z, square * across), b = over(turned, r * across);
      j[0] = xx * a + yy * b, j[1] = x * y * (a - b), j[2] = -1.f * over(x * grows, square);
      j[3] = j[1], j[4] = yy * a + xx * b, j[5] = -1.f * over(y * grows, square);
    }
    UNROLL for (int i = 0; i < 3; ++i) j[i] = camera[12] * j[i], j[3 + i] = camera[13] * j[3 + i];
  }
  static FN void slopes(const float* camera, const float* p, float, float, float* j) {
    Sloped all[6];
    ahead(camera, p, all);
    UNROLL for (int i = 0; i < 6; ++i) j[i] = all[i].v;
  }
  static FN void slopes_back(const float* camera, const float* p, float, float, const float* grad_j,
                             float* grad_p) {
    Sloped all[6];
    ahead(camera, p, all);
    UNROLL for (int i = 0; i < 6; ++i) {
      UNROLL for (int d = 0; d < 3; ++d) grad_p[d] += all[i].d[d] * grad_j[i];
    }
  }
};

// One Gaussian before a camera.
struct SplatPlaced {
  float p[3];      // its middle
  float size[3];   // standard deviations along its axes
  float turn[9];   // its axes as columns
  float unit[4];   // its quaternion at length 1
  float length;    // before
  float factor[9]; // W R diag(size): the covariance before the camera is its square

  FN void place(const float* mean, const float* log_scale, const float* quaternion, const float* camera) {
    UNROLL for (int i = 0; i < 3; ++i)
      p[i] = camera[4 * i] * mean[0] + camera[4 * i + 1] * mean[1] + camera[4 * i + 2] * mean[2] + camera[4 * i + 3];
    UNROLL for (int i = 0; i < 3; ++i) size[i] = exponential(log_scale[i]);
    float square = 0;
    UNROLL for (int i = 0; i < 4; ++i) square += quaternion[i] * quaternion[i];
    length = square_root(square);
    UNROLL for (int i = 0; i < 4; ++i) unit[i] = quaternion[i] / length;
    const float w = unit[0], x = unit[1], y = unit[2], z = unit[3];
    turn[0] = 1 - 2 * (y * y + z * z), turn[1] = 2 * (x * y - w * z), turn[2] = 2 * (x * z + w * y);
    turn[3] = 2 * (x * y + w * z), turn[4] = 1 - 2 * (x * x + z * z), turn[5] = 2 * (y * z - w * x);
    turn[6] = 2 * (x * z - w * y), turn[7] = 2 * (y * z + w * x), turn[8] = 1 - 2 * (x * x + y * y);
    UNROLL for (int i = 0; i < 3; ++i) {
      UNROLL for (int k = 0; k < 3; ++k)
        factor[3 * i + k] = size[k] * (camera[4 * i] * turn[k] + camera[4 * i + 1] * turn[3 + k] + camera[4 * i + 2] * turn[6 + k]);
    }
  }

  // Of gradients to p and to factor: those to its numbers and, into pose [12], to the camera's place.
  FN void back(const float* mean, const float* camera, const float* to_p, const float* to_factor,
               float* grad_mean, float* grad_log_scale, float* grad_quaternion, float* pose) const {
    float to_world[9];
    UNROLL for (int r = 0; r < 3; ++r) {
      UNROLL for (int k = 0; k < 3; ++k)
        to_world[3 * r + k] = camera[r] * to_factor[k] + camera[4 + r] * to_factor[3 + k] + camera[8 + r] * to_factor[6 + k];
    }
    UNROLL for (int d = 0; d < 3; ++d)
      grad_mean[d] = camera[d] * to_p[0] + camera[4 + d] * to_p[1] + camera[8 + d] * to_p[2];
    UNROLL for (int r = 0; r < 3; ++r) {
      UNROLL for (int c = 0; c < 3; ++c) {
        float sum = to_p[r] * mean[c];
        UNROLL for (int k = 0; k < 3; ++k) sum += to_factor[3 * r + k] * size[k] * turn[3 * c + k];
        pose[4 * r + c] = sum;
      }
      pose[4 * r + 3] = to_p[r];
    }
    float v[9];
    UNROLL for (int k = 0; k < 3; ++k) {
      float sum = 0;
      UNROLL for (int r = 0; r < 3; ++r) {
        sum += turn[3 * r + k] * to_world[3 * r + k];
        v[3 * r + k] = to_world[3 * r + k] * size[k];
      }
      grad_log_scale[k] = sum * size[k];
    }
    const float w = unit[0], x = unit[1], y = unit[2], z = unit[3];
    const float to_unit[4] = {
        2 * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1])),
        2 * (-2 * x * (v[4] + v[8]) + y * (v[3] + v[1]) + z * (v[6] + v[2]) + w * (v[7] - v[5])),
        2 * (x * (v[3] + v[1]) - 2 * y * (v[0] + v[8]) + z * (v[7] + v[5]) + w * (v[2] - v[6])),
        2 * (x * (v[6] + v[2]) + y * (v[7] + v[5]) - 2 * z * (v[0] + v[4]) + w * (v[3] - v[1]))};
    const float along = w * to_unit[0] + x * to_unit[1] + y * to_unit[2] + z * to_unit[3];
    UNROLL for (int d = 0; d < 4; ++d) grad_quaternion[d] = (to_unit[d] - along * unit[d]) / length;
  }
};

// What is drawn of a covariance on the sensor.
struct SplatSpread {
  float xx, xy, yy;
  float full_det;
  float share;    // of the opacity that is left where it is spread
  float opacity;  // before that

  // det: that of the covariance, without what is added to it.
  FN void spread(float det, float logit, float dilation, bool antialiased) {
    full_det = det + dilation * (xx + yy) + dilation * dilation;
    xx += dilation, yy += dilation;
    const float part = det / full_det;
    share = antialiased ? square_root(larger(part, SPLAT_LEAST_SHARE * SPLAT_LEAST_SHARE)) : 1;
    opacity = 1 / (1 + exponential(-logit));
  }
  // Of gradients to the conic and to what is left of the opacity: to the covariance's xx, xy (of
  // either of its two) and yy; returns that to the logit.
  FN float back(const float* grad_conic, float grad_opacity, float dilation, bool antialiased, float& vxx,
                float& vxy, float& vyy) const {
    const float by = 1 / full_det;
    const float A = yy * by, B = -xy * by, C = xx * by;
    const float ga = grad_conic[0], gb = 0.5f * grad_conic[1], gc = grad_conic[2];
    // To the covariance K^-1: -K G K, K the conic.
    const float a0 = A * ga + B * gb, a1 = A * gb + B * gc, b0 = B * ga + C * gb, b1 = B * gb + C * gc;
    vxx = -(a0 * A + a1 * B), vxy = -(a0 * B + a1 * C), vyy = -(b0 * B + b1 * C);
    if (antialiased && share > SPLAT_LEAST_SHARE) {
      const float part = opacity * grad_opacity / (2 * share), rest = 1 - share * share;
      vxx += part * (rest * A - dilation * by), vyy += part * (rest * C - dilation * by), vxy += part * rest * B;
    }
    return grad_opacity * share * opacity * (1 - opacity);
  }
};

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

  FN void look(const float* mean, const float* log_scale, const float* quaternion, float logit,
               const float* camera, float width, float height, float dilation, bool antialiased) {
    place(mean, log_scale, quaternion, camera);
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
};

// means, log_scales [n, 3], quaternions [n, 4], logits [n], camera [20] -> means2d [n, 2], conics
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
      seen.look(means + 3 * i, log_scales + 3 * i, quaternions + 4 * i, logits[i], camera, (float)width,
                (float)height, dilation, antialiased);
      const float depth = SplatLens<MODEL>::depth(seen.p);
      float at[2];
      SplatLens<MODEL>::pixel(camera, seen.p, at);
      const bool may = SplatLens<MODEL>::sees(camera, seen.p) && depth > near;
      splat_columns(seen, at, depth, may, width, height, means2d + 2 * i, conics + 3 * i, opacities + i, depths + i,
                    extents + 2 * i);
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
    seen.look(mean, log_scales + 3 * i, quaternions + 4 * i, logits[i], camera, (float)width, (float)height,
              dilation, antialiased);
    float vxx, vxy, vyy;
    grad_logits[i] = seen.SplatSpread::back(grad_conics + 3 * row, grad_opacities[row], dilation, antialiased, vxx, vxy, vyy);
    // To J factor, whose square the covariance is; then to either.
    float to_across[6], to_slope[6], to_factor[9], to_p[3];
    UNROLL for (int k = 0; k < 3; ++k) {
      to_across[k] = 2 * (vxx * seen.across[k] + vxy * seen.across[3 + k]);
      to_across[3 + k] = 2 * (vxy * seen.across[k] + vyy * seen.across[3 + k]);
    }
    UNROLL for (int r = 0; r < 2; ++r) {
      UNROLL for (int c = 0; c < 3; ++c) {
        to_slope[3 * r + c] = 0;
        UNROLL for (int k = 0; k < 3; ++k) to_slope[3 * r + c] += to_across[3 * r + k] * seen.factor[3 * c + k];
      }
    }
    UNROLL for (int r = 0; r < 3; ++r) {
      UNROLL for (int k = 0; k < 3; ++k)
        to_factor[3 * r + k] = seen.slope[r] * to_across[k] + seen.slope[3 + r] * to_across[3 + k];
    }
    // Pixels move by J as it is for the point itself, beside the sensor too.
    float own[6];
    SplatLens<MODEL>::slopes(camera, seen.p, 1e9f, 1e9f, own);
    const float gx = grad_means2d[2 * row], gy = grad_means2d[2 * row + 1];
    UNROLL for (int d = 0; d < 3; ++d) to_p[d] = own[d] * gx + own[3 + d] * gy;
    SplatLens<MODEL>::depth_back(seen.p, grad_depths[row], to_p);
    SplatLens<MODEL>::slopes_back(camera, seen.p, (float)width, (float)height, to_slope, to_p);
    seen.SplatPlaced::back(mean, camera, to_p, to_factor, grad_means + 3 * i, grad_log_scales + 3 * i,
                           grad_quaternions + 4 * i, pose);
  }
};

KERNEL(SplatProject<0>)
KERNEL(SplatProject<1>)
KERNEL(SplatProjectPull<0>)
KERNEL(SplatProjectPull<1>)
