// The surface between what lies above a level and what does not, of numbers on a lattice: marching
// cubes with every ambiguity decided as the trilinear interpolant does. A row of the lattice is all
// its nodes with one x and y; signs are bits, 32 nodes of a row in a word, and crossings are counted
// by words, so that time goes to cells that the surface runs through.
// Nodes [blocks, nx, ny, nz]: lattices that know nothing of each other; axis 0 is x. Every row owns the edges that begin at its nodes and the cells
// between it and the rows above. Its vertices: those on edges along x, along y, along z, what cells
// add; each in the order of z.
#pragma once
#include "tile.cuh"

constexpr int SURFACE_ROWS = 32;   // in one tile
constexpr int SURFACE_COUNTS = 5;  // of a row: edges along x, y, z, added vertices, triangles

FN int count_bits(u32 word) {
#if defined(__CUDACC__)
  return __popc(word);
#else
  return __builtin_popcount(word);
#endif
}
FN int lowest_bit(u32 word) {
#if defined(__CUDACC__)
  return __ffs(word) - 1;
#else
  return __builtin_ctz(word);
#endif
}

// bits [blocks nx ny, words]: bit j of word w: node 32 w + j lies above. unsound: how many words hold NaN.
struct SurfaceSigns {
  const float* values;
  u32* bits;
  int* unsound;
  float level;
  int rows;
  int nz;
  int words;

  FN void operator()(int tile, int) const {
    const int first = tile * SURFACE_ROWS, left = rows - first;
    LANES_IN_ORDER(i, (left < SURFACE_ROWS ? left : SURFACE_ROWS) * words) {
      const int row = first + i / words, word = i % words, begin = 32 * word;
      const float* v = values + (i64)row * nz + begin;
      u32 above = 0, broken = 0;
      if (begin + 32 <= nz) {
        for (int j = 0; j < 32; ++j) {
          above |= (u32)(v[j] > level) << j;
          broken |= (u32)(v[j] != v[j]);
        }
      } else {
        for (int j = 0; j < nz - begin; ++j) {
          above |= (u32)(v[j] > level) << j;
          broken |= (u32)(v[j] != v[j]);
        }
      }
      bits[(i64)row * words + word] = above;
      if (broken) add_to(unsound, 1);
    }
  }
};

KERNEL(SurfaceSigns)

// What an infinite number counts as: differences and products of them must stay numbers.
FN double from_level(float value, float level) {
  const double v = value;
  return (v > 1e30 ? 1e30 : v < -1e30 ? -1e30 : v) - (double)level;
}

// The eight numbers of a cell, minus the level.
struct CellValues {
  double at[8];

  FN void load(const float* values, i64 node, i64 along_x, i64 along_y, float level) {
    UNROLL for (int c = 0; c < 8; ++c) {
      const i64 corner = node + (c & 1) * along_x + (c >> 1 & 1) * along_y + (c >> 2);
      at[c] = from_level(values[corner], level);
    }
  }

  // Whether corners inside meet across face f, whose corners alternate: by the sign of the saddle.
  FN bool joined(int f) const {
    const int axis = f >> 1, u = 1 << (axis + 1) % 3, v = 1 << (axis + 2) % 3;
    const int a = (f & 1) << axis;
    const double one = at[a] * at[a | u | v], other = at[a | u] * at[a | v];
    return at[a] > 0 ? one >= other : other >= one;
  }

  // Which of a row's eight tunnels there is, if the table has it; -1 for none. Between the edges
  // along z, seen as a face that moves from z = 0 to 1: where its saddle is of the same sign as one
  // pair of opposite corners only in between, and these corners belong to two patches.
  FN int tunnel() const {
    const int upright[5] = {0, 1, 3, 2, 0};
    UNROLL for (int d = 0; d < 2; ++d) {
      const int a = upright[d], b = upright[d + 1], c = upright[d + 2], e = d ? 0 : 2;
      const double a0 = at[a], b0 = at[b], c0 = at[c], e0 = at[e];
      const double da = at[a | 4] - a0, db = at[b | 4] - b0, dc = at[c | 4] - c0, de = at[e | 4] - e0;
      const double square = da * dc - db * de;
      const double slope = c0 * da + a0 * dc - e0 * db - b0 * de, constant = a0 * c0 - b0 * e0;
      const double under = slope * slope - 4 * square * constant;
      if (!(square < 0) || !(under > 0)) continue;
      const double root = square_root(under);
      bool saddle = true;
      UNROLL for (int end = 0; end < 2; ++end) {
        const double t = (-slope + (end ? root : -root)) / (2 * square);
        const double at_a = a0 + t * da, at_b = b0 + t * db;
        saddle = saddle && t > 0 && t < 1 && at_a * (c0 + t * dc) > 0 && at_b * (e0 + t * de) > 0 &&
                 at_a * at_b < 0;
      }
      if (!saddle) continue;
      const bool above = a0 - slope / (2 * square) * da > 0;
      return 4 * d + 2 * ((a0 > 0) != above) + ((c0 > 0) != above);
    }
    return -1;
  }

