// Where rays enter and leave a box.
#pragma once
#include "tile.cuh"

constexpr int BOX_RAYS = 256;  // in one tile

FN float infinity() { return bits_to_float(0x7f800000u); }

// Narrows [near, far] to the part of the ray that lies in the box; near > far where there is none. A
// ray along a face lies inside. far stays as it was where the direction is zero.
FN void cut_to_box(const float* o, const float* d, const float* low, const float* high, float& near,
                   float& far) {
  for (int a = 0; a < 3; ++a) {
    // Without a branch, so that the CPU's compiler makes vector code of lanes.
    const bool level = d[a] == 0.f, outside = o[a] < low[a] || o[a] > high[a];
    const float divisor = level ? 1.f : d[a];
    const float one = (low[a] - o[a]) / divisor, other = (high[a] - o[a]) / divisor;
    const float enter = level ? near : smaller(one, other);
    const float leave = level ? (outside ? -infinity() : far) : larger(one, other);
    near = larger(near, enter), far = smaller(far, leave);
  }
}

struct IntersectBox {
  const float* origins;
  const float* directions;
  const float* minimum;
  const float* maximum;
  float* near;
  float* far;
  int rays;

  FN void operator()(int tile, int) const {
    const int first = tile * BOX_RAYS;
    const int count = rays - first < BOX_RAYS ? rays - first : BOX_RAYS;
    const float low[3] = {minimum[0], minimum[1], minimum[2]};
    const float high[3] = {maximum[0], maximum[1], maximum[2]};
    const float* o = origins + 3 * (size_t)first;
    const float* d = directions + 3 * (size_t)first;
    float* begin = near + first;
    float* end = far + first;
    LANES(i, count) {
      float enter = 0.f, leave = infinity();
      cut_to_box(o + 3 * i, d + 3 * i, low, high, enter, leave);
      begin[i] = enter, end[i] = leave;
    }
  }
};

KERNEL(IntersectBox)
