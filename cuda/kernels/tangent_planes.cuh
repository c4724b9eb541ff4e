// DualMesh-UDF: one vertex a cell where the tangent planes about it meet, and which four of them a
// surface joins. In double: thresholds decide what a vertex is, and vertices that are the same meet.
#pragma once
#include "tile.cuh"

constexpr int PLANES_CELLS = 32;     // in one tile
constexpr int PLANES_OF_CELL = 27;   // the points of its lattice
constexpr int PLANES_LEAST = 3;      // that make a vertex
constexpr int PLANES_WIDER = 7;      // attempts at a second choice
constexpr int KIND_PLANE = 0;
constexpr int KIND_EDGE = 1;
constexpr int KIND_CORNER = 2;
constexpr int KIND_NONE = 3;
constexpr double PLANES_EXACT = 1e-5;     // of a cell's edge: what still counts as inside
constexpr double PLANES_ROOM = 1e-4;
constexpr double PLANES_PARALLEL = 1e-4;

FN double dot3(const double* a, const double* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// Eigenvalues, ascending, and unit vectors (rows) of a symmetric matrix xx, xy, xz, yy, yz, zz, by
// Jacobi's rotations: of vanishing matrices the axes.
struct Eigen3 {
  double value[3];
  double vector[3][3];

  FN void solve(const double* m) {
    double a[3][3] = {{m[0], m[1], m[2]}, {m[1], m[3], m[4]}, {m[2], m[4], m[5]}};
    double v[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};  // columns
    for (int sweep = 0; sweep < 12; ++sweep) {
      const double off = a[0][1] * a[0][1] + a[0][2] * a[0][2] + a[1][2] * a[1][2];
      const double on = a[0][0] * a[0][0] + a[1][1] * a[1][1] + a[2][2] * a[2][2];
      if (!(off > 1e-34 * on)) break;
      rotate<0, 1>(a, v), rotate<0, 2>(a, v), rotate<1, 2>(a, v);
    }
    int order[3] = {0, 1, 2};
    UNROLL for (int i = 0; i < 3; ++i) {
      const int j = i == 1 ? 1 : 0;  // (0, 1), (1, 2), (0, 1)
      if (a[order[j]][order[j]] > a[order[j + 1]][order[j + 1]]) {
        const int held = order[j];
        order[j] = order[j + 1], order[j + 1] = held;
      }
    }
    UNROLL for (int i = 0; i < 3; ++i) {
      value[i] = a[order[i]][order[i]];
      UNROLL for (int d = 0; d < 3; ++d) vector[i][d] = v[d][order[i]];
    }
  }

  template <int P, int Q>
  static FN void rotate(double a[3][3], double v[3][3]) {
    if (a[P][Q] == 0) return;
    const double theta = (a[Q][Q] - a[P][P]) / (2 * a[P][Q]);
    const double t = (theta < 0 ? -1 : 1) / (absolute(theta) + square_root(theta * theta + 1));
    const double c = 1 / square_root(t * t + 1), s = t * c;
    constexpr int R = 3 - P - Q;
    const double pq = a[P][Q], rp = a[R][P], rq = a[R][Q];
    a[P][P] -= t * pq, a[Q][Q] += t * pq;
    a[P][Q] = a[Q][P] = 0;
    a[R][P] = a[P][R] = c * rp - s * rq;
    a[R][Q] = a[Q][R] = s * rp + c * rq;
    UNROLL for (int d = 0; d < 3; ++d) {
      const double vp = v[d][P], vq = v[d][Q];
      v[d][P] = c * vp - s * vq, v[d][Q] = s * vp + c * vq;
    }
  }
};

// The mean of those points that lie in a cell; if none does, of those somewhat beyond.
struct MeanInside {
  double exact[3];
  double wide[3];
  int n_exact;
  int n_wide;

  FN void clear() {
    UNROLL for (int d = 0; d < 3; ++d) exact[d] = wide[d] = 0;
    n_exact = n_wide = 0;
  }
  FN void take(const double* point, bool in_exact, bool in_wide) {
    if (in_exact) {
      UNROLL for (int d = 0; d < 3; ++d) exact[d] += point[d];
      ++n_exact;
    }
    if (in_wide) {
      UNROLL for (int d = 0; d < 3; ++d) wide[d] += point[d];
      ++n_wide;
    }
  }
  FN bool give(double* out) const {
    const int n = n_exact ? n_exact : n_wide;
    UNROLL for (int d = 0; d < 3; ++d) out[d] = n ? (n_exact ? exact[d] : wide[d]) / n : 0;
    return n > 0;
  }
};

struct PlaneVertex {
  double position[3];
  double direction[3];
  double residual;
  int kind;
};

// low [n, 3] of cells of one edge, foot and normal [m, 3], reliable [m], rows [n, 27] of theirs
// -> position [n, 3], kind [n], direction [n, 3], residual [n].
struct PlaneVertices {
  const double* low;
  const double* foot;
  const double* normal;
  const u8* reliable;
  const i64* rows;
  double* position;
  i64* kind;
  double* direction;
  double* residual;
  int n;
  double edge;
  double corner_factor;
  double edge_factor;
  double plane_factor;
  double cutoff;

  FN void operator()(int tile, int) const {
    const int first = tile * PLANES_CELLS, left = n - first;
    LANES_IN_ORDER(i, left < PLANES_CELLS ? left : PLANES_CELLS) {
      const size_t cell = first + i;
      PlaneVertex found;
      place(cell, found);
      UNROLL for (int d = 0; d < 3; ++d) {
        position[3 * cell + d] = found.position[d], direction[3 * cell + d] = found.direction[d];
      }
      kind[cell] = found.kind, residual[cell] = found.residual;
    }
  }

  FN bool inside(const double* x, const double* at, double factor) const {
    const double room = factor * edge;
    bool within = true;
    UNROLL for (int d = 0; d < 3; ++d) within &= x[d] > at[d] - room && x[d] < at[d] + edge + room;
    return within;
  }

  // Of the cell's planes that count, those whose feet are within it but for so much: one bit each.
  FN u32 feet_within(size_t cell, double factor, int& count) const {
    u32 found = 0;
    count = 0;
    for (int j = 0; j < PLANES_OF_CELL; ++j) {
      const i64 row = rows[PLANES_OF_CELL * cell + j];
      if (!reliable[row] || !inside(foot + 3 * row, low + 3 * cell, factor)) continue;
      found |= 1u << j, ++count;
    }
    return found;
  }

  FN void place(size_t cell, PlaneVertex& found) const {
    const double wider[PLANES_WIDER] = {1e-4, 0.02, 0.07, 0.12, 0.17, 0.22, 0.27};
    const double* at = low + 3 * cell;
    u32 kept = 0;
    int count = 0;
    for (int j = 0; j < PLANES_OF_CELL; ++j)
      if (reliable[rows[PLANES_OF_CELL * cell + j]]) kept |= 1u << j, ++count;
    int near_count;
    const u32 near = feet_within(cell, 0.01, near_count);
    double origin[3] = {0, 0, 0};
    for (int j = 0; j < PLANES_OF_CELL; ++j) {
      if (!(near >> j & 1)) continue;
      const double* p = foot + 3 * rows[PLANES_OF_CELL * cell + j];
      UNROLL for (int d = 0; d < 3; ++d) origin[d] += p[d];
    }
    UNROLL for (int d = 0; d < 3; ++d)
      origin[d] = near_count ? origin[d] / near_count : at[d] + edge / 2;
    solve(cell, origin, kept, count, found);
    if (count >= PLANES_LEAST && found.kind != KIND_NONE) return;
    // The second attempt: only planes whose feet are near, the nearest that are enough.
    count = 0;
    for (int attempt = 0; attempt < PLANES_WIDER && count < PLANES_LEAST; ++attempt)
      kept = feet_within(cell, wider[attempt], count);
    if (count < PLANES_LEAST) {
      found.kind = KIND_NONE;
      return;
    }
    solve(cell, origin, kept, count, found);
    const double room = found.kind == KIND_CORNER ? PLANES_EXACT : PLANES_ROOM;
    if (!inside(found.position, at, room)) found.kind = KIND_NONE;
  }

  FN void solve(size_t cell, const double* origin, u32 kept, int count, PlaneVertex& found) const {
    double gram[6] = {0, 0, 0, 0, 0, 0}, right[3] = {0, 0, 0};
    for (int j = 0; j < PLANES_OF_CELL; ++j) {
      if (!(kept >> j & 1)) continue;
      const i64 row = rows[PLANES_OF_CELL * cell + j];
      const double *g = normal + 3 * row, *p = foot + 3 * row;
      const double off[3] = {p[0] - origin[0], p[1] - origin[1], p[2] - origin[2]};
      const double offset = dot3(g, off);
      gram[0] += g[0] * g[0], gram[1] += g[0] * g[1], gram[2] += g[0] * g[2];
      gram[3] += g[1] * g[1], gram[4] += g[1] * g[2], gram[5] += g[2] * g[2];
      UNROLL for (int d = 0; d < 3; ++d) right[d] += g[d] * offset;
    }
    Eigen3 axes;
    axes.solve(gram);
    double solved[3] = {origin[0], origin[1], origin[2]};
    bool holds[3];
    UNROLL for (int e = 0; e < 3; ++e) {
      // Singular values are roots of these.
      holds[e] = axes.value[e] > cutoff * cutoff * axes.value[2];
      if (!holds[e]) continue;
      const double moved = dot3(axes.vector[e], right) / axes.value[e];
      UNROLL for (int d = 0; d < 3; ++d) solved[d] += moved * axes.vector[e][d];
    }
    const int kind = !holds[1] ? KIND_PLANE : !holds[0] ? KIND_EDGE : KIND_CORNER;
    const double* at = low + 3 * cell;
    bool fits;
    UNROLL for (int d = 0; d < 3; ++d)
      found.position[d] = solved[d],
      found.direction[d] = kind == KIND_PLANE ? axes.vector[2][d] : kind == KIND_EDGE ? axes.vector[0][d] : 0;
    if (kind == KIND_PLANE) fits = mean_on_plane(at, solved, axes.vector[2], found.position);
    else if (kind == KIND_EDGE) fits = mean_on_line(at, solved, axes.vector[0], found.position);
    else fits = inside(solved, at, corner_factor);
    found.kind = fits && count >= PLANES_LEAST ? kind : KIND_NONE;
    double sum = 0;
    for (int j = 0; j < PLANES_OF_CELL; ++j) {
      if (!(kept >> j & 1)) continue;
      const i64 row = rows[PLANES_OF_CELL * cell + j];
      const double* p = foot + 3 * row;
      const double off[3] = {p[0] - found.position[0], p[1] - found.position[1], p[2] - found.position[2]};
      const double height = dot3(normal + 3 * row, off);
      sum += height * height;
    }
    found.residual = square_root(sum / (count ? count : 1));
  }

  // Of where a line meets the planes of a cell's six sides.
  FN bool mean_on_line(const double* at, const double* base, const double* along, double* out) const {
    MeanInside mean;
    mean.clear();
    for (int axis = 0; axis < 3; ++axis) {
      if (absolute(along[axis]) < PLANES_PARALLEL) continue;
      for (int side = 0; side < 2; ++side) {
        const double t = (at[axis] + side * edge - base[axis]) / along[axis];
        const double point[3] = {base[0] + t * along[0], base[1] + t * along[1], base[2] + t * along[2]};
        mean.take(point, inside(point, at, PLANES_EXACT), inside(point, at, edge_factor));
      }
    }
    return mean.give(out);
  }

  // Of where a plane meets the lines through a cell's twelve edges.
  FN bool mean_on_plane(const double* at, const double* base, const double* across, double* out) const {
    MeanInside mean;
    mean.clear();
    for (int axis = 0; axis < 3; ++axis) {
      if (absolute(across[axis]) < PLANES_PARALLEL) continue;
      const int one = axis == 2 ? 0 : axis + 1, other = axis == 0 ? 2 : axis - 1;
      for (int corner = 0; corner < 4; ++corner) {
        double point[3] = {at[0], at[1], at[2]};
        point[one] += edge * (corner & 1), point[other] += edge * (corner >> 1);
        const double off[3] = {base[0] - point[0], base[1] - point[1], base[2] - point[2]};
        point[axis] += dot3(off, across) / across[axis];
        mean.take(point, inside(point, at, PLANES_EXACT), inside(point, at, plane_factor));
      }
    }
    return mean.give(out);
  }
};

KERNEL(PlaneVertices)

// quad [n, 4] of vertices in a ring; position, direction [m, 3], kind [m] -> keep [n]: whether what
// the vertices say of the surface goes with the quad; first [n]: whether its diagonal begins at the
// first corner.
struct PlaneQuads {
  const i64* quad;
  const double* position;
  const double* direction;
  const i64* kind;
  u8* keep;
  u8* first;
  int n;
  double flat;
  double plane_cosine;
  double edge_cosine;

  FN void operator()(int tile, int) const {
    const int begin = tile * PLANES_CELLS, left = n - begin;
    LANES_IN_ORDER(i, left < PLANES_CELLS ? left : PLANES_CELLS) judge(begin + i);
  }

  FN void judge(size_t at) const {
    double corner[4][3], middle[3] = {0, 0, 0}, gram[6] = {0, 0, 0, 0, 0, 0};
    i64 row[4];
    bool plane[4], crease[4];
    UNROLL for (int j = 0; j < 4; ++j) {
      row[j] = quad[4 * at + j];
      plane[j] = kind[row[j]] == KIND_PLANE, crease[j] = kind[row[j]] == KIND_EDGE;
      UNROLL for (int d = 0; d < 3; ++d) corner[j][d] = position[3 * row[j] + d], middle[d] += corner[j][d] / 4;
    }
    UNROLL for (int j = 0; j < 4; ++j) {
      const double off[3] = {corner[j][0] - middle[0], corner[j][1] - middle[1], corner[j][2] - middle[2]};
      gram[0] += off[0] * off[0], gram[1] += off[0] * off[1], gram[2] += off[0] * off[2];
      gram[3] += off[1] * off[1], gram[4] += off[1] * off[2], gram[5] += off[2] * off[2];
    }
    Eigen3 axes;
    axes.solve(gram);
    const double least = square_root(axes.value[0] > 0 ? axes.value[0] : 0);
    const double most = square_root(axes.value[2] > 0 ? axes.value[2] : 0);
    const bool coplanar = least < flat * most;
    bool goes = true, agrees = true;
    int planes = 0;
    UNROLL for (int j = 0; j < 4; ++j) {
      const double* says = direction + 3 * row[j];
      const double along = absolute(dot3(says, axes.vector[0]));
      if ((plane[j] && along < plane_cosine) || (crease[j] && along > edge_cosine)) goes = false;
      if (plane[j] && absolute(dot3(says, own_normal(corner, j).at)) < plane_cosine) agrees = false;
      planes += plane[j];
    }
    // Flat corners that are not in one plane: two at most, opposite ones.
    if ((plane[0] || plane[2]) && (plane[1] || plane[3])) agrees = false;
    keep[at] = coplanar ? goes : agrees;
    first[at] = coplanar || (planes ? plane[1] || plane[3] : crease[0] && crease[2]);
  }

  struct Vector {
    double at[3];
  };

  // Of the triangle that a corner makes with its neighbours.
  static FN Vector own_normal(const double corner[4][3], int j) {
    double a[3], b[3];
    UNROLL for (int d = 0; d < 3; ++d) {
      a[d] = corner[(j + 1) & 3][d] - corner[j][d], b[d] = corner[(j + 3) & 3][d] - corner[j][d];
    }
    const double c[3] = {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
    const double length = square_root(dot3(c, c));
    const double by = length > 1e-300 ? 1 / length : 0;
    return {{c[0] * by, c[1] * by, c[2] * by}};
  }
};

KERNEL(PlaneQuads)
