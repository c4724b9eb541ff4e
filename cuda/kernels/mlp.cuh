// A small MLP without biases, one tile of points through all its layers. Points are rows, features
// are columns, so lanes and vectors run over features in all three products of a layer. The forward
// pass keeps no hidden values: on a CPU fresh memory for them costs more than computing them again.
#pragma once
#include "tile.cuh"
#include "tile_matmul.cuh"

constexpr int MLP_SUMMED = 256;  // weights in one tile of the sum over slices

// The numbers that mlp.py gives to the names.
enum MlpActivation { MLP_NONE, MLP_RELU, MLP_SILU, MLP_SOFTPLUS, MLP_SIGMOID, MLP_TRUNCATED_EXP };

FN float mlp_sigmoid(float z) { return 1.f / (1.f + exponential(-z)); }

// log(1 + e^z) as 2 artanh(s) with s = e / (2 + e), e = e^-|z|: exact for small e, and no call.
FN float mlp_softplus(float z) {
  const float e = exponential(-absolute(z)), s = e / (2.f + e), q = s * s;
  float p = 1.f / 15;
  p = p * q + 1.f / 13, p = p * q + 1.f / 11, p = p * q + 1.f / 9, p = p * q + 1.f / 7;
  p = p * q + 1.f / 5, p = p * q + 1.f / 3, p = p * q + 1.f;
  return (z < 0 ? 0.f : z) + 2 * s * p;
}

// `to` may be `z`. The tests of sign let NaN pass, so that a diverged run is seen.
FN void mlp_activate(float* to, const float* z, int count, int activation) {
  if (activation == MLP_RELU) {
    LANES(i, count) to[i] = z[i] < 0 ? 0.f : z[i];
  } else if (activation == MLP_SILU) {
    LANES(i, count) to[i] = z[i] * mlp_sigmoid(z[i]);
  } else if (activation == MLP_SOFTPLUS) {
    LANES(i, count) to[i] = mlp_softplus(z[i]);
  } else if (activation == MLP_SIGMOID) {
    LANES(i, count) to[i] = mlp_sigmoid(z[i]);
  } else if (activation == MLP_TRUNCATED_EXP) {
    LANES(i, count) to[i] = exponential(z[i]);
  } else if (to != z) {
    LANES(i, count) to[i] = z[i];
  }
}

// Gradient before a hidden activation from that after it. Output activations go by their own value.
FN void mlp_activate_backward(float* to, const float* grad, const float* z, int count,
                              int activation) {
  if (activation == MLP_RELU) {
    LANES(i, count) to[i] = z[i] > 0 ? grad[i] : 0.f;
  } else if (activation == MLP_SILU) {
    LANES(i, count) {
      const float s = mlp_sigmoid(z[i]);
      to[i] = grad[i] * s * (1 + z[i] * (1 - s));
    }
  } else if (activation == MLP_SOFTPLUS) {
    LANES(i, count) to[i] = grad[i] * mlp_sigmoid(z[i]);
  } else {
    LANES(i, count) to[i] = grad[i];
  }
}

FN void mlp_output_backward(float* to, const float* grad, const float* out, int count,
                            int activation) {
  if (activation == MLP_SIGMOID) {
    LANES(i, count) to[i] = grad[i] * out[i] * (1 - out[i]);
  } else if (activation == MLP_TRUNCATED_EXP) {
    LANES(i, count) {  // e^clamp(z, -15, 15) is the output, clamped
      const float low = out[i] < 3.0590232e-7f ? 3.0590232e-7f : out[i];
      to[i] = grad[i] * (low > 3269017.37f ? 3269017.37f : low);
    }
  } else {
    LANES(i, count) to[i] = grad[i];
  }
}

// The tile's values after its last hidden layer (the input if there is none). matrix moves on to the
// last matrix. Values before activations go to z, each layer after the other where keep is set.
FN const float* mlp_hidden_layers(float* active, float* z, bool keep, const float* x,
                                  const float*& matrix, const int* widths, int layers,
                                  int activation, int points, int count) {
  for (int layer = 0; layer < layers - 1; ++layer) {
    const int in = widths[layer], width = widths[layer + 1];
    tile_matmul<false>({z, width}, {layer ? active : x, in, 1}, matrix, width, count, in, width);
    SYNC();
    mlp_activate(active, z, count * width, activation);
    SYNC();
    matrix += in * width;
    if (keep) z += points * width;
  }
  return layers > 1 ? active : x;
}

