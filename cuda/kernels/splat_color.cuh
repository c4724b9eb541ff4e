// Colours of Gaussians from where a camera is: spherical harmonics to degree 3 of the way to them.
#pragma once
#include "tile.cuh"

constexpr int COLOR_ROWS = 64;  // in one tile
constexpr int COLOR_MOST = 16;  // functions

// The functions of a unit vector in the order and with the signs of 3D Gaussian splatting, and their
// slopes along x, y, z as polynomials: across the sphere alone they are right.
FN void color_basis(int count, float x, float y, float z, float* f, float (*d)[3]) {
  const float xx = x * x, yy = y * y, zz = z * z;
  const float a = 0.4886025119029199f, b = 1.0925484305920792f, c = 0.31539156525252005f;
  f[0] = 0.28209479177387814f, d[0][0] = d[0][1] = d[0][2] = 0;
  if (count > 1) {
    f[1] = -a * y, d[1][0] = 0, d[1][1] = -a, d[1][2] = 0;
    f[2] = a * z, d[2][0] = 0, d[2][1] = 0, d[2][2] = a;
    f[3] = -a * x, d[3][0] = -a, d[3][1] = 0, d[3][2] = 0;
  }
  if (count > 4) {
    const float e = 0.5462742152960396f;
    f[4] = b * x * y, d[4][0] = b * y, d[4][1] = b * x, d[4][2] = 0;
    f[5] = -b * y * z, d[5][0] = 0, d[5][1] = -b * z, d[5][2] = -b * y;
    f[6] = c * (2 * zz - xx - yy), d[6][0] = -2 * c * x, d[6][1] = -2 * c * y, d[6][2] = 4 * c * z;
    f[7] = -b * x * z, d[7][0] = -b * z, d[7][1] = 0, d[7][2] = -b * x;
    f[8] = e * (xx - yy), d[8][0] = 2 * e * x, d[8][1] = -2 * e * y, d[8][2] = 0;
  }
  if (count > 9) {
    const float g = -0.5900435899266435f, h = 2.890611442640554f, i = -0.4570457994644658f;
    const float j = 0.3731763325901154f, k = 1.445305721320277f;
    f[9] = g * y * (3 * xx - yy), d[9][0] = 6 * g * x * y, d[9][1] = 3 * g * (xx - yy), d[9][2] = 0;
    f[10] = h * x * y * z, d[10][0] = h * y * z, d[10][1] = h * x * z, d[10][2] = h * x * y;
    f[11] = i * y * (4 * zz - xx - yy), d[11][0] = -2 * i * x * y, d[11][1] = i * (4 * zz - xx - 3 * yy);
    d[11][2] = 8 * i * y * z;
    f[12] = j * z * (2 * zz - 3 * xx - 3 * yy), d[12][0] = -6 * j * x * z, d[12][1] = -6 * j * y * z;
    d[12][2] = 3 * j * (2 * zz - xx - yy);
    f[13] = i * x * (4 * zz - xx - yy), d[13][0] = i * (4 * zz - 3 * xx - yy), d[13][1] = -2 * i * x * y;
    d[13][2] = 8 * i * x * z;
    f[14] = k * z * (xx - yy), d[14][0] = 2 * k * x * z, d[14][1] = -2 * k * y * z, d[14][2] = k * (xx - yy);
    f[15] = g * x * (xx - 3 * yy), d[15][0] = 3 * g * (xx - yy), d[15][1] = -6 * g * x * y, d[15][2] = 0;
  }
}

struct ColorWay {
  float unit[3];
  float length;

  FN void of(const float* mean, const float* eye) {
    float square = 0;
    UNROLL for (int d = 0; d < 3; ++d) unit[d] = mean[d] - eye[d], square += unit[d] * unit[d];
    length = larger(square_root(square), 1e-20f);
    UNROLL for (int d = 0; d < 3; ++d) unit[d] /= length;
  }
};

// means [n, 3], harmonics [n, held, 3], eye [3], index [v], of which count functions are taken
// -> colors [v, 3]: 0.5 and what they say, at least 0.
struct SplatColor {
  const float* means;
  const float* harmonics;
  const float* eye;
  const i64* index;
  float* colors;
  int n;
  int held;
  int count;

  FN void operator()(int tile, int) const {
    const int first = tile * COLOR_ROWS, left = n - first;
    LANES_IN_ORDER(lane, left < COLOR_ROWS ? left : COLOR_ROWS) {
      const size_t row = first + lane, i = index[row];
      ColorWay way;
      way.of(means + 3 * i, eye);
      float f[COLOR_MOST], d[COLOR_MOST][3], sum[3] = {0.5f, 0.5f, 0.5f};
      color_basis(count, way.unit[0], way.unit[1], way.unit[2], f, d);
      const float* held_here = harmonics + 3 * (size_t)held * i;
      for (int k = 0; k < count; ++k) {
        UNROLL for (int c = 0; c < 3; ++c) sum[c] += f[k] * held_here[3 * k + c];
      }
      UNROLL for (int c = 0; c < 3; ++c) colors[3 * row + c] = larger(sum[c], 0.f);
    }
  }
};

// With colors as they came out, grad_colors [v, 3] -> rows of the gradients to means and harmonics,
// the others' left alone; grad_eye [tiles, 3]: a tile's part of that to the eye.
struct SplatColorPull {
  const float* means;
  const float* harmonics;
  const float* eye;
  const i64* index;
  const float* colors;
  const float* grad_colors;
  float* grad_means;
  float* grad_harmonics;
  float* grad_eye;
  int n;
  int held;
  int count;

  FN void operator()(int tile, int) const {
    TILE float part[3 * COLOR_ROWS];
    const int first = tile * COLOR_ROWS, left = n - first;
    const int here = left < COLOR_ROWS ? left : COLOR_ROWS;
    LANES_IN_ORDER(lane, here) {
      const size_t row = first + lane, i = index[row];
      ColorWay way;
      way.of(means + 3 * i, eye);
      float f[COLOR_MOST], d[COLOR_MOST][3], grad[3], to_way[3] = {0, 0, 0};
      color_basis(count, way.unit[0], way.unit[1], way.unit[2], f, d);
      UNROLL for (int c = 0; c < 3; ++c) grad[c] = colors[3 * row + c] > 0 ? grad_colors[3 * row + c] : 0;
      const size_t at = 3 * (size_t)held * i;
      for (int k = 0; k < count; ++k) {
        float says = 0;
        UNROLL for (int c = 0; c < 3; ++c) {
          grad_harmonics[at + 3 * k + c] = f[k] * grad[c], says += grad[c] * harmonics[at + 3 * k + c];
        }
        UNROLL for (int axis = 0; axis < 3; ++axis) to_way[axis] += says * d[k][axis];
      }
      for (int k = 3 * count; k < 3 * held; ++k) grad_harmonics[at + k] = 0;
      const float along = to_way[0] * way.unit[0] + to_way[1] * way.unit[1] + to_way[2] * way.unit[2];
      UNROLL for (int axis = 0; axis < 3; ++axis) {
        const float to_mean = (to_way[axis] - along * way.unit[axis]) / way.length;
        grad_means[3 * i + axis] = to_mean, part[3 * lane + axis] = -to_mean;
      }
    }
    SYNC();
    LANES(axis, 3) {
      float sum = 0;
      for (int lane = 0; lane < here; ++lane) sum += part[3 * lane + axis];
      grad_eye[3 * (size_t)tile + axis] = sum;
    }
  }
};

KERNEL(SplatColor)
KERNEL(SplatColorPull)
