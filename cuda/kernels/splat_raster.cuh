// Gaussians drawn front to back, a square of 16 x 16 pixels a tile, and the gradients of that. Both
// ways walk a square's list alike, so that what is left out of the one is left out of the other.
#pragma once
#include "wide.cuh"

constexpr int RASTER_BATCH = 32;  // of a square's list, held in tile memory
constexpr int RASTER_SUMS = 8;    // of a pair: moments of the weight's gradient, and of its size
constexpr float RASTER_MOST = 0.99f;         // of an opacity
constexpr float RASTER_FAINTEST = 1 / 255.f;
constexpr float RASTER_LEAST = 1e-4f;        // of a transmittance

struct RasterSource {
  float x, y, A, B, C, opacity;
  float faintest;  // exponent, a little less than at the faintest that counts
  float half_x, half_y;
};

// What one Gaussian is to the pixels of a group. What its columns say is the same in every row.
struct RasterPair {
  float y, B, C, opacity, faintest;
  Wide dx;
  Wide along, across;  // of the exponent, what dx says, and what it says a dy
  float dy;
  Wide value;  // exp(exponent)
  Wide alpha;
  WideMask counts;

  FN void columns(const RasterSource& source, float left, int group) {
    y = source.y, B = source.B, C = source.C, opacity = source.opacity, faintest = source.faintest;
    dx = source.x - (wide_x(group) + (left + 0.5f));
    along = -0.5f * source.A * (dx * dx), across = -B * dx;
  }

  FN bool meet(float top, int group) {
    dy = y - (wide_y(group) + (top + 0.5f));
    const Wide exponent = across * dy + (along - 0.5f * C * dy * dy);
    counts = exponent >= faintest;
    if (!wide_any(counts)) return false;
    // Rounding must not make more of a Gaussian than it is at its middle.
    value = wide_exponential(wide_least(exponent, 0.f));
    alpha = opacity * value;
    counts = counts & (alpha >= RASTER_FAINTEST);
    alpha = wide_least(alpha, RASTER_MOST);
    return true;
  }
};

// Which columns and rows of a square a Gaussian may touch.
struct RasterReach {
  int x0, x1, y0, y1;

  FN void of(const RasterSource& source, float left, float top) {
    x0 = first(source.x - source.half_x - left), x1 = behind(source.x + source.half_x - left);
    y0 = first(source.y - source.half_y - top), y1 = behind(source.y + source.half_y - top);
  }
  static FN int first(float low) { return low > 0.5f ? (int)smaller(low - 0.5f, 16.f) : 0; }
  static FN int behind(float high) { return high < 0.5f ? 0 : (int)smaller(high - 0.5f, 15.f) + 1; }
};

// Squares of all views, tile by tile; order [m]: pairs sorted by square and depth, owners [m] of
// pairs, starts [tiles + 1] -> sums [views, H, W, C] of channels by weight; left [views, H, W]: the
// transmittance behind all; nearest [views, H, W], where it is there: the depth at which less than a
// half is left; last [tiles]: how many of a square's list were looked at.
template <int C>
struct SplatRaster {
  const float* means2d;
  const float* conics;
  const float* opacities;
  const float* extents;
  const float* channels;
  const float* depths;
  const i64* order;
  const int* owners;
  const int* starts;
  float* sums;
  float* left;
  float* nearest;
  int* last;
  int width;
  int height;
  int columns;
  int rows;

