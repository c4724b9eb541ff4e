// What is seen along rays whose density and colour are series in one common basis, and its gradient.
// A lane is a ray, so that a register holds one number of many rays. Values of the series are made
// where they are used: no array of a number for each sample and ray exists, unless weights are asked
// for.
#pragma once
#include "composite.cuh"

constexpr int PROFILE_RAYS = 32;     // in one tile
constexpr int MOST_OF_A_SERIES = 32;  // coefficients; a multiple of 4
constexpr float DENSEST = 15.f;      // logarithm, beyond which a density does not grow

// Of the rays of a tile: their coefficients, a row a number of a ray; density and colours of the
// sample at hand, and how much light reaches it.
struct Profiles {
  float coefficients[4 * MOST_OF_A_SERIES][PROFILE_RAYS];
  float depth[PROFILE_RAYS];  // optical, of the sample
  float color[3][PROFILE_RAYS];
  float light[PROFILE_RAYS];

  FN void load(const float* from, int left, int numbers) {
    LANES(i, PROFILE_RAYS * numbers) {
      const int ray = i / numbers;
      coefficients[i % numbers][ray] = ray < left ? from[i] : 0.f;
    }
    LANES(r, PROFILE_RAYS) light[r] = 1;
    SYNC();
  }

  // The series of a sample, whose row of the basis and share of the interval are given.
  FN void evaluate(const float* row, int count, float length) {
    LANES(r, PROFILE_RAYS) depth[r] = color[0][r] = color[1][r] = color[2][r] = 0;
    for (int first = 0; first < count; first += 4)
      LANES(r, PROFILE_RAYS) {
        float s = depth[r], red = color[0][r], green = color[1][r], blue = color[2][r];
        UNROLL for (int k = 0; k < 4; ++k) {
          const float (*const c)[PROFILE_RAYS] = coefficients + 4 * (first + k);
          const float b = row[first + k];
          s += b * c[0][r], red += b * c[1][r], green += b * c[2][r], blue += b * c[3][r];
        }
        depth[r] = s, color[0][r] = red, color[1][r] = green, color[2][r] = blue;
      }
    LANES(r, PROFILE_RAYS) {
      depth[r] = length * exponential(smaller(depth[r], DENSEST));
      UNROLL for (int c = 0; c < 3; ++c) color[c][r] = 1.f / (1.f + exponential(-color[c][r]));
    }
  }

  // Whether any ray of this thread still has light.
  FN bool lit(float stop) const {
    int any = 0;
    LANES(r, PROFILE_RAYS) any |= light[r] >= stop;
    return any != 0;
  }
};

// coefficients [rays, count, 4] of the logarithm of density and of the logits of R, G, B, in basis
// [samples, count]; place, length [samples]: along the rays, in parts of their interval. A ray ends
// where its light falls below `stop`. weights [rays, samples], zeros before, may be null.
struct RayProfile {
  const float* coefficients;
  const float* basis;
  const float* place;
  const float* length;
  float* color;
  float* opacity;
  float* middle;
  float* weights;
  float stop;
  int rays;
  int samples;
  int count;

  FN void operator()(int tile, int) const {
    TILE Profiles at;
    TILE float sum[5][PROFILE_RAYS];
    const int first = tile * PROFILE_RAYS, numbers = 4 * count;
    const int left = rays - first < PROFILE_RAYS ? rays - first : PROFILE_RAYS;
    at.load(coefficients + (size_t)first * numbers, left, numbers);
    LANES(r, PROFILE_RAYS) {
      UNROLL for (int c = 0; c < 5; ++c) sum[c][r] = 0;
    }
    for (int j = 0; j < samples && at.lit(stop); ++j) {
      at.evaluate(basis + (size_t)j * count, count, length[j]);
      const float where = place[j];
      LANES(r, PROFILE_RAYS) {
        const float light = at.light[r];
        const float w = light >= stop ? light * one_minus_exponential(at.depth[r]) : 0.f;
        UNROLL for (int c = 0; c < 3; ++c) sum[c][r] += w * at.color[c][r];
        sum[3][r] += w, sum[4][r] += w * where;
        at.light[r] = light * exponential(-at.depth[r]);
        at.depth[r] = w;
      }
      if (weights) LANES(r, left) weights[(size_t)(first + r) * samples + j] = at.depth[r];
    }
    LANES(r, left) {
      UNROLL for (int c = 0; c < 3; ++c) color[3 * (size_t)(first + r) + c] = sum[c][r];
      opacity[first + r] = sum[3][r], middle[first + r] = sum[4][r];
    }
  }
};

