// A Gaussian before a camera and its spread on the sensor, whatever lens is between; and the way back.
#pragma once
#include "tile.cuh"

constexpr int SPLAT_ROWS = 64;  // in one tile
constexpr float SPLAT_LEAST_SHARE = 0.005f;

// The 11 numbers of a Gaussian, as columns of SPLAT_ROWS: lanes of them lie side by side.
FN void splat_take(const float* means, const float* log_scales, const float* quaternions, const float* logits, size_t i,
                   float* given) {
  UNROLL for (int k = 0; k < 3; ++k) given[k * SPLAT_ROWS] = means[3 * i + k];
  UNROLL for (int k = 0; k < 3; ++k) given[(3 + k) * SPLAT_ROWS] = log_scales[3 * i + k];
  UNROLL for (int k = 0; k < 4; ++k) given[(6 + k) * SPLAT_ROWS] = quaternions[4 * i + k];
  given[10 * SPLAT_ROWS] = logits[i];
}

// A quaternion at length 1, the length that it had, and its axes as columns.
FN float splat_turn(const float* quaternion, float* unit, float* turn) {
  float square = 0;
  UNROLL for (int i = 0; i < 4; ++i) square += quaternion[i] * quaternion[i];
  const float length = square_root(square);
  UNROLL for (int i = 0; i < 4; ++i) unit[i] = quaternion[i] / length;
  const float w = unit[0], x = unit[1], y = unit[2], z = unit[3];
  turn[0] = 1 - 2 * (y * y + z * z), turn[1] = 2 * (x * y - w * z), turn[2] = 2 * (x * z + w * y);
  turn[3] = 2 * (x * y + w * z), turn[4] = 1 - 2 * (x * x + z * z), turn[5] = 2 * (y * z - w * x);
  turn[6] = 2 * (x * z - w * y), turn[7] = 2 * (y * z + w * x), turn[8] = 1 - 2 * (x * x + y * y);
  return length;
}

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
    length = splat_turn(quaternion, unit, turn);
    UNROLL for (int i = 0; i < 3; ++i) {
      UNROLL for (int k = 0; k < 3; ++k)
        factor[3 * i + k] = size[k] * (camera[4 * i] * turn[k] + camera[4 * i + 1] * turn[3 + k] + camera[4 * i + 2] * turn[6 + k]);
    }
  }

  // Of gradients to p and to factor: those to its numbers and, into pose [12], to the camera's place.
  FN void back_to_numbers(const float* mean, const float* camera, const float* to_p, const float* to_factor,
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
  FN float back_to_covariance(const float* grad_conic, float grad_opacity, float dilation, bool antialiased, float& vxx,
                float& vxy, float& vyy) const {
    const float by = 1 / full_det;
    const float A = yy * by, B = -xy * by, C = xx * by;
    const float ga = grad_conic[0], gb = 0.5f * grad_conic[1], gc = grad_conic[2];
    // To the covariance K^-1: -K G K, K the conic.
    const float a0 = A * ga + B * gb, a1 = A * gb + B * gc, b0 = B * ga + C * gb, b1 = B * gb + C * gc;
    vxx = -(a0 * A + a1 * B), vxy = -(a0 * B + a1 * C), vyy = -(b0 * B + b1 * C);
    const float least = antialiased ? SPLAT_LEAST_SHARE : 2.f;  // above it a share moves: none is above 2
    const float part = share > least ? opacity * grad_opacity / (2 * share) : 0.f, rest = 1 - share * share;
    vxx += part * (rest * A - dilation * by), vyy += part * (rest * C - dilation * by), vxy += part * rest * B;
    return grad_opacity * share * opacity * (1 - opacity);
  }
};
