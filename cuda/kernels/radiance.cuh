// Rays through a hash-grid radiance field in one pass: encoding, density, colour, composite, and in
// training the loss and all its gradients. A tile is a few neighbouring rays. They are walked in waves:
// every ray that light still comes through takes its next samples, so that nothing is computed behind
// an opaque surface, and what a sample needs stays in the cache from its encoding to its gradient.
// Each step is the same mathematics as the operation of that name, in kernels of their own.
#pragma once
#include "composite.cuh"
#include "hash_grid.cuh"
#include "mlp.cuh"

constexpr int RADIANCE_RAYS = 16;   // in one tile
constexpr int RADIANCE_BATCH = 64;  // samples in one wave, at most; rows in one step of the gradient
constexpr int RADIANCE_FEATURES = 16;  // of the density network; the first is the logarithm of density

// Numbers of a sample that are kept for its gradient, and where the ones of all rows begin.
struct RadianceRoom {
  float* encoded;
  float* hidden;
  float* input;  // of the colour network: features, then harmonics of the ray
  float* first;
  float* second;
  float* color;      // then the gradient of its logits
  float* weight;     // of the sample in its ray
  float* through;    // transmittance behind it, then the gradient of the logarithm of density
  float* length;
  float* features;   // of a wave
  float* batch[4];   // scratch of the gradient
  int* sample;
  int* row;          // of encoded and hidden
  int* next;         // the ray's next row, -1: none
};

template <int F>
struct RadianceRays {
  const float* position;
  const float* distance;
  const float* length;
  const int* ray_offsets;
  const float* harmonics;
  const float* background;
  const float* target;
  const float* table;
  const float* scales;
  const u32* shapes;
  const float* weights;
  const float* transposed;
  float* color;
  float* opacity;
  float* depth;
  float* loss;
  int* visible;
  u8* kept;
  float* grad_encoded;
  float* grad_weights;
  float* room;
  int* room_index;
  int rays;
  int n_levels;
  int smooth;
  int density_hidden;
  int color_hidden;
  int bands;
  int tiles;
  int rooms;
  int room_rows;
  int per_pixel;
  float limit;
  float scale;
  float edge;
  float fade;
  float gather;  // weight of the distortion, which gathers what a ray sees in one place

  FN int encoded_width() const { return n_levels * F; }
  FN int input_width() const { return RADIANCE_FEATURES + bands; }
  FN int widest() const {
    const int hidden = density_hidden > color_hidden ? density_hidden : color_hidden;
    return hidden > encoded_width() ? hidden : encoded_width();
  }
  FN int parameters() const {
    return density_hidden * (encoded_width() + RADIANCE_FEATURES) +
           color_hidden * (input_width() + color_hidden + 3);
  }

  FN RadianceRoom room_of(int tile, int slice) const {
    const size_t rows = room_rows, number = (size_t)slice * rooms + (rooms > 1 ? tile : 0);
    const size_t in_row = encoded_width() + density_hidden + input_width() + 2 * color_hidden + 6;
    const size_t scratch = RADIANCE_BATCH * (size_t)(RADIANCE_FEATURES + 4 * widest());
    float* at = room + number * (rows * in_row + scratch);
    int* index = room_index + number * rows * 3;
    RadianceRoom r;
    r.encoded = at, at += rows * encoded_width();
    r.hidden = at, at += rows * density_hidden;
    r.input = at, at += rows * input_width();
    r.first = at, at += rows * color_hidden;
    r.second = at, at += rows * color_hidden;
    r.color = at, at += rows * 3;
    r.weight = at, at += rows;
    r.through = at, at += rows;
    r.length = at, at += rows;
    r.features = at, at += RADIANCE_BATCH * RADIANCE_FEATURES;
    for (int k = 0; k < 4; ++k) r.batch[k] = at, at += RADIANCE_BATCH * widest();
    r.sample = index, r.row = index + rows, r.next = index + 2 * rows;
    return r;
  }

