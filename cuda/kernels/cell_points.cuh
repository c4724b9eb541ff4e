// One random point in each of a list of cells of the nested grids.
#pragma once
#include "tile.cuh"

constexpr int CELL_POINTS = 256;  // in one tile

struct CellPoints {
  const int* cells;
  float* points;
  int n;
  int levels;
  int resolution;
  u32 seed;
  u32 stream;

  FN void operator()(int tile, int) const {
    const int first = tile * CELL_POINTS;
    const int count = n - first < CELL_POINTS ? n - first : CELL_POINTS;
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