  // The row of the table, see CubeTable.
  FN int row(const int* first, const u8* faces, const int* tunnels) const {
    int number = 0;
    UNROLL for (int c = 0; c < 8; ++c) number |= (at[c] > 0) << c;
    const int alternating = faces[number];
    int found = first[number];
    if (!alternating) return found;
    for (int f = 0, bit = 0; f < 6; ++f)
      if (alternating >> f & 1) found += (int)joined(f) << bit++;
    if (alternating >> 6) {
      const int which = tunnel();
      if (which >= 0 && tunnels[8 * found + which] >= 0) return tunnels[8 * found + which];
    }
    return found;
  }
};

// Four rows of a lattice around a row of cells, as words of signs.
struct CellRows {
  const u32* row[4];  // of x, y; x + 1, y; x, y + 1; x + 1, y + 1
  int words;
  int nz;

  // Bits of word w: signs; where a node and the next one along z differ, z < nz - 1.
  FN u32 signs(int r, int w) const { return row[r][w]; }
  FN u32 next(int r, int w) const {
    return row[r][w] >> 1 | (w + 1 < words ? row[r][w + 1] << 31 : 0);
  }
  FN u32 inner(int w) const {
    const int left = nz - 1 - 32 * w;
    return left >= 32 ? 0xffffffffu : left <= 0 ? 0 : (1u << left) - 1;
  }
  FN u32 along_z(int r, int w) const { return (signs(r, w) ^ next(r, w)) & inner(w); }
  FN u32 mixed(int w) const {
    u32 all = 0xffffffffu, any = 0;
    UNROLL for (int r = 0; r < 4; ++r) {
      const u32 here = signs(r, w), above = next(r, w);
      all &= here & above, any |= here | above;
    }
    return any & ~all & inner(w);
  }
};

// counts [blocks nx ny, 5], see SURFACE_COUNTS.
struct SurfaceCount {
  const float* values;
  const u32* bits;
  const int* first;
  const u8* faces;
  const int* tunnels;
  const u8* added;
  const u8* triangles;
  int* counts;
  float level;
  int rows;
  int nx;
  int ny;
  int nz;
  int words;
  int added_width;
  int triangles_width;

  FN void operator()(int tile, int) const {
    const int begin = tile * SURFACE_ROWS, left = rows - begin;
    LANES_IN_ORDER(i, left < SURFACE_ROWS ? left : SURFACE_ROWS) {
      const int row = begin + i, slice = row / ny, x = slice % nx, y = row - slice * ny;
      const bool right = x + 1 < nx, up = y + 1 < ny;
      const u32* here = bits + (i64)row * words;
      const u32* on = here + (right ? (i64)ny * words : 0);
      const CellRows four = {{here, on, here + (up ? words : 0), on + (up ? words : 0)}, words, nz};
      int found[SURFACE_COUNTS] = {};
      for (int w = 0; w < words; ++w) {
        const u32 sign = four.signs(0, w);
        if (right) found[0] += count_bits(sign ^ four.signs(1, w));
        if (up) found[1] += count_bits(sign ^ four.signs(2, w));
        found[2] += count_bits(four.along_z(0, w));
        if (!right || !up) continue;
        for (u32 cells = four.mixed(w); cells; cells &= cells - 1) {
          CellValues cell;
          const i64 node = (i64)row * nz + 32 * w + lowest_bit(cells);
          cell.load(values, node, (i64)ny * nz, nz, level);
          const int number = cell.row(first, faces, tunnels);
          found[3] += added[(i64)number * added_width];
          found[4] += triangles[(i64)number * triangles_width];
        }
      }
      UNROLL for (int j = 0; j < SURFACE_COUNTS; ++j) counts[(i64)row * SURFACE_COUNTS + j] = found[j];
    }
  }
};