  FN void operator()(int tile, int slice) const {
    TILE int cursor[RADIANCE_RAYS], last[RADIANCE_RAYS];  // samples that a ray has not taken yet
    TILE int head[RADIANCE_RAYS], tail[RADIANCE_RAYS];    // its first and latest row
    TILE float passed[RADIANCE_RAYS];                     // optical depth so far
    TILE float light[RADIANCE_RAYS][4];                   // colour and distance so far
    const int first = (slice * tiles + tile) * RADIANCE_RAYS;
    if (first >= rays) return;
    const int count = rays - first < RADIANCE_RAYS ? rays - first : RADIANCE_RAYS;
    const RadianceRoom r = room_of(tile, slice);
    LANES(k, count) {
      cursor[k] = ray_offsets[first + k], last[k] = ray_offsets[first + k + 1];
      head[k] = tail[k] = -1, passed[k] = 0;
      light[k][0] = light[k][1] = light[k][2] = light[k][3] = 0;
    }
    SYNC();
    int looked_at = 0, rows = 0;
    while (wave(r, first, count, cursor, last, head, tail, passed, light, looked_at, rows)) {
    }
    TILE float pull[RADIANCE_RAYS][4];  // gradient of the colour, and its product with the colour
    LANES(k, count) finish(first + k, passed[k], light[k]);
    if (!grad_weights) return;
    SYNC();
    LANES(k, count) pull_color(first, k, light, pull[k]);
    SYNC();
    LANES(k, count) pull_ray(r, first + k, head[k], pull[k]);
    SYNC();
    for (int begin = 0; begin < rows; begin += RADIANCE_BATCH)
      pull_rows(r, begin, rows - begin < RADIANCE_BATCH ? rows - begin : RADIANCE_BATCH, slice);
  }

  // One wave of samples; false where no ray has any left.
  FN bool wave(const RadianceRoom& r, int first, int count, int* cursor, int* last, int* head,
               int* tail, float* passed, float (*light)[4], int& looked_at, int& rows) const {
    TILE int begin[RADIANCE_RAYS + 1];  // where in the wave a ray's samples begin
    TILE int sample[RADIANCE_BATCH];
    TILE float thickness[RADIANCE_BATCH], opaque[RADIANCE_BATCH], before[RADIANCE_BATCH];
    TILE int from[RADIANCE_BATCH], owner[RADIANCE_BATCH];  // of each row kept: place in the wave, ray
    TILE int seen[RADIANCE_RAYS + 1];                      // where a ray's rows begin
    LANES(one, 1) {
      int alive = 0, n = 0;
      for (int k = 0; k < count; ++k) alive += cursor[k] < last[k];
      const int share = RADIANCE_BATCH / (alive ? alive : 1);
      for (int k = 0; k < count; ++k) {
        begin[k] = n;
        for (int left = share; left > 0 && cursor[k] < last[k]; --left) sample[n++] = cursor[k]++;
      }
      begin[count] = n;
    }
    SYNC();
    const int n = begin[count];
    if (n == 0) return false;
    float* encoded = r.encoded + (size_t)looked_at * encoded_width();
    float* hidden = r.hidden + (size_t)looked_at * density_hidden;
    encode(encoded, sample, n);
    dense(hidden, encoded, transposed, n, encoded_width(), density_hidden);
    mlp_activate(hidden, hidden, n * density_hidden, MLP_RELU);
    SYNC();
    dense(r.features, hidden, transposed + encoded_width() * density_hidden, n, density_hidden,
          RADIANCE_FEATURES);

    LANES(i, n) {
      thickness[i] = exponential(r.features[i * RADIANCE_FEATURES]) * length[sample[i]];
      opaque[i] = one_minus_exponential(thickness[i]);
    }
    SYNC();
    LANES(k, count) {
      float sum = passed[k];
      for (int i = begin[k]; i < begin[k + 1]; ++i) {
        if (sum > limit) {
          before[i] = -1, cursor[k] = last[k];  // no light comes this far
        } else {
          before[i] = sum, sum += thickness[i];
        }
      }
      passed[k] = sum;
    }
    SYNC();
    LANES(one, 1) {
      int m = 0;
      for (int k = 0; k < count; ++k) {
        seen[k] = m;
        for (int i = begin[k]; i < begin[k + 1]; ++i)
          if (before[i] >= 0) {
            from[m] = i, owner[m] = k;
            if (grad_weights) {
              const int row = rows + m;
              r.next[row] = -1, r.row[row] = looked_at + i;
              if (tail[k] >= 0) r.next[tail[k]] = row;
              else head[k] = row;
              tail[k] = row;
            }
            m++;
          }
        visible[first + k] += m - seen[k];
      }
      seen[count] = m;
    }
    SYNC();
    const int m = seen[count];
    shade(r, first, rows, m, from, owner);
    float* weight = r.weight + rows;
    LANES(j, m) {
      const int i = from[j];
      weight[j] = exponential(-before[i]) * opaque[i];
      if (grad_weights) {
        r.through[rows + j] = exponential(-before[i] - thickness[i]);
        r.length[rows + j] = length[sample[i]], r.sample[rows + j] = sample[i];
        kept[sample[i]] = 1;
      }
    }
    SYNC();
    const float* c = r.color + 3 * (size_t)rows;
    LANES(k, count) {
      for (int j = seen[k]; j < seen[k + 1]; ++j) {
        for (int a = 0; a < 3; ++a) light[k][a] += weight[j] * c[3 * j + a];
        light[k][3] += weight[j] * distance[sample[from[j]]];
      }
    }
    SYNC();
    if (grad_weights) looked_at += n, rows += m;
    return true;
  }

