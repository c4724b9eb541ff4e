// What is all but transparent is moved about, within its own ellipsoid.
#pragma once
#include "splat_placed.cuh"

constexpr float SHAKE_DEAD = 0.005f;   // an opacity that has given up
constexpr float SHAKE_STEEP = 100.f;   // how fast what is less transparent is moved less
constexpr float SHAKE_STILL = 1e-6f;   // of the strength, below which nothing is moved
constexpr float SHAKE_TURN = 6.2831853f;

// Two numbers of a normal distribution (Box and Muller).
FN void shake_normals(u32 seed, u32 stream, u32 index, float& a, float& b) {
  const float size = square_root(-2.f * logarithm(1.f - random_unit(seed, stream, index)));
  sine_and_cosine(SHAKE_TURN * random_unit(seed, stream, index + 1), b, a);
  a *= size, b *= size;
}

// means [n, 3], moved in place by reach times their covariance times noise, the less the more opaque.
struct SplatShake {
  float* means;
  const float* log_scales;
  const float* quaternions;
  const float* logits;
  int n;
  float reach;
  int seed;
  int stream;

  FN void operator()(int tile, int) const {
    TILE float given[11 * SPLAT_ROWS], found[3 * SPLAT_ROWS];
    const int first = tile * SPLAT_ROWS, left = n - first;
    const int here = left < SPLAT_ROWS ? left : SPLAT_ROWS;
    LANES(lane, here) splat_take(means, log_scales, quaternions, logits, first + lane, given + lane);
    SYNC();
    const float far = reach;
    const u32 own_seed = seed, own_stream = stream;
    LANES(lane, here) {
      float number[11], unit[4], turn[9], noise[4], along[3];
      UNROLL for (int k = 0; k < 11; ++k) number[k] = given[k * SPLAT_ROWS + lane];
      const float opacity = 1 / (1 + exponential(-number[10]));
      const float strength = 1 / (1 + exponential(SHAKE_STEEP * (opacity - SHAKE_DEAD)));
      splat_turn(number + 6, unit, turn);
      const u32 index = 4 * (u32)(first + lane);
      shake_normals(own_seed, own_stream, index, noise[0], noise[1]);
      shake_normals(own_seed, own_stream, index + 2, noise[2], noise[3]);
      UNROLL for (int k = 0; k < 3; ++k) {
        const float size = exponential(number[3 + k]);
        along[k] = size * size * (turn[k] * noise[0] + turn[3 + k] * noise[1] + turn[6 + k] * noise[2]);
      }
      const float by = strength > SHAKE_STILL ? far * strength : 0.f;
      UNROLL for (int k = 0; k < 3; ++k)
        found[k * SPLAT_ROWS + lane] =
            number[k] + by * (turn[3 * k] * along[0] + turn[3 * k + 1] * along[1] + turn[3 * k + 2] * along[2]);
    }
    SYNC();
    LANES(lane, here) {
      UNROLL for (int k = 0; k < 3; ++k) means[3 * (size_t)(first + lane) + k] = found[k * SPLAT_ROWS + lane];
    }
  }
};

KERNEL(SplatShake)