// widths [layers + 1]. transposed: the matrices in order, each [in][out].
template <int WIDTH, int POINTS>
struct MlpForward {
  const float* x;
  const float* transposed;
  const int* widths;
  float* out;
  int n;
  int layers;
  int activation;
  int output_activation;

  FN void operator()(int tile, int) const {
    TILE float active[POINTS * WIDTH];
    TILE float z[POINTS * WIDTH];
    const int first = tile * POINTS, count = n - first < POINTS ? n - first : POINTS;
    const int in = widths[layers - 1], outputs = widths[layers];
    const float* matrix = transposed;
    const float* from = mlp_hidden_layers(active, z, false, x + (size_t)first * widths[0], matrix,
                                          widths, layers, activation, POINTS, count);
    float* to = out + (size_t)first * outputs;
    tile_matmul<false>({to, outputs}, {from, in, 1}, matrix, outputs, count, in, outputs);
    SYNC();
    mlp_activate(to, to, count * outputs, output_activation);
  }
};

// weights: each matrix [out][in]. grad_logits [n][out]: room for the gradient before the output
// activation. grad_weights [slices][weights]: a row belongs to the tiles of a slice of the points.
// hidden [slices][rooms][POINTS * all hidden widths]: rooms is 1 where a slice's tiles run one after
// the other, else one a tile.
template <int WIDTH, int POINTS>
struct MlpBackward {
  const float* x;
  const float* weights;
  const float* transposed;
  const int* widths;
  float* hidden;
  const float* out;
  const float* grad_out;
  float* grad_logits;
  float* grad_x;
  float* grad_weights;
  int n;
  int layers;
  int activation;
  int output_activation;
  int tiles;
  int rooms;
  int hidden_widths;
  int parameters;

  FN void operator()(int tile, int slice) const {
    TILE float grad[POINTS * WIDTH];   // before the activation of the layer at hand
    TILE float below[POINTS * WIDTH];  // the values the layer was given, then their gradient
    const i64 start = ((i64)slice * tiles + tile) * POINTS;
    if (start >= n) return;
    const int first = (int)start, count = n - first < POINTS ? n - first : POINTS;
    const int outputs = widths[layers];
    const size_t output = (size_t)first * outputs;
    mlp_output_backward(grad_logits + output, grad_out + output, out + output, count * outputs,
                        output_activation);
    const float* matrix = transposed;
    const size_t room = (size_t)slice * rooms + (rooms > 1 ? tile : 0);
    float* z = hidden + room * POINTS * hidden_widths;
    mlp_hidden_layers(below, z, true, x + (size_t)first * widths[0], matrix, widths, layers,
                      activation, POINTS, count);
    z += POINTS * hidden_widths;
    size_t end = parameters;  // of the matrix at hand
    const float* above = grad_logits + output;
    for (int layer = layers - 1; layer >= 0; --layer) {
      const int in = widths[layer], width = widths[layer + 1];
      end -= in * width;
      float* grad_matrix = grad_weights + (size_t)slice * parameters + end;
      if (layer == 0) {
        SYNC();
        const size_t input = (size_t)first * in;
        tile_matmul<true>({grad_matrix, in}, {above, 1, width}, x + input, in, width, count, in);
        if (grad_x)
          tile_matmul<false>({grad_x + input, in}, {above, width, 1}, weights + end, in, count, width,
                             in);
        return;
      }
      z -= POINTS * in;
      mlp_activate(below, z, count * in, activation);
      SYNC();
      tile_matmul<true>({grad_matrix, in}, {above, 1, width}, below, in, width, count, in);
      SYNC();
      tile_matmul<false>({below, in}, {above, width, 1}, weights + end, in, count, width, in);
      SYNC();
      mlp_activate_backward(grad, below, z, count * in, activation);
      SYNC();
      above = grad;
    }
  }
};

// The sum of the slices' gradients, in the order of the slices.
struct MlpSumSlices {
  const float* slices;
  float* out;
  int count;
  int parameters;

  FN void operator()(int tile, int) const {
    const int first = tile * MLP_SUMMED;
    LANES(i, parameters - first < MLP_SUMMED ? parameters - first : MLP_SUMMED) {
      float sum = 0;
      for (int s = 0; s < count; ++s) sum += slices[(size_t)s * parameters + first + i];
      out[first + i] = sum;
    }
  }
};

KERNEL(MlpForward<64, 64>)
KERNEL(MlpForward<128, 32>)
KERNEL(MlpBackward<64, 64>)
KERNEL(MlpBackward<128, 32>)
KERNEL(MlpSumSlices)
