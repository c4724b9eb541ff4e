// Gaussians drawn front to back, a square of 16 x 16 pixels a tile, and the gradients of that. Both
// ways walk a square's list alike, so that what is left out of the one is left out of the other.
#pragma once
#include "wide.cuh"

constexpr int RASTER_BATCH = 32;  // of a square's list, held in tile memory
constexpr int RASTER_CHANNELS = 8;  // at most
constexpr int RASTER_SUMS = 8;    // of a pair: moments of the weight's gradient, and of its size
constexpr float RASTER_MOST = 0.99f;              // of an opacity
constexpr float RASTER_FAINTEST = -7.994353437f;  // logarithm to base 2 of 1 / 255
constexpr float RASTER_LEAST = 1e-4f;             // of a transmittance
constexpr float TO_BASE_TWO = 1.442695041f, FROM_BASE_TWO = 0.6931471806f;

// A Gaussian as a square's pixels meet it: its opacity is 2 to the power of a square in dx and dy. One
// fills a line of the cache: in the order of a square's list they lie anywhere.
struct RasterSource {
  float x, y;
  float xx, xy, yy;  // of dx dx, dx dy and dy dy
  float level;       // where both are 0
  float half_x, half_y;
  float channels[RASTER_CHANNELS];
};

// What one Gaussian is to the pixels of a group. What its columns say is the same in every row.
struct RasterPair {
  Wide y, xx, xy, yy, level;
  Wide dx;
  Wide along, across;  // of the exponent, what dx says, and what it says a dy
  Wide dy;
  Wide full;   // opacity there
  Wide alpha;  // the same, cut; 0 where it does not count

  FN void columns(const RasterSource& source, float left, float top, int group) {
    y = wide_of(source.y - (top + 0.5f)), xx = wide_of(source.xx), xy = wide_of(source.xy), yy = wide_of(source.yy);
    level = wide_of(source.level);
    dx = source.x - (wide_x(group) + (left + 0.5f));
    along = xx * (dx * dx) + level, across = xy * dx;
  }

  FN bool meet(int group) {
    dy = y - wide_row(group);
    const Wide exponent = (yy * dy + across) * dy + along;
    const WideMask counts = exponent >= RASTER_FAINTEST;
    if (!wide_any(counts)) return false;
    // Rounding must not make more of a Gaussian than it is at its middle.
    full = wide_power_of_two(wide_least(exponent, level));
    alpha = wide_where(counts, wide_least(full, wide_of(RASTER_MOST)));
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
  static FN int first(float low) { return (int)smaller(larger(low - 0.5f, 0.f), 16.f); }
  static FN int behind(float high) { return (int)smaller(larger(high + 0.5f, 0.f), 16.f); }
};

// Gaussians on the sensor, one a row -> sources [n, 16 numbers].
template <int C>
struct SplatSources {
  const float* means2d;
  const float* conics;
  const float* opacities;
  const float* extents;
  const float* channels;
  float* sources;
  int n;