  FN void operator()(int tile, int) const {
    TILE RasterSource source[RASTER_BATCH];
    TILE float color[C * RASTER_BATCH], depth[RASTER_BATCH];
    TILE float state[(C + 2) * WIDE_PIXELS];  // transmittance, below 0 where done; half-way depth; sums
    TILE int alive;
    const int square = tile % (columns * rows), view = tile / (columns * rows);
    const int column = square % columns, row = square / columns;
    const float left_x = (float)(WIDE_SIDE * column), top = (float)(WIDE_SIDE * row);
    LANES(i, WIDE_PIXELS) {
      const bool inside = WIDE_SIDE * column + (i & 15) < width && WIDE_SIDE * row + (i >> 4) < height;
      state[i] = inside ? 1.f : -1.f;
      UNROLL for (int c = 0; c < C + 1; ++c) state[(c + 1) * WIDE_PIXELS + i] = 0;
    }
    int at = starts[tile];
    const int end = starts[tile + 1], begin = at;
    while (at < end) {
      const int here = end - at < RASTER_BATCH ? end - at : RASTER_BATCH;
      SYNC();
      LANES(j, here) {
        const size_t owner = owners[order[at + j]];
        source[j] = load_source(means2d, conics, opacities, extents, owner);
        depth[j] = nearest ? depths[owner] : 0;
        UNROLL for (int c = 0; c < C; ++c) color[C * j + c] = channels[C * owner + c];
      }
      LANES(only, 1) alive = 0;
      SYNC();
      for (int j = 0; j < here; ++j) {
        RasterReach reach;
        reach.of(source[j], left_x, top);
        WIDE_PARTS_OF(part, reach.x0, reach.x1) {
          RasterPair pair;
          if (WIDE > 1) pair.columns(source[j], left_x, part);
          WIDE_DOWN(g, part, reach.y0, reach.y1) {
            if (WIDE == 1) pair.columns(source[j], left_x, g);
            draw(pair, color + C * j, depth[j], state, top, g, nearest);
          }
        }
      }
      at += here;
      WIDE_GROUPS(g, 0, WIDE_SIDE) if (wide_any(wide_load(state + WIDE * g) > 0.f)) add_to(&alive, 1);
      SYNC();
      if (!alive) break;
    }
    LANES(only, 1) last[tile] = at - begin;
    LANES(i, WIDE_PIXELS) {
      const int x = WIDE_SIDE * column + (i & 15), y = WIDE_SIDE * row + (i >> 4);
      if (x < width && y < height) {
        const size_t pixel = ((size_t)view * height + y) * width + x;
        left[pixel] = absolute(state[i]);
        if (nearest) nearest[pixel] = state[WIDE_PIXELS + i];
        UNROLL for (int c = 0; c < C; ++c) sums[C * pixel + c] = state[(c + 2) * WIDE_PIXELS + i];
      }
    }
  }

  static FN RasterSource load_source(const float* means2d, const float* conics, const float* opacities,
                                     const float* extents, size_t i) {
    const float o = opacities[i];
    return {means2d[2 * i], means2d[2 * i + 1], conics[3 * i], conics[3 * i + 1], conics[3 * i + 2], o,
            -logarithm(255 * o) - 1e-3f, extents[2 * i], extents[2 * i + 1]};
  }

  static FN void draw(RasterPair& pair, const float* color, float depth, float* state, float top, int g,
                      bool halved) {
    if (!pair.meet(top, g)) return;
    float* own = state + WIDE * g;
    const Wide before = wide_load(own);
    const WideMask counts = pair.counts & (before > 0.f);
    const Wide after = before * (1.f - pair.alpha);
    const WideMask adds = counts & (after > RASTER_LEAST), ends = wide_either(counts, adds);
    const Wide weight = wide_select(adds, pair.alpha * before, wide_of(0.f));
    wide_store(own, wide_select(ends, -before, wide_select(adds, after, before)));
    if (halved) {
      float* half = own + WIDE_PIXELS;
      wide_store(half, wide_select(adds & (before > 0.5f), wide_of(depth), wide_load(half)));
    }
    UNROLL for (int c = 0; c < C; ++c) {
      float* sum = own + (c + 2) * WIDE_PIXELS;
      wide_store(sum, wide_load(sum) + weight * color[c]);
    }
  }
};

