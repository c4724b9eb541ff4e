// The centres nearest to each point, by a k-d tree: a box about every node, a few centres in a leaf,
// and of two children the nearer one first. Node i has the children 2 i + 1 and 2 i + 2.
#pragma once
#include "tile.cuh"

constexpr int NEAREST_POINTS = 64;  // in one tile
constexpr int NEAREST_MOST = 16;    // neighbours
constexpr int NEAREST_DEPTH = 32;   // of a tree, at most

// The nearest found so far, in order; of two that are as near, the one of lower number comes first.
struct NearestFound {
  float distance[NEAREST_MOST];
  int number[NEAREST_MOST];

  FN void clear(int k) {
    for (int j = 0; j < k; ++j) distance[j] = 3e38f, number[j] = -1;
  }
  FN void offer(float d, int id, int k) {
    if (d > distance[k - 1] || (d == distance[k - 1] && id > number[k - 1])) return;
    int j = k - 1;
    for (; j > 0 && (d < distance[j - 1] || (d == distance[j - 1] && id < number[j - 1])); --j)
      distance[j] = distance[j - 1], number[j] = number[j - 1];
    distance[j] = d, number[j] = id;
  }
};

// x [n, D], centers [count, D] leaf by leaf, numbers [count] of theirs before that, starts
// [leaves + 1], boxes [2 leaves - 1, 2 D]: lower corner, upper corner -> index [n, k].
template <int D>
struct Nearest {
  const float* x;
  const float* centers;
  const int* numbers;
  const int* starts;
  const float* boxes;
  int* index;
  int leaves;
  int n;
  int k;

  FN void operator()(int tile, int) const {
    const int first = tile * NEAREST_POINTS, left = n - first;
    LANES_IN_ORDER(i, left < NEAREST_POINTS ? left : NEAREST_POINTS) {
      NearestFound found;
      found.clear(k);
      search(found, x + (size_t)D * (first + i));
      for (int j = 0; j < k; ++j) index[(size_t)k * (first + i) + j] = found.number[j];
    }
  }

  FN void search(NearestFound& found, const float* point) const {
    int node[NEAREST_DEPTH], waiting = 1;
    float away[NEAREST_DEPTH];
    node[0] = 0, away[0] = 0;
    while (waiting) {
      int at = node[--waiting];
      // A box as far away as the last one found may hold a centre of lower number.
      if (away[waiting] > found.distance[k - 1]) continue;
      while (at < leaves - 1) {
        const int one = 2 * at + 1, other = one + 1;
        const float to_one = distance_to(one, point), to_other = distance_to(other, point);
        const bool swap = to_other < to_one;
        node[waiting] = swap ? one : other, away[waiting++] = swap ? to_one : to_other;
        at = swap ? other : one;
      }
      look(found, point, at - (leaves - 1));
    }
  }

  FN float distance_to(int node, const float* point) const {
    const float* box = boxes + 2 * D * (size_t)node;
    float distance = 0;
    UNROLL for (int d = 0; d < D; ++d) {
      const float off = larger(larger(box[d] - point[d], point[d] - box[D + d]), 0.f);
      distance += off * off;
    }
    return distance;
  }

  FN void look(NearestFound& found, const float* point, int leaf) const {
    for (int j = starts[leaf]; j < starts[leaf + 1]; ++j) {
      float distance = 0;
      UNROLL for (int d = 0; d < D; ++d) {
        const float off = centers[(size_t)D * j + d] - point[d];
        distance += off * off;
      }
      found.offer(distance, numbers[j], k);
    }
  }
};

KERNEL(Nearest<2>)
KERNEL(Nearest<3>)
