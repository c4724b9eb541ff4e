// Emission and absorption along packed rays, and its gradient. A tile is a group of neighbouring
// rays, so its samples lie in one stretch of memory: what a sample does alone (exponentials) runs over
// that stretch, what follows a ray (sums) runs ray by ray, in the order of its samples.
#pragma once
#include "tile.cuh"

constexpr int COMPOSITE_RAYS = 32;  // in one tile

// 1 - exp(-x), with all digits where x is small.
FN float one_minus_exponential(float x) {
  float p = 1.f - x * (1.f / 8);
  p = 1.f - x * (1.f / 7) * p, p = 1.f - x * (1.f / 6) * p, p = 1.f - x * (1.f / 5) * p;
  p = 1.f - x * (1.f / 4) * p, p = 1.f - x * (1.f / 3) * p, p = 1.f - x * (1.f / 2) * p;
  const float large = 1.f - exponential(-x);
  return absolute(x) < 0.5f ? x * p : large;
}

// transmittance: before each sample, kept for the gradient.
struct Composite {
  const float* density;
  const float* length;
  const float* values;
  const int* ray_offsets;
  float* composed;
  float* opacity;
  float* weights;
  float* transmittance;
  int rays;
  int channels;

  FN void operator()(int tile, int) const {
    const int first = tile * COMPOSITE_RAYS;
    const int count = rays - first < COMPOSITE_RAYS ? rays - first : COMPOSITE_RAYS;
    const int begin = ray_offsets[first], samples = ray_offsets[first + count] - begin;
    const float* d = density + begin;
    const float* l = length + begin;
    float* w = weights + begin;
    float* t = transmittance + begin;
    LANES(i, samples) w[i] = d[i] * l[i];
    SYNC();
    LANES(r, count) {
      const int from = ray_offsets[first + r] - begin, to = ray_offsets[first + r + 1] - begin;
      float depth = 0;
      for (int i = from; i < to; ++i) t[i] = depth, depth += w[i];
      opacity[first + r] = one_minus_exponential(depth);
    }
    SYNC();
    LANES(i, samples) {
      const float before = exponential(-t[i]);
      w[i] = before * one_minus_exponential(w[i]);
      t[i] = before;
    }
    SYNC();
    LANES(r, count) {
      const int from = ray_offsets[first + r], to = ray_offsets[first + r + 1];
      for (int c = 0; c < channels; c += 4) sum_channels(first + r, from, to, c);
    }
  }

  // Four channels of a ray at a time: their sums do not wait for each other.
  FN void sum_channels(int ray, int from, int to, int c) const {
    const int c1 = c + 1 < channels ? c + 1 : c, c2 = c + 2 < channels ? c + 2 : c;
    const int c3 = c + 3 < channels ? c + 3 : c;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (int i = from; i < to; ++i) {
      const float* v = values + (size_t)i * channels;
      const float w = weights[i];
      s0 += w * v[c], s1 += w * v[c1], s2 += w * v[c2], s3 += w * v[c3];
    }
    float* o = composed + (size_t)ray * channels;
    o[c3] = s3, o[c2] = s2, o[c1] = s1, o[c] = s0;
  }
};

// With G = dL/dweight (direct, by opacity and by values): dL/d(density length) of sample i is
// T_{i+1} G_i less the sum of w_j G_j behind it. grad_length holds T_{i+1} between the phases.
struct CompositeBackward {
  const float* density;
  const float* length;
  const float* values;
  const int* ray_offsets;
  const float* weights;
  const float* transmittance;
  const float* grad_composed;
  const float* grad_opacity;
  const float* grad_weights;
  float* grad_density;
  float* grad_length;
  float* grad_values;
  int rays;
  int channels;

  FN void operator()(int tile, int) const {
    const int first = tile * COMPOSITE_RAYS;
    const int count = rays - first < COMPOSITE_RAYS ? rays - first : COMPOSITE_RAYS;
    const int begin = ray_offsets[first], samples = ray_offsets[first + count] - begin;
    const float* d = density + begin;
    const float* l = length + begin;
    float* gd = grad_density + begin;
    float* gl = grad_length + begin;
    LANES(i, samples) gl[i] = transmittance[begin + i] * exponential(-d[i] * l[i]);
    SYNC();
    LANES(r, count) {
      const int from = ray_offsets[first + r], to = ray_offsets[first + r + 1];
      const float by_opacity = grad_opacity ? grad_opacity[first + r] : 0.f;
      const float* gc = grad_composed ? grad_composed + (size_t)(first + r) * channels : 0;
      float behind = 0;
      for (int i = to - 1; i >= from; --i) {
        const float w = weights[i];
        float g = by_opacity + (grad_weights ? grad_weights[i] : 0.f);
        for (int c = 0; c < channels; ++c) {
          const float by_value = gc ? gc[c] : 0.f;
          g += by_value * values[(size_t)i * channels + c];
          grad_values[(size_t)i * channels + c] = w * by_value;
        }
        grad_density[i] = g * grad_length[i] - behind;
        behind += w * g;
      }
    }
    SYNC();
    LANES(i, samples) {
      const float g = gd[i];
      gd[i] = g * l[i];
      gl[i] = g * d[i];
    }
  }
};

// kept[i] = 1 where the optical depth before sample i is at most `limit`.
struct VisibleSamples {
  const float* density;
  const float* length;
  const int* ray_offsets;
  u8* kept;
  float limit;
  int rays;

  FN void operator()(int tile, int) const {
    const int first = tile * COMPOSITE_RAYS;
    const int count = rays - first < COMPOSITE_RAYS ? rays - first : COMPOSITE_RAYS;
    LANES(r, count) {
      float depth = 0;
      for (int i = ray_offsets[first + r]; i < ray_offsets[first + r + 1]; ++i) {
        kept[i] = depth <= limit;
        depth += density[i] * length[i];
      }
    }
  }
};

KERNEL(Composite)
KERNEL(CompositeBackward)
KERNEL(VisibleSamples)
