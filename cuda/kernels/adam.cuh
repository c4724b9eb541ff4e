// Adam that steps only the numbers that have a gradient: those of feature tables, of which a batch of
// points touches a part.
#pragma once
#include "tile.cuh"

constexpr int ADAM_NUMBERS = 1024;  // in one tile

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

// Of so many numbers, in one tile.
FN int adam_rows(int width) { return ADAM_NUMBERS / width; }

// The same for rows of so many numbers, at most ADAM_NUMBERS, each column at a rate of its own: a row
// is left alone where all of its gradient is zero.
struct RowAdam {
  float* value;
  float* first_moment;
  float* second_moment;
  const float* grad;
  const float* rates;
  int n;
  int width;
  float beta1;
  float beta2;
  float eps;
  float correction1;
  float correction2;

  FN void operator()(int tile, int) const {
    TILE float rate[ADAM_NUMBERS];  // of each number; below 0 in rows that are left alone
    const i64 first = (i64)tile * adam_rows(width), left = n - first;
    const int here = left < adam_rows(width) ? (int)left : adam_rows(width);
    const size_t begin = (size_t)width * first;
    LANES_IN_ORDER(lane, here) {
      bool touched = false;
      for (int i = 0; i < width; ++i) touched |= grad[begin + width * lane + i] != 0;
      for (int i = 0; i < width; ++i) rate[width * lane + i] = touched ? rates[i] * correction1 : -1.f;
    }
    SYNC();
    // Rows that are stepped and lie one behind the other go together: a vector need not end with a row.
    for (int row = 0, end; row < here; row = end) {
      const bool touched = rate[width * row] >= 0.f;
      for (end = row + 1; end < here && (rate[width * end] >= 0.f) == touched;) ++end;
      if (touched) step(begin + width * row, rate + width * row, width * (end - row));
    }
  }

  FN void step(size_t begin, const float* rate, int count) const {
    LANES(i, count) {
      const float g = grad[begin + i];
      const float m = beta1 * first_moment[begin + i] + (1 - beta1) * g;
      const float v = beta2 * second_moment[begin + i] + (1 - beta2) * g * g;
      first_moment[begin + i] = m, second_moment[begin + i] = v;
      value[begin + i] -= rate[i] * m / (square_root(v * correction2) + eps);
    }
  }
};

KERNEL(RowAdam)
