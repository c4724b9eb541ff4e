// Nested grids of cells that remember the densest thing seen in them: where to look, what was found,
// and the bits that the march reads. A negative value marks a cell that never turns on.
#pragma once
#include "tile.cuh"

constexpr int OCCUPANCY_CELLS = 256;  // in one tile

// One random point in each of a list of cells.
struct CellPoints {
  const int* cells;
  float* points;
  int n;
  int levels;
  int resolution;
  u32 seed;
  u32 stream;

  FN void operator()(int tile, int) const {
    const int first = tile * OCCUPANCY_CELLS;
    const int count = n - first < OCCUPANCY_CELLS ? n - first : OCCUPANCY_CELLS;
    const float half_finest = 0.5f / (float)(1 << (levels - 1));
    LANES(i, count) {
      const int c = cells[first + i], row = c / resolution, slice = row / resolution;
      const int level = slice / resolution;
      const float half = half_finest * (float)(1 << level), low = 0.5f - half;
      const float width = 2 * half / resolution;
      const u32 draw = 3 * (u32)(first + i);
      float* p = points + 3 * (size_t)(first + i);
      p[0] = low + (c - row * resolution + random_unit(seed, stream, draw)) * width;
      p[1] = low + (row - slice * resolution + random_unit(seed, stream, draw + 1)) * width;
      p[2] = low + (slice - level * resolution + random_unit(seed, stream, draw + 2)) * width;
    }
  }
};

KERNEL(CellPoints)

// Every value decays; with a density for each cell, it takes that where it is larger.
struct OccupancyDecay {
  float* values;
  const float* density;
  i64 n;
  float decay;

  FN void operator()(int tile, int) const {
    const i64 first = (i64)tile * OCCUPANCY_CELLS;
    const int count = n - first < OCCUPANCY_CELLS ? (int)(n - first) : OCCUPANCY_CELLS;
    float* value = values + first;
    if (density) {
      const float* seen = density + first;
      LANES(i, count) {
        const float old = value[i], kept = old * decay;
        value[i] = old < 0.f ? old : kept < seen[i] ? seen[i] : kept;
      }
    } else {
      LANES(i, count) value[i] = value[i] < 0.f ? value[i] : value[i] * decay;
    }
  }
};

KERNEL(OccupancyDecay)

// Cells of a list, in which a number may come more than once, take the density found in them where
// it is larger: atomically on a GPU, on a CPU in a single row.
struct OccupancyVisit {
  float* values;
  const int* cells;
  const float* density;
  int n;

  FN void operator()(int tile, int) const {
    const int first = tile * OCCUPANCY_CELLS;
    const int count = n - first < OCCUPANCY_CELLS ? n - first : OCCUPANCY_CELLS;
    LANES_IN_ORDER(i, count)
      if (density[first + i] > 0.f) max_to(values + cells[first + i], density[first + i]);
  }
};

KERNEL(OccupancyVisit)

// One bit a cell, lowest first, 8 cells a byte: on from a threshold.
struct OccupancyBits {
  const float* values;
  u8* bits;
  int bytes;
  float threshold;

  FN void operator()(int tile, int) const {
    const int first = tile * OCCUPANCY_CELLS;
    const int count = bytes - first < OCCUPANCY_CELLS ? bytes - first : OCCUPANCY_CELLS;
    const float least = larger(threshold, 0.f);
    LANES(i, count) {
      const float* value = values + 8 * (size_t)(first + i);
      int byte = 0;
      UNROLL for (int k = 0; k < 8; ++k) byte |= (value[k] >= least) << k;
      bits[first + i] = (u8)byte;
    }
  }
};

KERNEL(OccupancyBits)