  FN void encode(float* to, const int* sample, int n) const {
    TILE HashCorners<3> both[2];  // one level is asked for while the one before is read
    TILE float x[3 * RADIANCE_BATCH];
    LANES(i, n) {
      for (int a = 0; a < 3; ++a) x[3 * i + a] = position[3 * (size_t)sample[i] + a];
    }
    SYNC();
    locate(both[0], x, n, 0);
    for (int number = 0; number < n_levels; ++number) {
      SYNC();
      if (number + 1 < n_levels) locate(both[(number + 1) & 1], x, n, number + 1);
      const HashLevel level = hash_level(scales, shapes, number);
      const HashCorners<3>& corners = both[number & 1];
      const float* features = table + (size_t)F * level.offset;
      float* o = to + number * F;
      LANES_IN_ORDER(i, n) {
        Row<F> sum = Row<F>::zero();
        UNROLL for (int c = 0; c < 8; ++c)
          sum.add(corners.weight[c][i], features + (size_t)F * corners.index[c][i]);
        sum.store(o + (size_t)i * encoded_width());
      }
    }
    SYNC();
  }

  FN void locate(HashCorners<3>& corners, const float* x, int n, int number) const {
    const HashLevel level = hash_level(scales, shapes, number);
    hash_corners<3>(corners, x, 0, n, level, smooth);
    hash_fetch_early<3, F>(corners, table + (size_t)F * level.offset, n);
  }

  // to [n, out] = from [n, in] . matrix [in, out]
  FN void dense(float* to, const float* from, const float* matrix, int n, int in, int out) const {
    tile_matmul<false>({to, out}, {from, in, 1}, matrix, out, n, in, out);
    SYNC();
  }