KERNEL(SurfaceCount)

// starts [blocks nx ny, 5]: of each row, where its vertices on edges along x, y, z and those added begin
// among all vertices, and its triangles among all -> position [vertices, 3], in steps of the lattice;
// keys [vertices]: 4 times the node where the edge begins, or the cell, plus the axis, 3 for what was
// added; ends [vertices, 2]: the numbers at the edge's ends (both may be absent); corners
// [triangles, 3].
struct SurfaceDraw {
  const float* values;
  const u32* bits;
  const int* first;
  const u8* faces;
  const int* tunnels;
  const u8* added;
  const u8* triangles;
  const int* starts;
  float* position;
  i64* keys;
  float* ends;
  i64* corners;
  float level;
  int rows;
  int nx;
  int ny;
  int nz;
  int words;
  int added_width;
  int triangles_width;

  FN void operator()(int tile, int) const {
    const int begin = tile * SURFACE_ROWS, left = rows - begin;
    LANES_IN_ORDER(i, left < SURFACE_ROWS ? left : SURFACE_ROWS) draw(begin + i);
  }

  FN void draw(int row) const {
    const int slice = row / ny, x = slice % nx, y = row - slice * ny;
    const bool right = x + 1 < nx, up = y + 1 < ny;
    const int to_right = right ? ny : 0, to_up = up ? 1 : 0;
    const u32* here = bits + (i64)row * words;
    const CellRows four = {{here, here + (i64)to_right * words, here + (i64)to_up * words,
                            here + (i64)(to_right + to_up) * words},
                           words, nz};
    const int* start = starts + (i64)row * SURFACE_COUNTS;
    int at[SURFACE_COUNTS];
    UNROLL for (int j = 0; j < SURFACE_COUNTS; ++j) at[j] = start[j];
    // Where the vertices of the four rows' edges begin that a cell of this one has, by edge of the
    // cube in fours: along x of rows 0 and 2, along y of 0 and 1, along z of all.
    int along_x[2] = {at[0], start[to_up * SURFACE_COUNTS]};
    int along_y[2] = {at[1], start[to_right * SURFACE_COUNTS + 1]};
    int along_z[4];
    UNROLL for (int r = 0; r < 4; ++r)
      along_z[r] = start[((r & 1) * to_right + (r >> 1) * to_up) * SURFACE_COUNTS + 2];
    for (int w = 0; w < words; ++w) {
      const u32 sign = four.signs(0, w);
      const u32 cross_x[2] = {right ? sign ^ four.signs(1, w) : 0,
                              right ? four.signs(2, w) ^ four.signs(3, w) : 0};
      const u32 cross_y[2] = {up ? sign ^ four.signs(2, w) : 0,
                              up ? four.signs(1, w) ^ four.signs(3, w) : 0};
      u32 cross_z[4];
      UNROLL for (int r = 0; r < 4; ++r) cross_z[r] = four.along_z(r, w);
      vertices(row, x, y, 32 * w, cross_x[0], 0, at[0]);
      vertices(row, x, y, 32 * w, cross_y[0], 1, at[1]);
      vertices(row, x, y, 32 * w, cross_z[0], 2, at[2]);
      if (!right || !up) continue;
      for (u32 cells = four.mixed(w); cells; cells &= cells - 1) {
        const int bit = lowest_bit(cells);
        const u32 below = (1u << bit) - 1;
        int edge[12 + 8];
        UNROLL for (int r = 0; r < 2; ++r) {
          // Edges 0 to 3: along x from corners 0, 2, 4, 6; 4 to 7: along y from 0, 1, 4, 5.
          edge[r] = along_x[r] + count_bits(cross_x[r] & below);
          edge[2 + r] = edge[r] + (int)(cross_x[r] >> bit & 1);
          edge[4 + r] = along_y[r] + count_bits(cross_y[r] & below);
          edge[6 + r] = edge[4 + r] + (int)(cross_y[r] >> bit & 1);
        }
        UNROLL for (int r = 0; r < 4; ++r)
          edge[8 + r] = along_z[r] + count_bits(cross_z[r] & below);
        cell(row, x, y, 32 * w + bit, edge, at);
      }
      UNROLL for (int r = 0; r < 2; ++r) {
        along_x[r] += count_bits(cross_x[r]);
        along_y[r] += count_bits(cross_y[r]);
      }
      UNROLL for (int r = 0; r < 4; ++r) along_z[r] += count_bits(cross_z[r]);
    }
  }

