// How straight and fisheye lenses map points before a camera to pixels, with the slopes of that.
#pragma once
#include "tile.cuh"

constexpr int SPLAT_PINHOLE = 0;
constexpr int SPLAT_FISHEYE = 1;
constexpr float SPLAT_BESIDE = 0.15f;   // of the sensor's sides, beyond which slopes are those there

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
    grad_p[0] += in_x ? -fx * by * by * grad_j[2] : 0.f;
    grad_p[1] += in_y ? -fy * by * by * grad_j[5] : 0.f;
    grad_p[2] += by * by * ((in_x ? 2.f : 1.f) * fx * u * grad_j[2] + (in_y ? 2.f : 1.f) * fy * v * grad_j[5] -
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