  // Colours of the m rows from `rows` on.
  FN void shade(const RadianceRoom& r, int ray, int rows, int m, const int* from,
                const int* owner) const {
    const int width = input_width();
    float* input = r.input + (size_t)rows * width;
    float* first = r.first + (size_t)rows * color_hidden;
    float* second = r.second + (size_t)rows * color_hidden;
    float* c = r.color + 3 * (size_t)rows;
    LANES(j, m) {
      const float* f = r.features + from[j] * RADIANCE_FEATURES;
      const float* h = harmonics + (size_t)(ray + owner[j]) * bands;
      for (int a = 0; a < RADIANCE_FEATURES; ++a) input[j * width + a] = f[a];
      for (int a = 0; a < bands; ++a) input[j * width + RADIANCE_FEATURES + a] = h[a];
    }
    SYNC();
    const float* matrix = transposed + density_hidden * (encoded_width() + RADIANCE_FEATURES);
    dense(first, input, matrix, m, width, color_hidden);
    mlp_activate(first, first, m * color_hidden, MLP_RELU);
    SYNC();
    matrix += width * color_hidden;
    dense(second, first, matrix, m, color_hidden, color_hidden);
    mlp_activate(second, second, m * color_hidden, MLP_RELU);
    SYNC();
    matrix += color_hidden * color_hidden;
    dense(c, second, matrix, m, color_hidden, 3);
    mlp_activate(c, c, 3 * m, MLP_SIGMOID);
    SYNC();
  }

  // What a ray shows; light becomes its colour.
  FN void finish(int ray, float passed, float* light) const {
    const float clear = exponential(-passed), solid = one_minus_exponential(passed);
    opacity[ray] = solid;
    depth[ray] = light[3] / larger(solid, 1e-6f);
    for (int a = 0; a < 3; ++a) {
      light[a] += clear * background[3 * (size_t)ray + a];
      color[3 * (size_t)ray + a] = light[a];
    }
  }

  // The loss of the pixel that a ray belongs to, and its gradient to the ray's colour.
  FN void pull_color(int first, int k, const float (*light)[4], float* pull) const {
    const int begin = k / per_pixel * per_pixel;
    float sum = 0;
    pull[3] = 0;
    for (int a = 0; a < 3; ++a) {
      float c = 0;
      for (int j = begin; j < begin + per_pixel; ++j) c += light[j][a];
      // Square up to the edge, a straight line beyond it.
      const float d = c / per_pixel - target[3 * (size_t)(first + k) + a], size = absolute(d);
      const float inside = smaller(size, edge);
      sum += inside * inside + 2 * edge * (size - inside);
      pull[a] = scale * (2.f / 3) * (d < 0 ? -inside : inside);
      pull[3] += pull[a] * light[k][a];
    }
    loss[first + k] = sum * (1.f / 3);
  }

  // The distortion of a ray by its rows: sum of w_i w_j |t_i - t_j|, and of w_i^2 length_i / 3; and the
  // sums of w and of w t.
  FN float distortion(const RadianceRoom& r, int row, float& mass, float& moment) const {
    float value = 0;
    mass = moment = 0;
    for (; row >= 0; row = r.next[row]) {
      const float w = r.weight[row], t = distance[r.sample[row]];
      value += w * (2 * (t * mass - moment) + w * r.length[row] * (1.f / 3));
      mass += w, moment += w * t;
    }
    return value;
  }

  // Gradients of the rows of one ray: of their logits, and of the logarithm of their density.
  FN void pull_ray(const RadianceRoom& r, int ray, int row, const float* pull) const {
    float behind = pull[3], mass = 0, moment = 0;
    if (gather > 0) {
      const float value = distortion(r, row, mass, moment);
      loss[ray] += gather * value;
      behind += scale * gather * 2 * value;  // twice it is the sum of its gradients times the weights
    }
    float mass_before = 0, moment_before = 0;
    for (; row >= 0; row = r.next[row]) {
      float* c = r.color + 3 * (size_t)row;
      const float w = r.weight[row], t = distance[r.sample[row]];
      float along = pull[0] * c[0] + pull[1] * c[1] + pull[2] * c[2];
      if (gather > 0) {
        const float mass_behind = mass - mass_before - w, moment_behind = moment - moment_before - w * t;
        const float apart = t * (mass_before - mass_behind) + moment_behind - moment_before;
        along += scale * gather * 2 * (apart + w * r.length[row] * (1.f / 3));
        mass_before += w, moment_before += w * t;
      }
      behind -= w * along;
      // Space close to a camera is seen by it in many samples, by others in few or none: each counts
      // as it would if rays were as dense there as at the distance `fade`.
      const float share = t < fade ? t * t / (fade * fade) : 1.f;
      const float by_thickness = share * (r.through[row] * along - behind);
      for (int a = 0; a < 3; ++a) c[a] = share * w * pull[a] * c[a] * (1 - c[a]);
      const float z = r.input[(size_t)row * input_width()];
      const float density = exponential(z < -15.f ? -15.f : z > 15.f ? 15.f : z);
      r.through[row] = by_thickness * r.length[row] * density;
    }
  }

