// Radial basis functions (NeuRBF): how much each of a point's nearest kernels weighs, and features that
// are blended by those weights, or by their sines of many frequencies.
#pragma once
#include "tile.cuh"

constexpr int RBF_POINTS = 64;    // in one tile
constexpr int RBF_MOST = 16;      // neighbours
constexpr int RBF_CHANNELS = 8;   // features that lie side by side

// A kernel's shape is a factor L of its inverse squared width: with u = L^T (x - center), q = |u|^2.
// FORM numbers of it: 1, the same along all axes; D, one an axis; D (D + 1) / 2, the lower triangle.
template <int D, int FORM>
FN void rbf_local(const float* off, const float* factor, float* u) {
  UNROLL for (int j = 0; j < D; ++j) {
    if (FORM == 1) u[j] = factor[0] * off[j];
    else if (FORM == D) u[j] = factor[j] * off[j];
    else {
      u[j] = 0;
      UNROLL for (int i = j; i < D; ++i) u[j] += factor[i * (i + 1) / 2 + j] * off[i];
    }
  }
}

// Of the gradient to u: that to the factor, and that to the offset.
template <int D, int FORM>
FN void rbf_local_back(const float* off, const float* factor, const float* grad_u, float* grad_off,
                       float* grad_factor) {
  UNROLL for (int f = 0; f < FORM; ++f) grad_factor[f] = 0;
  UNROLL for (int i = 0; i < D; ++i) {
    if (FORM == 1) grad_off[i] = factor[0] * grad_u[i], grad_factor[0] += off[i] * grad_u[i];
    else if (FORM == D) grad_off[i] = factor[i] * grad_u[i], grad_factor[i] = off[i] * grad_u[i];
    else {
      grad_off[i] = 0;
      UNROLL for (int j = 0; j <= i; ++j) {
        grad_off[i] += factor[i * (i + 1) / 2 + j] * grad_u[j];
        grad_factor[i * (i + 1) / 2 + j] = off[i] * grad_u[j];
      }
    }
  }
}

// The families, in the order of cuda/rbf.py. phi of q and its derivative.
FN float rbf_phi(int family, float q, float& slope) {
  const float root = square_root(q);
  float sine, cosine;
  switch (family) {
    case 0: slope = -1 / ((1 + q) * (1 + q)); return 1 / (1 + q);
    case 1: slope = -0.5f / ((1 + q) * square_root(1 + q)); return 1 / square_root(1 + q);
    case 2: slope = -0.5f * exponential(-0.5f * q); return exponential(-0.5f * q);
    case 3: slope = -0.5f * q * exponential(-0.25f * q * q); return exponential(-0.25f * q * q);
    case 4: slope = -exponential(-q); return exponential(-q);
    case 5: slope = -0.5f / larger(root, 1e-6f) * exponential(-root); return exponential(-root);
    case 6: slope = -0.5f / (larger(root, 1e-6f) * (root + 1e-10f) * (root + 1e-10f)); return 1 / (root + 1e-10f);
    case 7: slope = -1.5f * root / ((q * root + 1e-30f) * (q * root + 1e-30f)); return 1 / (q * root + 1e-30f);
    case 8:
      sine_and_cosine(root, sine, cosine);
      slope = -0.5f * cosine / larger(root, 1e-6f) * exponential(-sine);
      return exponential(-sine);
    case 9: slope = 1; return 1 + q;
    case 10: slope = 0.5f / square_root(1 + q); return square_root(1 + q);
    case 11: slope = 0.5f / larger(root, 1e-6f); return root;
    case 12: slope = 1.5f * root; return q * root;
    default: slope = -1; return 1 - q;
  }
}
constexpr int RBF_TENT = 14;  // the product of 1 - |u| along each axis, where that is above 0

// phi of u and its derivative.
template <int D>
FN float rbf_value(int family, const float* u, float* grad_u) {
  if (family == RBF_TENT) {
    float part[D], value = 1;
    UNROLL for (int j = 0; j < D; ++j) part[j] = larger(1 - absolute(u[j]), 0.f), value *= part[j];
    UNROLL for (int j = 0; j < D; ++j) {
      grad_u[j] = part[j] > 0 ? u[j] > 0 ? -1.f : u[j] < 0 ? 1.f : 0.f : 0.f;
      UNROLL for (int l = 0; l < D; ++l) grad_u[j] *= l == j ? 1.f : part[l];
    }
    return value;
  }
  float q = 0, slope;
  UNROLL for (int j = 0; j < D; ++j) q += u[j] * u[j];
  const float value = rbf_phi(family, q, slope);
  UNROLL for (int j = 0; j < D; ++j) grad_u[j] = 2 * slope * u[j];
  return value;
}

// x [n, D], centers [count, D], factors [count, FORM], index [n, k] or -1 -> weights [n, k]: phi, as a
// part of the sum over the neighbours where `normalize` says so.
template <int D, int FORM>
struct RbfWeights {
  const float* x;
  const float* centers;
  const float* factors;
  const int* index;
  float* weights;
  int n;
  int k;
  int family;
  int normalize;

