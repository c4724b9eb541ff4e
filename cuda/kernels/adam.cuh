// Adam that steps only the numbers that have a gradient: those of feature tables, of which a batch of
// points touches a part.
#pragma once
#include "tile.cuh"

constexpr int ADAM_NUMBERS = 1024;  // in one tile
constexpr int ADAM_ROWS = 64;

// One number's step of Adam; a number whose gradient is zero is left alone, moments included. The
// gradient is zeroed on the way. steps, where given, counts each number's own visits.
struct AdamStep {
  float* value;
  float* first_moment;
  float* second_moment;
  int* steps;
  float* grad;
  float rate;
  float beta1;
  float beta2;
  float eps;
  float log_beta1;
  float log_beta2;
  float correction1;
  float correction2;

  FN void one(size_t i, float of_first, float of_second) const {
    const float g = grad[i];
    const float m = beta1 * first_moment[i] + (1 - beta1) * g;
    const float v = beta2 * second_moment[i] + (1 - beta2) * g * g;
    first_moment[i] = m, second_moment[i] = v, grad[i] = 0;
    value[i] -= rate * of_first * m / (square_root(v * of_second) + eps);
  }

  FN void walk(size_t begin, int count) const {
    if (steps) {
      LANES(i, count) {
        if (grad[begin + i] != 0) {
          const float t = (float)++steps[begin + i];
          const float power1 = exponential(t * log_beta1), power2 = exponential(t * log_beta2);
          one(begin + i, 1 / (1 - power1), 1 / (1 - power2));
        }
      }
    } else {
      LANES(i, count) {
        if (grad[begin + i] != 0) one(begin + i, correction1, correction2);
      }
    }
  }
};

// The step of Adam over n numbers, tile by tile.
struct LazyAdam {
  float* value;
  float* first_moment;
  float* second_moment;
  int* steps;
  float* grad;
  i64 n;
  float rate;
  float beta1;
  float beta2;
  float eps;
  float log_beta1;
  float log_beta2;
  float correction1;
  float correction2;

  FN void operator()(int tile, int) const {
    const i64 first = (i64)tile * ADAM_NUMBERS, left = n - first;
    const AdamStep step = {value, first_moment, second_moment, steps, grad, rate, beta1, beta2, eps,
                           log_beta1, log_beta2, correction1, correction2};
    step.walk(first, left < ADAM_NUMBERS ? (int)left : ADAM_NUMBERS);
  }
};

KERNEL(LazyAdam)

// The same for rows of so many numbers, each column at a rate of its own: a row is left alone where
// all of its gradient is zero.
struct RowAdam {
  float* value;
  float* first_moment;
  float* second_moment;
  float* grad;
  const float* rates;
  int n;
  int width;
  float beta1;
  float beta2;
  float eps;
  float correction1;
  float correction2;

  FN void operator()(int tile, int) const {
    const int first = tile * ADAM_ROWS, left = n - first;
    LANES_IN_ORDER(lane, left < ADAM_ROWS ? left : ADAM_ROWS) {
      const size_t begin = (size_t)width * (first + lane);
      bool touched = false;
      for (int i = 0; i < width; ++i) touched |= grad[begin + i] != 0;
      if (!touched) continue;
      const AdamStep step = {value, first_moment, second_moment, nullptr, grad, 1, beta1, beta2, eps,
                             0, 0, correction1, correction2};
      for (int i = 0; i < width; ++i) step.one(begin + i, rates[i] * correction1, correction2);
    }
  }
};

KERNEL(RowAdam)