  // grad_matrix [out][in] += above [m, out]^T . below [m, in]; then, where `to` is given,
  // to [m, in] = above . matrix, zero where the rectified `below` is.
  FN void pull_layer(float* grad_matrix, float* to, const float* above, const float* below,
                     const float* matrix, int m, int in, int out, bool rectified) const {
    tile_matmul<true>({grad_matrix, in}, {above, 1, out}, below, in, out, m, in);
    if (to) {
      tile_matmul<false>({to, in}, {above, out, 1}, matrix, in, m, out, in);
      SYNC();
      if (rectified) {
        LANES(i, m * in) to[i] = below[i] > 0 ? to[i] : 0.f;
      }
    }
    SYNC();
  }

  // Gradients of the weights, and of the encoding, through m rows.
  FN void pull_rows(const RadianceRoom& r, int begin, int m, int slice) const {
    const int width = encoded_width(), hd = density_hidden, hc = color_hidden;
    const float* matrix = weights + parameters();
    float* grad = grad_weights + (size_t)slice * parameters() + parameters();
    const float* first = r.first + (size_t)begin * hc;
    const float* second = r.second + (size_t)begin * hc;
    const float* input = r.input + (size_t)begin * input_width();
    matrix -= 3 * hc, grad -= 3 * hc;
    pull_layer(grad, r.batch[0], r.color + 3 * (size_t)begin, second, matrix, m, hc, 3, true);
    matrix -= hc * hc, grad -= hc * hc;
    pull_layer(grad, r.batch[1], r.batch[0], first, matrix, m, hc, hc, true);
    matrix -= hc * input_width(), grad -= hc * input_width();
    pull_layer(grad, 0, r.batch[1], input, matrix, m, input_width(), hc, false);
    tile_matmul<false>({r.features, RADIANCE_FEATURES}, {r.batch[1], hc, 1}, matrix, input_width(), m,
                       hc, RADIANCE_FEATURES);
    SYNC();
    float* encoded = r.batch[2];
    float* hidden = r.batch[3];
    LANES(j, m) {
      r.features[j * RADIANCE_FEATURES] += r.through[begin + j];
      const size_t row = r.row[begin + j];
      for (int a = 0; a < width; ++a) encoded[j * width + a] = r.encoded[row * width + a];
      for (int a = 0; a < hd; ++a) hidden[j * hd + a] = r.hidden[row * hd + a];
    }
    SYNC();
    matrix -= RADIANCE_FEATURES * hd, grad -= RADIANCE_FEATURES * hd;
    pull_layer(grad, r.batch[0], r.features, hidden, matrix, m, hd, RADIANCE_FEATURES, true);
    matrix -= hd * width, grad -= hd * width;
    pull_layer(grad, r.batch[1], r.batch[0], encoded, matrix, m, width, hd, false);
    LANES(j, m) {
      float* to = grad_encoded + (size_t)r.sample[begin + j] * width;
      for (int a = 0; a < width; ++a) to[a] = r.batch[1][j * width + a];
    }
    SYNC();
  }
};

KERNEL(RadianceRays<1>)
KERNEL(RadianceRays<2>)
KERNEL(RadianceRays<4>)
KERNEL(RadianceRays<8>)