// The same, and sums, left and last as it gave them, with gradients to sums and left -> pairs
// [m, 8 + C], in the order of owners: of each pair the sums over pixels of the weight's gradient u, of
// u d and of u d d, d the way from the pixel to the middle, of |u d| in the conic's measure, where `sized` says so; then the
// gradient to the channels. What no pixel looked at has to be 0 before.
template <int C>
struct SplatRasterPull {
  const float* means2d;
  const float* conics;
  const float* opacities;
  const float* extents;
  const float* channels;
  const i64* order;
  const int* owners;
  const int* starts;
  const float* sums;
  const float* left;
  const int* last;
  const float* grad_sums;
  const float* grad_left;
  float* pairs;
  int width;
  int height;
  int columns;
  int rows;
  int sized;

  FN void operator()(int tile, int) const {
    TILE RasterSource source[RASTER_BATCH];
    TILE float color[C * RASTER_BATCH], found[(RASTER_SUMS + C) * RASTER_BATCH];
    // Transmittance, below 0 where done; what the channels behind add; the gradient through what is
    // left behind all; gradients to the channels.
    TILE float state[(C + 3) * WIDE_PIXELS];
    const int square = tile % (columns * rows), view = tile / (columns * rows);
    const int column = square % columns, row = square / columns;
    const float left_x = (float)(WIDE_SIDE * column), top = (float)(WIDE_SIDE * row);
    LANES(i, WIDE_PIXELS) {
      const int x = WIDE_SIDE * column + (i & 15), y = WIDE_SIDE * row + (i >> 4);
      const bool inside = x < width && y < height;
      const size_t pixel = inside ? ((size_t)view * height + y) * width + x : 0;
      float rest = 0;
      UNROLL for (int c = 0; c < C; ++c) {
        const float g = inside ? grad_sums[C * pixel + c] : 0;
        state[(c + 3) * WIDE_PIXELS + i] = g, rest += g * sums[C * pixel + c];
      }
      state[i] = inside ? 1.f : -1.f, state[WIDE_PIXELS + i] = rest;
      state[2 * WIDE_PIXELS + i] = inside ? grad_left[pixel] * left[pixel] : 0;
    }
    int at = starts[tile];
    const int end = at + last[tile];
    while (at < end) {
      const int here = end - at < RASTER_BATCH ? end - at : RASTER_BATCH;
      SYNC();
      LANES(j, here) {
        const size_t owner = owners[order[at + j]];
        source[j] = SplatRaster<C>::load_source(means2d, conics, opacities, extents, owner);
        UNROLL for (int c = 0; c < C; ++c) color[C * j + c] = channels[C * owner + c];
      }
      LANES(k, (RASTER_SUMS + C) * here) found[k] = 0;
      SYNC();
      for (int j = 0; j < here; ++j) {
        Wide own[RASTER_SUMS + C];
        UNROLL for (int k = 0; k < RASTER_SUMS + C; ++k) own[k] = wide_of(0.f);
        RasterReach reach;
        reach.of(source[j], left_x, top);
        WIDE_PARTS_OF(part, reach.x0, reach.x1) {
          RasterPair pair;
          if (WIDE > 1) pair.columns(source[j], left_x, part);
          WIDE_DOWN(g, part, reach.y0, reach.y1) {
            if (WIDE == 1) pair.columns(source[j], left_x, g);
            pull(pair, source[j].A, color + C * j, state, own, top, g, sized);
          }
        }
        wide_sums_to<RASTER_SUMS + C>(found + (RASTER_SUMS + C) * j, own);
      }
      SYNC();
      LANES(k, (RASTER_SUMS + C) * here) {
        const i64 pair = order[at + k / (RASTER_SUMS + C)];
        pairs[(RASTER_SUMS + C) * pair + k % (RASTER_SUMS + C)] = found[k];
      }
      at += here;
    }
  }