  FN void operator()(int tile, int) const {
    const int first = tile * RBF_POINTS, left = n - first;
    LANES_IN_ORDER(i, left < RBF_POINTS ? left : RBF_POINTS) {
      const size_t point = first + i;
      float sum = 0;
      for (int j = 0; j < k; ++j) {
        const int at = index[k * point + j];
        float phi = 0;
        if (at >= 0) {
          float off[D], u[D], slope[D];
          UNROLL for (int d = 0; d < D; ++d) off[d] = x[D * point + d] - centers[(size_t)D * at + d];
          rbf_local<D, FORM>(off, factors + (size_t)FORM * at, u);
          phi = rbf_value<D>(family, u, slope);
        }
        weights[k * point + j] = phi, sum += phi;
      }
      if (normalize)
        for (int j = 0; j < k; ++j) weights[k * point + j] /= sum + 1e-8f;
    }
  }
};

// grad_weights [n, k] -> grad_x [n, D], and where they are asked for each neighbour's share of the
// gradients to centers [n, k, D] and factors [n, k, FORM].
template <int D, int FORM>
struct RbfWeightsPull {
  const float* x;
  const float* centers;
  const float* factors;
  const int* index;
  const float* weights;
  const float* grad_weights;
  float* grad_x;
  float* grad_centers;
  float* grad_factors;
  int n;
  int k;
  int family;
  int normalize;

  FN void operator()(int tile, int) const {
    const int first = tile * RBF_POINTS, left = n - first;
    LANES_IN_ORDER(i, left < RBF_POINTS ? left : RBF_POINTS) {
      const size_t point = first + i;
      float sum = 0, mean = 0, grad[D];
      UNROLL for (int d = 0; d < D; ++d) grad[d] = 0;
      if (normalize)
        for (int j = 0; j < k; ++j) {
          const int at = index[k * point + j];
          if (at < 0) continue;
          float off[D], u[D], slope[D];
          UNROLL for (int d = 0; d < D; ++d) off[d] = x[D * point + d] - centers[(size_t)D * at + d];
          rbf_local<D, FORM>(off, factors + (size_t)FORM * at, u);
          sum += rbf_value<D>(family, u, slope);
          mean += weights[k * point + j] * grad_weights[k * point + j];
        }
      for (int j = 0; j < k; ++j) {
        const int at = index[k * point + j];
        float off[D] = {}, u[D], slope[D], grad_off[D] = {}, grad_factor[FORM] = {};
        if (at >= 0) {
          UNROLL for (int d = 0; d < D; ++d) off[d] = x[D * point + d] - centers[(size_t)D * at + d];
          rbf_local<D, FORM>(off, factors + (size_t)FORM * at, u);
          rbf_value<D>(family, u, slope);
          const float g = grad_weights[k * point + j];
          const float of_phi = normalize ? (g - mean) / (sum + 1e-8f) : g;
          UNROLL for (int d = 0; d < D; ++d) slope[d] *= of_phi;
          rbf_local_back<D, FORM>(off, factors + (size_t)FORM * at, slope, grad_off, grad_factor);
        }
        UNROLL for (int d = 0; d < D; ++d) grad[d] += grad_off[d];
        if (grad_centers) {
          UNROLL for (int d = 0; d < D; ++d) grad_centers[D * (k * point + j) + d] = -grad_off[d];
        }
        if (grad_factors) {
          UNROLL for (int f = 0; f < FORM; ++f) grad_factors[FORM * (k * point + j) + f] = grad_factor[f];
        }
      }
      UNROLL for (int d = 0; d < D; ++d) grad_x[D * point + d] = grad[d];
    }
  }
};

using RbfRow = Row<RBF_CHANNELS>;

// A block's basis at a tile's points: [point][neighbour][channel], the weight itself where the
// frequency is 0, else the sine of frequency times weight; and the derivative by the weight.
struct RbfBasis {
  float value[RBF_POINTS * RBF_MOST * RBF_CHANNELS];

  template <bool SLOPE>
  FN void fill(const float* weights, const float* frequencies, int count) {
    float m[RBF_CHANNELS], most = 0;
    UNROLL for (int c = 0; c < RBF_CHANNELS; ++c) m[c] = frequencies[c], most = larger(most, m[c]);
    if (most == 0) {
      LANES(i, count * RBF_CHANNELS) value[i] = SLOPE ? 1 : weights[i / RBF_CHANNELS];
      return;
    }
    LANES_IN_ORDER(i, count) {
      const float w = weights[i];
      float* at = value + RBF_CHANNELS * i;
      for (int c = 0; c < RBF_CHANNELS; ++c) {
        float sine, cosine;
        sine_and_cosine(m[c] * w, sine, cosine);
        at[c] = SLOPE ? m[c] > 0 ? m[c] * cosine : 1 : m[c] > 0 ? sine : w;
      }
    }
  }
};

