// A photograph of bytes as a picture of floats, on a background where it is transparent.
#pragma once
#include "tile.cuh"

constexpr int PHOTOGRAPH_PIXELS = 256;  // of the picture, in one tile

// pixels [H, W, C] of sRGB and, where C is 4, alpha -> color [h, w, 3] of squares of `times` pixels a
// side, each on the background [3] by its own alpha; matte [h, w], where it is there: alpha. What is
// left over at the right and at the bottom is left out.
template <int C>
struct Photograph {
  const u8* pixels;
  const float* background;
  float* color;
  float* matte;
  int width;  // W
  int times;
  int columns;  // w
  int n;        // w h

  FN void operator()(int tile, int) const {
    const int first = tile * PHOTOGRAPH_PIXELS, left = n - first;
    const float share = 1.f / (times * times), unit = 1.f / 255;
    LANES_IN_ORDER(lane, left < PHOTOGRAPH_PIXELS ? left : PHOTOGRAPH_PIXELS) {
      const int i = first + lane, row = i / columns, column = i % columns;
      float sum[3] = {0, 0, 0}, alphas = 0;
      for (int y = 0; y < times; ++y)
        for (int x = 0; x < times; ++x) {
          const u8* p = pixels + C * ((size_t)(row * times + y) * width + column * times + x);
          const float alpha = C == 4 ? unit * p[C - 1] : 1.f;
          alphas += alpha;
          UNROLL for (int c = 0; c < 3; ++c) sum[c] += unit * p[c] * alpha;
        }
      const float solid = share * alphas;
      UNROLL for (int c = 0; c < 3; ++c) {
        const float own = share * sum[c];
        color[3 * (size_t)i + c] = C == 4 ? own + (1.f - solid) * background[c] : own;
      }
      if (matte) matte[i] = solid;
    }
  }
};

KERNEL(Photograph<3>)
KERNEL(Photograph<4>)