  // Those on the edges along one axis that begin at the marked nodes.
  FN void vertices(int row, int x, int y, int z, u32 marked, int axis, int& at) const {
    for (; marked; marked &= marked - 1, ++at) {
      const int above = z + lowest_bit(marked);
      const i64 node = (i64)row * nz + above;
      const i64 other = node + (axis == 0 ? (i64)ny * nz : axis == 1 ? nz : 1);
      const float along = crossing(values[node], values[other]);
      float* p = position + 3 * (i64)at;
      p[0] = x + (axis == 0 ? along : 0.f);
      p[1] = y + (axis == 1 ? along : 0.f);
      p[2] = above + (axis == 2 ? along : 0.f);
      if (keys) keys[at] = 4 * node + axis;
      if (ends) ends[2 * (i64)at] = values[node], ends[2 * (i64)at + 1] = values[other];
    }
  }

  // Where a line through the two crosses the level: not so near an end that triangles become flat.
  FN float crossing(float low, float high) const {
    const double from = from_level(low, level), to = from_level(high, level);
    const double t = from / (from - to);
    return t > 1e-4 ? t < 1 - 1e-4 ? (float)t : 1 - 1e-4f : 1e-4f;
  }

  FN void cell(int row, int x, int y, int z, int* edge, int* at) const {
    CellValues value;
    const i64 node = (i64)row * nz + z;
    value.load(values, node, (i64)ny * nz, nz, level);
    const int number = value.row(first, faces, tunnels);
    const u8* more = added + (i64)number * added_width;
    for (int j = 0; j < more[0]; ++j) {
      edge[12 + j] = at[3];
      if (keys) keys[at[3]] = 4 * node + 3;
      add_vertex(x, y, z, value, more[1 + 2 * j], more[2 + 2 * j], at[3]++);
    }
    const u8* drawn = triangles + (i64)number * triangles_width;
    i64* to = corners + 3 * (i64)at[4];
    for (int j = 0; j < 3 * drawn[0]; ++j) to[j] = edge[drawn[1 + j]];
    at[4] += drawn[0];
  }

  // Between the vertices on two edges of the cell, drawn to its middle, and then to the surface.
  FN void add_vertex(int x, int y, int z, const CellValues& value, int one, int other, int at) const {
    float p[3] = {0.125f, 0.125f, 0.125f};
    UNROLL for (int side = 0; side < 2; ++side) {
      const int edge = side ? other : one, axis = edge >> 2, step = 1 << axis;
      // The lower corner: the two other bits of the edge's number among its four, in their order.
      const int two = edge & 3;
      const int low = axis == 0 ? two << 1 : axis == 1 ? (two & 1) | (two & 2) << 1 : two;
      const double from = value.at[low], to = value.at[low | step];
      const double t = from / (from - to);
      UNROLL for (int d = 0; d < 3; ++d) {
        const float along = (float)(t > 0 && t < 1 ? t : 0.5);
        p[d] += 0.375f * (d == axis ? along : (float)(low >> d & 1));
      }
    }
    double here = 0, slope[3] = {0, 0, 0};
    UNROLL for (int c = 0; c < 8; ++c) {
      const double wx = c & 1 ? p[0] : 1 - p[0], wy = c & 2 ? p[1] : 1 - p[1];
      const double wz = c & 4 ? p[2] : 1 - p[2];
      here += value.at[c] * wx * wy * wz;
      slope[0] += value.at[c] * (c & 1 ? 1 : -1) * wy * wz;
      slope[1] += value.at[c] * (c & 2 ? 1 : -1) * wx * wz;
      slope[2] += value.at[c] * (c & 4 ? 1 : -1) * wx * wy;
    }
    const double steep = slope[0] * slope[0] + slope[1] * slope[1] + slope[2] * slope[2];
    const int corner[3] = {x, y, z};
    UNROLL for (int d = 0; d < 3; ++d) {
      double step = steep > 0 ? here * slope[d] / steep : 0;
      step = step > -0.25 ? step < 0.25 ? step : 0.25 : -0.25;
      const float moved = p[d] - (float)step;
      position[3 * (i64)at + d] = corner[d] + (moved > 0.05f ? moved < 0.95f ? moved : 0.95f : 0.05f);
    }
    if (ends) ends[2 * (i64)at] = ends[2 * (i64)at + 1] = level;
  }
};

KERNEL(SurfaceDraw)