// weights [n, k], index [n, k] or -1, features [blocks, count, 8], frequencies [blocks, 8]
// -> out [n, blocks * 8].
struct RbfBlend {
  const float* weights;
  const int* index;
  const float* features;
  const float* frequencies;
  float* out;
  int n;
  int k;
  int count;
  int n_blocks;

  FN void operator()(int tile, int) const {
    TILE RbfBasis basis;
    const int first = tile * RBF_POINTS, left = n - first;
    const int here = left < RBF_POINTS ? left : RBF_POINTS;
    const size_t begin = (size_t)k * first;
    for (int block = 0; block < n_blocks; ++block) {
      basis.fill<false>(weights + begin, frequencies + RBF_CHANNELS * block, k * here);
      SYNC();
      const float* held = features + (size_t)RBF_CHANNELS * count * block;
      LANES_IN_ORDER(i, here) {
        RbfRow sum = RbfRow::zero();
        for (int j = 0; j < k; ++j) {
          const int at = index[begin + k * i + j];
          if (at < 0) continue;
          const RbfRow row = RbfRow::load(basis.value + RBF_CHANNELS * (k * i + j));
          sum = sum.plus(row.times(RbfRow::load(held + (size_t)RBF_CHANNELS * at)));
        }
        sum.store(out + (size_t)RBF_CHANNELS * (n_blocks * (size_t)(first + i) + block));
      }
      SYNC();
    }
  }
};

// grad_out [n, blocks * 8] -> adds to grad_features. Row y is block y.
struct RbfScatter {
  const float* weights;
  const int* index;
  const float* frequencies;
  const float* grad_out;
  float* grad_features;
  int n;
  int k;
  int count;
  int n_blocks;

  FN void operator()(int tile, int block) const {
    TILE RbfBasis basis;
    const int first = tile * RBF_POINTS, left = n - first;
    const int here = left < RBF_POINTS ? left : RBF_POINTS;
    const size_t begin = (size_t)k * first;
    basis.fill<false>(weights + begin, frequencies + RBF_CHANNELS * block, k * here);
    SYNC();
    float* held = grad_features + (size_t)RBF_CHANNELS * count * block;
    LANES_IN_ORDER(i, here) {
      const RbfRow grad =
          RbfRow::load(grad_out + (size_t)RBF_CHANNELS * (n_blocks * (size_t)(first + i) + block));
      for (int j = 0; j < k; ++j) {
        const int at = index[begin + k * i + j];
        if (at < 0) continue;
        const RbfRow row = RbfRow::load(basis.value + RBF_CHANNELS * (k * i + j));
        add_row_to(held + (size_t)RBF_CHANNELS * at, 1.f, row.times(grad));
      }
    }
    SYNC();
  }
};

// grad_out [n, blocks * 8] -> grad_weights [n, k].
struct RbfPull {
  const float* weights;
  const int* index;
  const float* features;
  const float* frequencies;
  const float* grad_out;
  float* grad_weights;
  int n;
  int k;
  int count;
  int n_blocks;

  FN void operator()(int tile, int) const {
    TILE RbfBasis basis;
    const int first = tile * RBF_POINTS, left = n - first;
    const int here = left < RBF_POINTS ? left : RBF_POINTS;
    const size_t begin = (size_t)k * first;
    LANES(i, k * here) grad_weights[begin + i] = 0;
    for (int block = 0; block < n_blocks; ++block) {
      SYNC();
      basis.fill<true>(weights + begin, frequencies + RBF_CHANNELS * block, k * here);
      SYNC();
      const float* held = features + (size_t)RBF_CHANNELS * count * block;
      LANES_IN_ORDER(i, here) {
        const RbfRow grad =
            RbfRow::load(grad_out + (size_t)RBF_CHANNELS * (n_blocks * (size_t)(first + i) + block));
        for (int j = 0; j < k; ++j) {
          const int at = index[begin + k * i + j];
          if (at < 0) continue;
          const RbfRow row = RbfRow::load(basis.value + RBF_CHANNELS * (k * i + j));
          const RbfRow feature = RbfRow::load(held + (size_t)RBF_CHANNELS * at);
          grad_weights[begin + k * i + j] += row.times(feature).times(grad).total();
        }
      }
    }
  }
};

KERNEL(RbfWeights<2, 1>)
KERNEL(RbfWeights<2, 2>)
KERNEL(RbfWeights<2, 3>)
KERNEL(RbfWeights<3, 1>)
KERNEL(RbfWeights<3, 3>)
KERNEL(RbfWeights<3, 6>)
KERNEL(RbfWeightsPull<2, 1>)
KERNEL(RbfWeightsPull<2, 2>)
KERNEL(RbfWeightsPull<2, 3>)
KERNEL(RbfWeightsPull<3, 1>)
KERNEL(RbfWeightsPull<3, 3>)
KERNEL(RbfWeightsPull<3, 6>)
KERNEL(RbfBlend)
KERNEL(RbfScatter)
KERNEL(RbfPull)