  FN void operator()(int tile, int) const {
    const int first = tile * WIDE_PIXELS, left = n - first;
    LANES_IN_ORDER(lane, left < WIDE_PIXELS ? left : WIDE_PIXELS) {
      const size_t i = first + lane;
      const float* conic = conics + 3 * i;
      RasterSource& out = ((RasterSource*)sources)[i];
      out.x = means2d[2 * i], out.y = means2d[2 * i + 1];
      out.xx = -0.5f * TO_BASE_TWO * conic[0], out.xy = -TO_BASE_TWO * conic[1], out.yy = -0.5f * TO_BASE_TWO * conic[2];
      out.level = TO_BASE_TWO * logarithm(opacities[i]);
      out.half_x = extents[2 * i], out.half_y = extents[2 * i + 1];
      UNROLL for (int c = 0; c < C; ++c) out.channels[c] = channels[C * i + c];
    }
  }
};

// sources; squares of all views, tile by tile; order [m]: pairs sorted by square and depth, owners [m]
// of pairs, starts [tiles + 1] -> sums [views, H, W, C] of channels by weight, and of the background
// [C], where there is one, by what is left; left [views, H, W]: the transmittance behind all; nearest
// [views, H, W], where it is there: the depth at which less than a half is left; last [tiles]: how many
// of a square's list were looked at.
template <int C>
struct SplatRaster {
  const float* sources;
  const float* depths;
  const i64* order;
  const int* owners;
  const int* starts;
  const float* background;
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
    TILE float depth[RASTER_BATCH];
    // Transmittance, 0 where done; what it was then; sums; half-way depth, where that is wanted.
    TILE float state[(C + 3) * WIDE_PIXELS];
    TILE int alive;
    const int square = tile % (columns * rows), view = tile / (columns * rows);
    const int column = square % columns, row = square / columns;
    const float left_x = (float)(WIDE_SIDE * column), top = (float)(WIDE_SIDE * row);
    LANES(i, WIDE_PIXELS) {
      const bool inside = WIDE_SIDE * column + (i & 15) < width && WIDE_SIDE * row + (i >> 4) < height;
      state[i] = inside ? 1.f : 0.f;
      UNROLL for (int c = 0; c < C + 2; ++c) state[(c + 1) * WIDE_PIXELS + i] = 0;
    }
    int at = starts[tile];
    const int end = starts[tile + 1], begin = at;
    while (at < end) {
      const int here = end - at < RASTER_BATCH ? end - at : RASTER_BATCH;
      SYNC();
      LANES(j, here) {
        const size_t owner = owners[order[at + j]];
        source[j] = ((const RasterSource*)sources)[owner];
        depth[j] = nearest ? depths[owner] : 0;
      }
      LANES(only, 1) alive = 0;
      SYNC();
      for (int j = 0; j < here; ++j) {
        RasterReach reach;
        reach.of(source[j], left_x, top);
        WIDE_PARTS_OF(part, reach.x0, reach.x1) {
          RasterPair pair;
          if (WIDE > 1) pair.columns(source[j], left_x, top, part);
          WIDE_DOWN(g, part, reach.y0, reach.y1) {
            if (WIDE == 1) pair.columns(source[j], left_x, top, g);
            draw(pair, source[j].channels, depth[j], state, g, nearest);
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
        const float behind = larger(state[i], state[WIDE_PIXELS + i]);
        left[pixel] = behind;
        if (nearest) nearest[pixel] = state[(C + 2) * WIDE_PIXELS + i];
        UNROLL for (int c = 0; c < C; ++c) {
          const float own = state[(c + 2) * WIDE_PIXELS + i];
          if (background) sums[C * pixel + c] = own + behind * background[c];
          else sums[C * pixel + c] = own;
        }
      }
    }
  }

  // Of a pair, what is left behind it; `before` and alpha are 0 where pixels were done or are by it,
  // whose transmittance goes to `kept`, where that is there.
  static FN Wide passed(RasterPair& pair, Wide& before, float* kept) {
    const Wide after = before * (1.f - pair.alpha);
    const WideMask ends = (after <= RASTER_LEAST) & (before > 0.f);
    if (!wide_any(ends)) return after;
    if (kept) wide_store(kept, wide_select(ends, before, wide_load(kept)));
    before = wide_select(ends, wide_of(0.f), before), pair.alpha = wide_select(ends, wide_of(0.f), pair.alpha);
    return wide_select(ends, wide_of(0.f), after);
  }

  static FN void draw(RasterPair& pair, const float* color, float depth, float* state, int g, bool halved) {
    if (!pair.meet(g)) return;
    float* own = state + WIDE * g;
    Wide before = wide_load(own);
    wide_store(own, passed(pair, before, own + WIDE_PIXELS));
    const Wide weight = pair.alpha * before;
    if (halved) {
      float* half = own + (C + 2) * WIDE_PIXELS;
      wide_store(half, wide_select((weight > 0.f) & (before > 0.5f), wide_of(depth), wide_load(half)));
    }
    UNROLL for (int c = 0; c < C; ++c) {
      float* sum = own + (c + 2) * WIDE_PIXELS;
      wide_store(sum, wide_load(sum) + weight * color[c]);
    }
  }
};

// The same, and sums, left and last as it gave them, with gradients to sums and left -> pairs
// [m, 8 + C], in the order of owners: of each pair the sums over pixels of the gradient u to the
// logarithm of its opacity there, of u d and of u d d, d the way from the pixel to the middle, of
// |u d| in the conic's measure (of the square to base 2), where `sized` says so; then the gradient to
// the channels.
template <int C>
struct SplatRasterPull {
  const float* sources;
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
    TILE float found[(RASTER_SUMS + C) * RASTER_BATCH];
    // Transmittance, 0 where done; what the channels behind add and what is left behind all;
    // gradients to the channels.
    TILE float state[(C + 2) * WIDE_PIXELS];
    const int square = tile % (columns * rows), view = tile / (columns * rows);
    const int column = square % columns, row = square / columns;
    const float left_x = (float)(WIDE_SIDE * column), top = (float)(WIDE_SIDE * row);
    LANES(i, WIDE_PIXELS) {
      const int x = WIDE_SIDE * column + (i & 15), y = WIDE_SIDE * row + (i >> 4);
      const bool inside = x < width && y < height;
      const size_t pixel = inside ? ((size_t)view * height + y) * width + x : 0;
      float rest = inside ? grad_left[pixel] * left[pixel] : 0;
      UNROLL for (int c = 0; c < C; ++c) {
        const float g = inside ? grad_sums[C * pixel + c] : 0;
        state[(c + 2) * WIDE_PIXELS + i] = g, rest += inside ? g * sums[C * pixel + c] : 0;
      }
      state[i] = inside ? 1.f : 0.f, state[WIDE_PIXELS + i] = rest;
    }
    int at = starts[tile];
    const int end = at + last[tile];
    while (at < end) {
      const int here = end - at < RASTER_BATCH ? end - at : RASTER_BATCH;
      SYNC();
      LANES(j, here) source[j] = ((const RasterSource*)sources)[owners[order[at + j]]];
      LANES(k, (RASTER_SUMS + C) * here) found[k] = 0;
      SYNC();
      for (int j = 0; j < here; ++j) {
        Wide own[RASTER_SUMS + C];
        UNROLL for (int k = 0; k < RASTER_SUMS + C; ++k) own[k] = wide_of(0.f);
        RasterReach reach;
        reach.of(source[j], left_x, top);
        WIDE_PARTS_OF(part, reach.x0, reach.x1) {
          RasterPair pair;
          Wide down[3] = {wide_of(0.f), wide_of(0.f), wide_of(0.f)};  // of u, u dy and u dy dy
          if (WIDE > 1) pair.columns(source[j], left_x, top, part);
          WIDE_DOWN(g, part, reach.y0, reach.y1) {
            if (WIDE == 1) pair.columns(source[j], left_x, top, g);
            pull(pair, source[j].channels, state, down, own, g, sized);
            if (WIDE == 1) across(down, pair.dx, own);
          }
          if (WIDE > 1) across(down, pair.dx, own);
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
    const int unseen = starts[tile + 1] - end;
    LANES(k, (RASTER_SUMS + C) * unseen) {
      const i64 pair = order[end + k / (RASTER_SUMS + C)];
      pairs[(RASTER_SUMS + C) * pair + k % (RASTER_SUMS + C)] = 0;
    }
  }

  static FN void pull(RasterPair& pair, const float* color, float* state, Wide* down, Wide* found, int g,
                      bool sized) {
    if (!pair.meet(g)) return;
    float *own = state + WIDE * g, *rest = own + WIDE_PIXELS;
    Wide before = wide_load(own);
    wide_store(own, SplatRaster<C>::passed(pair, before, nullptr));
    const Wide weight = pair.alpha * before;
    Wide gained = wide_of(0.f);
    UNROLL for (int c = 0; c < C; ++c) {
      const Wide g_c = wide_load(own + (c + 2) * WIDE_PIXELS);
      gained = gained + g_c * color[c], found[RASTER_SUMS + c] = found[RASTER_SUMS + c] + weight * g_c;
    }
    const Wide still = wide_load(rest) - gained * weight;
    wide_store(rest, still);
    const Wide to_alpha = gained * before - still / (1.f - pair.alpha);
    // What is cut at the most that an opacity may be does not change with it.
    const Wide u = wide_where((pair.full <= RASTER_MOST) & (before > 0.f), pair.alpha * to_alpha);
    const Wide uy = u * pair.dy;
    down[0] = down[0] + u, down[1] = down[1] + uy, down[2] = down[2] + uy * pair.dy;
    if (!sized) return;
    const Wide x = 2.f * pair.xx * pair.dx + pair.xy * pair.dy, y = 2.f * pair.yy * pair.dy + pair.xy * pair.dx;
    found[6] = found[6] + wide_absolute(u * x), found[7] = found[7] + wide_absolute(u * y);
  }

  // What was summed down columns with one dx each, into the moments; the sums are 0 again.
  static FN void across(Wide* down, Wide dx, Wide* found) {
    found[0] = found[0] + down[0], found[1] = found[1] + down[0] * dx, found[2] = found[2] + down[1];
    found[3] = found[3] + down[0] * dx * dx, found[4] = found[4] + down[1] * dx, found[5] = found[5] + down[2];
    UNROLL for (int k = 0; k < 3; ++k) down[k] = wide_of(0.f);
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
      grad_opacities[i] = o > 0.f ? sum[0] / o : 0.f;
      grad_means2d[2 * i] = -(k[0] * sum[1] + k[1] * sum[2]);
      grad_means2d[2 * i + 1] = -(k[1] * sum[1] + k[2] * sum[2]);
      grad_conics[3 * i] = -0.5f * sum[3], grad_conics[3 * i + 1] = -sum[4], grad_conics[3 * i + 2] = -0.5f * sum[5];
      to_size[2 * i] = FROM_BASE_TWO * sum[6], to_size[2 * i + 1] = FROM_BASE_TWO * sum[7];
      UNROLL for (int c = 0; c < C; ++c) grad_channels[C * i + c] = sum[RASTER_SUMS + c];
    }
  }
};

KERNEL(SplatSources<1>)
KERNEL(SplatSources<3>)
KERNEL(SplatSources<4>)
KERNEL(SplatSources<8>)
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