  static FN void pull(RasterPair& pair, float A, const float* color, float* state, Wide* found, float top, int g,
                      bool sized) {
    if (!pair.meet(top, g)) return;
    float* own = state + WIDE * g;
    const Wide before = wide_load(own);
    const WideMask counts = pair.counts & (before > 0.f);
    const Wide passes = 1.f - pair.alpha, after = before * passes;
    const WideMask adds = counts & (after > RASTER_LEAST), ends = wide_either(counts, adds);
    const Wide weight = wide_select(adds, pair.alpha * before, wide_of(0.f));
    wide_store(own, wide_select(ends, -before, wide_select(adds, after, before)));
    Wide gained = wide_of(0.f);
    UNROLL for (int c = 0; c < C; ++c) {
      const Wide g_c = wide_load(own + (c + 3) * WIDE_PIXELS);
      gained = gained + g_c * color[c], found[RASTER_SUMS + c] = found[RASTER_SUMS + c] + weight * g_c;
    }
    float *rest = own + WIDE_PIXELS, *behind = own + 2 * WIDE_PIXELS;
    const Wide still = wide_load(rest) - gained * weight;
    wide_store(rest, still);
    const Wide to_alpha = gained * before - (still + wide_load(behind)) / passes;
    // What is cut at the most that an opacity may be does not change with it.
    const WideMask moves = adds & (pair.opacity * pair.value <= RASTER_MOST);
    const Wide u = wide_select(moves, pair.value * to_alpha, wide_of(0.f));
    const Wide ux = u * pair.dx, uy = u * pair.dy;
    found[0] = found[0] + u, found[1] = found[1] + ux, found[2] = found[2] + uy;
    found[3] = found[3] + ux * pair.dx, found[4] = found[4] + ux * pair.dy, found[5] = found[5] + uy * pair.dy;
    if (!sized) return;
    found[6] = found[6] + wide_absolute(A * ux + pair.B * uy);
    found[7] = found[7] + wide_absolute(pair.B * ux + pair.C * uy);
  }
};

// pairs [m, 8 + C] and offsets [n + 1], where each Gaussian's begin -> gradients to its row; to_size
// [n, 2]: sums over pixels of the absolute gradient to its middle.
template <int C>
struct SplatGather {
  const float* conics;
  const float* opacities;
  const float* pairs;
  const i64* offsets;
  float* grad_means2d;
  float* grad_conics;
  float* grad_opacities;
  float* grad_channels;
  float* to_size;
  int n;

  FN void operator()(int tile, int) const {
    const int first = tile * WIDE_PIXELS, left = n - first;
    LANES_IN_ORDER(lane, left < WIDE_PIXELS ? left : WIDE_PIXELS) {
      const size_t i = first + lane;
      float sum[RASTER_SUMS + C];
      UNROLL for (int k = 0; k < RASTER_SUMS + C; ++k) sum[k] = 0;
      for (i64 pair = offsets[i]; pair < offsets[i + 1]; ++pair) {
        UNROLL for (int k = 0; k < RASTER_SUMS + C; ++k) sum[k] += pairs[(RASTER_SUMS + C) * pair + k];
      }
      const float o = opacities[i], *k = conics + 3 * i;
      grad_opacities[i] = sum[0];
      grad_means2d[2 * i] = -o * (k[0] * sum[1] + k[1] * sum[2]);
      grad_means2d[2 * i + 1] = -o * (k[1] * sum[1] + k[2] * sum[2]);
      grad_conics[3 * i] = -0.5f * o * sum[3], grad_conics[3 * i + 1] = -o * sum[4];
      grad_conics[3 * i + 2] = -0.5f * o * sum[5];
      to_size[2 * i] = o * sum[6], to_size[2 * i + 1] = o * sum[7];
      UNROLL for (int c = 0; c < C; ++c) grad_channels[C * i + c] = sum[RASTER_SUMS + c];
    }
  }
};

KERNEL(SplatRaster<1>)
KERNEL(SplatRaster<3>)
KERNEL(SplatRaster<4>)
KERNEL(SplatRaster<8>)
KERNEL(SplatRasterPull<1>)
KERNEL(SplatRasterPull<3>)
KERNEL(SplatRasterPull<4>)
KERNEL(SplatRasterPull<8>)
KERNEL(SplatGather<1>)
KERNEL(SplatGather<3>)
KERNEL(SplatGather<4>)
KERNEL(SplatGather<8>)
