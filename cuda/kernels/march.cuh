// Samples along rays through nested grids of occupied cells. Intervals follow each other from where
// the ray enters the unit cube; their lengths depend on the distance alone, so a bit that flips adds or
// removes samples and moves none. The same body counts (no output) and writes.
#pragma once
#include "box.cuh"
#include "tile.cuh"

constexpr int MARCH_RAYS = 32;  // in one tile
constexpr int MARCH_BLOCK = 4;  // cells along a side of a block
constexpr int MARCH_NOTES = 64;  // samples of a ray that counting writes down, so that few rays are
                                 // walked twice

struct March {
  const float* origins;
  const float* directions;
  const u8* bits;
  const u8* blocks;
  const int* ray_offsets;
  int* counts;
  float* notes;
  float* distance;
  float* length;
  float* position;
  int* ray;
  int rays;
  int levels;
  int resolution;
  int limit;
  float step;
  float cone;
  float near;
  u32 seed;
  u32 stream;
  int jitter;

  FN void operator()(int tile, int) const {
    const int first = tile * MARCH_RAYS;
    const int count = rays - first < MARCH_RAYS ? rays - first : MARCH_RAYS;
    LANES(i, count) {
      if (distance && ray_offsets[first + i + 1] - ray_offsets[first + i] <= MARCH_NOTES)
        copy(first + i);
      else
        walk(first + i);
    }
  }

  FN void write(size_t s, int r, float begin, float stop) const {
    const float* o = origins + 3 * (size_t)r;
    const float* d = directions + 3 * (size_t)r;
    const float middle = 0.5f * (begin + stop);
    distance[s] = middle, length[s] = stop - begin, ray[s] = r;
    for (int a = 0; a < 3; ++a) position[3 * s + a] = o[a] + middle * d[a];
  }

  // The samples as they were found when they were counted.
  FN void copy(int r) const {
    const float* note = notes + 2 * (size_t)MARCH_NOTES * r;
    const int begin = ray_offsets[r], count = ray_offsets[r + 1] - begin;
    for (int i = 0; i < count; ++i) write(begin + i, r, note[2 * i], note[2 * i + 1]);
  }

  FN float step_at(float t, float lowest, float highest) const {
    return cone > 0.f ? smaller(larger(cone * t, lowest), highest) : lowest;
  }

  FN void walk(int r) const {
    const float* o = origins + 3 * (size_t)r;
    const float* d = directions + 3 * (size_t)r;
    const float low_corner[3] = {0.f, 0.f, 0.f}, high_corner[3] = {1.f, 1.f, 1.f};
    float begin = near, far = infinity();
    cut_to_box(o, d, low_corner, high_corner, begin, far);
    if (absolute(far) > 3e38f) far = -1.f;  // missed, or no direction
    const int room = distance ? ray_offsets[r + 1] - ray_offsets[r] : limit;
    const size_t out = distance ? ray_offsets[r] : 0;
    // Two units in the last place of t at least, so that far away a step still leads on; a cell of
    // the coarsest level at most, so that no step passes over one.
    const float lowest = larger(step, 2.4e-7f * far), highest = larger(lowest, 1.f / resolution);
    float reach = step_at(begin, lowest, highest);  // of the interval, before the cube cuts it
    float end = begin + (jitter ? random_unit(seed, stream, r) * reach : reach);
    const float first = end, per_step = 1.f / reach;  // where all steps are alike
    float finest = 1.f, slowness[3];
    for (int k = 1; k < levels; ++k) finest *= 0.5f;
    for (int a = 0; a < 3; ++a) slowness[a] = d[a] == 0.f ? 0.f : 1.f / absolute(d[a]);
    int found = 0, number = 0;
    while (begin < far && found < room) {
      const float stop = smaller(end, far), middle = 0.5f * (begin + stop);
      const float x = o[0] + middle * d[0], y = o[1] + middle * d[1], z = o[2] + middle * d[2];
      const float p[3] = {x, y, z};
      int level = 0;
      float side = finest, cells = resolution / finest;  // powers of two times the resolution: exact
      const float off = 2.f * larger(absolute(x - 0.5f), larger(absolute(y - 0.5f),
                                                                absolute(z - 0.5f)));
      while (level < levels - 1 && (off > side || reach * resolution > side))
        level++, side *= 2.f, cells *= 0.5f;
      const float low = 0.5f - 0.5f * side;
      int cell[3];
      for (int a = 0; a < 3; ++a) {
        const int c = (int)round_down((p[a] - low) * cells);
        cell[a] = c < 0 ? 0 : c < resolution ? c : resolution - 1;
      }
      const i64 index = cell[0] + resolution * (cell[1] + resolution * (cell[2] +
                                                                        (i64)resolution * level));
      if (bits[index >> 3] >> (index & 7) & 1) {
        if (distance) {
          write(out + found, r, begin, stop);
        } else if (found < MARCH_NOTES) {
          float* note = notes + 2 * ((size_t)MARCH_NOTES * r + found);
          note[0] = begin, note[1] = stop;
        }
        found++;
      } else {
        // Out of the cell, or out of the block around it where that is empty. Less a margin for
        // rounding: close to the wall every sample looks its own cell up.
        int width = 1;
        if (blocks) {
          const int across = resolution / MARCH_BLOCK;
          const i64 block = cell[0] / MARCH_BLOCK + across * (cell[1] / MARCH_BLOCK + across *
                            (cell[2] / MARCH_BLOCK + (i64)across * level));
          if (!blocks[block]) width = MARCH_BLOCK;
        }
        const float margin = 2e-6f * (1.f + middle), size = side / resolution;
        float leave = 3e38f;
        for (int a = 0; a < 3; ++a) {
          if (d[a] == 0.f) continue;
          const int corner = cell[a] / width * width;
          const float wall = low + (corner + (d[a] > 0.f ? width : 0)) * size;
          leave = smaller(leave, (absolute(wall - p[a]) - margin) * slowness[a]);
        }
        const float until = smaller(middle + leave, far);
        if (cone > 0.f) {
          // On to the last interval of this cell, unless a step asks for coarser cells before.
          float next = end, next_reach = step_at(next, lowest, highest);
          while (0.5f * (next + smaller(next + next_reach, far)) < until &&
                 (next_reach * resolution <= side || level == levels - 1)) {
            end = next + next_reach;
            next = end, next_reach = step_at(next, lowest, highest);
          }
        } else {
          // On to the first interval whose middle, half a step before its end, lies outside.
          const int last = (int)((until - first) * per_step + 0.5f);
          if (last > number) number = last;
        }
      }
      if (cone > 0.f) {
        begin = end, reach = step_at(begin, lowest, highest), end = begin + reach;
      } else {
        begin = first + (float)number * reach, number++, end = first + (float)number * reach;
      }
    }
    if (counts) counts[r] = found;
  }
};

KERNEL(March)