// With G = dL/dweight of a sample: dL/d(its optical depth) is the light behind it times G, less the
// sum of w G of all samples behind it. total [rays]: that sum over all samples. grad_weights may be
// null.
struct RayProfileBackward {
  const float* coefficients;
  const float* basis;
  const float* place;
  const float* length;
  const float* total;
  const float* grad_color;
  const float* grad_opacity;
  const float* grad_middle;
  const float* grad_weights;
  float* grad_coefficients;
  float stop;
  int rays;
  int samples;
  int count;

  FN void operator()(int tile, int) const {
    TILE Profiles at;
    TILE float pull[5][PROFILE_RAYS];  // gradients of colour, opacity and middle
    TILE float direct[PROFILE_RAYS];   // of the weight at hand
    TILE float behind[PROFILE_RAYS];
    TILE float slope[4][PROFILE_RAYS];
    TILE float grad[4 * MOST_OF_A_SERIES][PROFILE_RAYS];
    const int first = tile * PROFILE_RAYS, numbers = 4 * count;
    const int left = rays - first < PROFILE_RAYS ? rays - first : PROFILE_RAYS;
    at.load(coefficients + (size_t)first * numbers, left, numbers);
    LANES(r, PROFILE_RAYS) {
      const int ray = first + (r < left ? r : 0);
      UNROLL for (int c = 0; c < 3; ++c) pull[c][r] = grad_color[3 * (size_t)ray + c];
      pull[3][r] = grad_opacity[ray], pull[4][r] = grad_middle[ray];
      behind[r] = total[ray], direct[r] = 0;
    }
    for (int c = 0; c < numbers; ++c) LANES(r, PROFILE_RAYS) grad[c][r] = 0;
    for (int j = 0; j < samples && at.lit(stop); ++j) {
      const float* row = basis + (size_t)j * count;
      at.evaluate(row, count, length[j]);
      if (grad_weights) LANES(r, left) direct[r] = grad_weights[(size_t)(first + r) * samples + j];
      const float where = place[j], most = length[j] * exponential(DENSEST);
      LANES(r, PROFILE_RAYS) {
        const float light = at.light[r], depth = at.depth[r];
        const float w = light * one_minus_exponential(depth), after = light * exponential(-depth);
        const bool counts = light >= stop;
        float g = direct[r] + pull[3][r] + pull[4][r] * where;
        UNROLL for (int c = 0; c < 3; ++c) {
          const float color = at.color[c][r];
          g += pull[c][r] * color;
          slope[1 + c][r] = counts ? w * pull[c][r] * color * (1.f - color) : 0.f;
        }
        // Exactly nothing where nothing behind counts: what a difference leaves, times a density
        // without bounds, would be any number.
        const float rest = after >= stop ? behind[r] - w * g : 0.f;
        slope[0][r] = counts && depth < most ? (after * g - rest) * depth : 0.f;
        behind[r] = rest, at.light[r] = after;
      }
      for (int k = 0; k < count; ++k) {
        const float b = row[k];
        float (*const to)[PROFILE_RAYS] = grad + 4 * k;
        LANES(r, PROFILE_RAYS) {
          UNROLL for (int c = 0; c < 4; ++c) to[c][r] += b * slope[c][r];
        }
      }
    }
    SYNC();
    LANES(i, left * numbers) {
      grad_coefficients[(size_t)first * numbers + i] = grad[i % numbers][i / numbers];
    }
  }
};

KERNEL(RayProfile)
KERNEL(RayProfileBackward)
