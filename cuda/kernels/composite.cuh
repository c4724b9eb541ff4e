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

// The channels of one ray: numbers in registers where their count C is known, else memory.
template <int C>
struct Channels {
  float at[C];
  FN Channels(const float* p) {
    for (int c = 0; c < C; ++c) at[c] = p[c];
  }
};
template <>
struct Channels<0> {
  const float* at;
  FN Channels(const float* p) : at(p) {}
};

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
      const float* v = values + (size_t)from * channels;
      float* o = composed + (size_t)(first + r) * channels;
      if (channels == 3) {
        float s0 = 0, s1 = 0, s2 = 0;
        SUM(i, to - from, s0, s1, s2) {
          const float u = weights[from + i];
          s0 += u * v[3 * i], s1 += u * v[3 * i + 1], s2 += u * v[3 * i + 2];
        }
        o[0] = s0, o[1] = s1, o[2] = s2;
      } else {
        for (int c = 0; c < channels; ++c) {
          float sum = 0;
          SUM(i, to - from, sum) sum += weights[from + i] * v[(size_t)i * channels + c];
          o[c] = sum;
        }
      }
    }
  }
};

// With G = dL/dweight (direct, by opacity and by values): dL/d(density length) of sample i is
// T_{i+1} G_i less the sum of w_j G_j behind it. grad_density holds w G, then that sum, between the
// phases. grad_weights and grad_length may be null.
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
    if (channels == 3) walk<3>(first, count);
    else walk<0>(first, count);
  }

  template <int C>
  FN void walk(int first, int count) const {
    for (int r = first; r < first + count; ++r) {
      const int from = ray_offsets[r], samples = ray_offsets[r + 1] - from;
      const Channels<C> by_values(grad_composed + (size_t)r * channels);
      const float by_opacity = grad_opacity[r];
      LANES(i, samples) {
        const int at = from + i;
        grad_density[at] = weights[at] * grad_weight<C>(at, by_opacity, by_values);
      }
    }
    SYNC();
    LANES(r, count) {
      float behind = 0;
      for (int i = ray_offsets[first + r + 1] - 1; i >= ray_offsets[first + r]; --i) {
        const float own = grad_density[i];
        grad_density[i] = behind, behind += own;
      }
    }
    SYNC();
    for (int r = first; r < first + count; ++r) {
      const int from = ray_offsets[r], samples = ray_offsets[r + 1] - from;
      const Channels<C> by_values(grad_composed + (size_t)r * channels);
      const float by_opacity = grad_opacity[r];
      LANES(i, samples) {
        const int at = from + i;
        const float behind = grad_density[at], d = density[at], l = length[at], w = weights[at];
        const float after = transmittance[at] * exponential(-d * l);
        const float slope = after * grad_weight<C>(at, by_opacity, by_values) - behind;
        grad_density[at] = slope * l;
        if (grad_length) grad_length[at] = slope * d;
        const int n = C ? C : channels;
        for (int c = 0; c < n; ++c) grad_values[(size_t)at * n + c] = w * by_values.at[c];
      }
    }
  }

  template <int C>
  FN float grad_weight(int at, float by_opacity, const Channels<C>& by_values) const {
    // Vector code masks a load that may not happen, and pays dearly where the pointer is null.
    const float* direct = grad_weights ? grad_weights : weights;
    float g = by_opacity + (grad_weights ? 1.f : 0.f) * direct[at];
    const int n = C ? C : channels;
    for (int c = 0; c < n; ++c) g += by_values.at[c] * values[(size_t)at * n + c];
    return g;
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
