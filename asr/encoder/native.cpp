// Parts of an encoder step between its matrix products, for one CPU thread.
//
// Does: norms with residuals, attention over the ring cache, causal depthwise convolutions; in
// float or bf16, accumulated in float. Every row is computed alone: batch mates change no bit.
// Does not know: weights' names, streams, Python. The specification is plain.py, line by line.
//
// Rows go by registers of 16 floats (lanes.h); other loops are plain, vectors by the compiler.

#include "scores.h"

namespace {

struct Moments {
  float mean, scale;
};

inline Moments moments(const float *x, int64_t width) {
  constexpr float EPSILON = 1e-5f;
  const float mean = total(width, [&](int64_t i, auto part) { return load(x + i, part); }) / width;
  const float squares = total(width, [&](int64_t i, auto part) {
    const Lanes away = kept(load(x + i, part) - mean, part);
    return away * away;
  });
  return {mean, 1.0f / std::sqrt(squares / width + EPSILON)};
}

template <class A>
void norm_row(const float *x, const float *weight, const float *bias, int64_t width, A *out) {
  const Moments m = moments(x, width);
  sweep(width, [&](int64_t i, auto part) {
    const Lanes even = (load(x + i, part) - m.mean) * m.scale;
    store(out + i, even * load(weight + i, part) + load(bias + i, part), part);
  });
}

template <class A> void add_row(float *x, const A *y, float scale, int64_t width) {
  sweep(width, [&](int64_t i, auto part) {
    store(x + i, load(x + i, part) + scale * load(y + i, part), part);
  });
}

// Two matrices and their product: out [rows][columns] (+)= q [rows][inner] x m [inner][columns].
template <class M> struct Product {
  const float *q;
  int64_t q_stride, inner;
  const M *m;
  int64_t m_stride;
  float *out;
  int64_t out_stride, columns;  // whole registers
  Ahead &ahead;

  template <int ROWS, int BLOCKS, bool ADD> inline void block(int64_t row, int64_t c) const {
    Lanes sum[ROWS][BLOCKS] = {};
    const float *left = q + row * q_stride;
    for (int64_t i = 0; i < inner; i++) {
      ahead.touch();
      for (int k = 0; k < BLOCKS; k++) {
        const Lanes x = load(m + i * m_stride + c + k * LANES);
        for (int t = 0; t < ROWS; t++) sum[t][k] += left[t * q_stride + i] * x;
      }
    }
    for (int t = 0; t < ROWS; t++)
      for (int k = 0; k < BLOCKS; k++) {
        float *into = out + (row + t) * out_stride + c + k * LANES;
        if (ADD) sum[t][k] += load(into);
        std::memcpy(into, &sum[t][k], sizeof(Lanes));
      }
  }

  // Eight sums or more at once hide the latency of an addition.
  template <int ROWS, bool ADD> void rows(int64_t row) const {
    constexpr int BLOCKS = ROWS >= 5 ? 2 : 4;
    int64_t c = 0;
    for (; c + BLOCKS * LANES <= columns; c += BLOCKS * LANES) block<ROWS, BLOCKS, ADD>(row, c);
    for (; c < columns; c += LANES) block<ROWS, 1, ADD>(row, c);
  }

  template <bool ADD> void run(int64_t count) const {
    int64_t row = 0;
    for (; row + 8 <= count; row += 8) rows<8, ADD>(row);
    switch (count - row) {
#define CASE(ROWS)                                                                               \
  case ROWS:                                                                                     \
    return rows<ROWS, ADD>(row);
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
#undef CASE
    }
  }
};

// One head of one row, in one chunk.
template <class A>
void attend_head(const Attention &a, const Head<A> &head, const float *positions,
                 const float *bias_u, const float *bias_v, float *scratch, Ahead &ahead) {
  const A *qkv = head.qkv, *keys = head.keys, *values = head.values;
  const int64_t width = a.width, model = a.heads * width, across = 3 * model;
  const int64_t ring = a.ring(), seen = a.seen(), distances = a.distances();
  const int64_t fresh = padded(a.chunk);
  float *score = scratch, *place = score + a.chunk * seen, *key = place + a.chunk * distances;
  float *query_u = key + width * fresh, *query_v = query_u + a.chunk * width;
  float *mixed = query_v + a.chunk * width;
  const float scale = 1.0f / std::sqrt(float(width));
  for (int64_t t = 0; t < a.chunk; t++) {
    const A *q = qkv + t * across, *k = q + model;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      query_u[t * width + i] = (up(q[i]) + bias_u[i]) * scale;
      query_v[t * width + i] = (up(q[i]) + bias_v[i]) * scale;
    }
    for (int64_t i = 0; i < width; i++) key[i * fresh + t] = up(k[i]);
  }
  const float *from = positions + a.zero - a.farthest();
  Product<A>{query_u, width, width, keys, a.left, score, seen, ring, ahead}.template run<false>(a.chunk);
  Product<float>{query_u, width, width, key, fresh, score + ring, seen, fresh, ahead}.run<false>(a.chunk);
  Product<float>{query_v, width, width, from, a.stride, place, distances, distances, ahead}
      .run<false>(a.chunk);
  for (int64_t t = 0; t < a.chunk; t++)
    weigh(a, t, head.frames, head.valid, place + t * distances, score + t * seen, score + t * seen);
  Product<A>{score, seen, a.left, values, width, mixed, width, width, ahead}
      .template run<false>(a.chunk);
  Product<A>{score + ring, seen, a.chunk, qkv + 2 * model, across, mixed, width, width, ahead}
      .template run<true>(a.chunk);
  for (int64_t t = 0; t < a.chunk; t++)
#pragma omp simd
    for (int64_t i = 0; i < width; i++) head.out[t * model + i] = down<A>(mixed[t * width + i]);
}

// GLU, mask, causal depthwise convolution, layer norm, SiLU; the cache takes the last inputs.
template <class A>
void convolve(int64_t rows, int64_t steps, int64_t width, int64_t kernel, const A *gated,
              const int64_t *slots, const int64_t *valid, float *cache, const float *taps,
              const float *bias, const float *weight, const float *shift, float *scratch, A *out) {
  const int64_t past = kernel - 1;
  float *row = scratch + (past + steps) * width;
  for (int64_t b = 0; b < rows; b++) {
    float *mine = cache + slots[b] * past * width;
    std::memcpy(scratch, mine, past * width * sizeof(float));
    for (int64_t t = 0; t < steps; t++) {
      const A *y = gated + (b * steps + t) * 2 * width;
      float *into = scratch + (past + t) * width;
      if (t < valid[b]) {
        sweep(width, [&](int64_t i, auto part) {
          store(into + i, load(y + i, part) * sigmoid(load(y + width + i, part)), part);
        });
      } else {
        std::memset(into, 0, width * sizeof(float));
      }
    }
    std::memcpy(mine, scratch + steps * width, past * width * sizeof(float));
    for (int64_t t = 0; t < steps; t++) {
      const float *x = scratch + t * width;
      sweep(width, [&](int64_t i, auto part) {
        Lanes sum = load(bias + i, part);
        for (int64_t k = i; k < kernel * width; k += width)
          sum += load(x + k, part) * load(taps + k, part);
        store(row + i, sum, part);
      });
      const Moments m = moments(row, width);
      A *into = out + (b * steps + t) * width;
      sweep(width, [&](int64_t i, auto part) {
        const Lanes even = (load(row + i, part) - m.mean) * m.scale;
        const Lanes z = even * load(weight + i, part) + load(shift + i, part);
        store(into + i, z * sigmoid(z), part);
      });
    }
  }
}

constexpr int TAPS = 9;  // of a 3 x 3 kernel

struct Plane {
  int64_t rows, steps, bands, channels;  // of the input: batch, mel or stage rows, bands, channels
};

// 3 x 3, stride 2, one input channel; ReLU; rows outside the stream become zero.
template <class A>
void first_stage(const Plane &p, const float *mel, float *cache, const int64_t *slots,
                 const float *taps, const float *bias, const int64_t *from, const int64_t *until,
                 A *out) {
  const int64_t half = p.steps / 2, bands = p.bands / 2 + 1;
  for (int64_t b = 0; b < p.rows; b++) {
    float *past = cache + slots[b] * p.bands;
    const float *mine = mel + b * p.steps * p.bands;
    for (int64_t r = 0; r < half; r++) {
      A *row = out + (b * half + r) * bands * p.channels;
      if (r < from[b] || r >= until[b]) {
        std::memset(row, 0, bands * p.channels * sizeof(A));
        continue;
      }
      for (int64_t f = 0; f < bands; f++) {
        float x[TAPS];
        for (int i = 0; i < 3; i++) {
          const int64_t at = 2 * r + i - 1;
          const float *line = at < 0 ? past : mine + at * p.bands;
          for (int j = 0; j < 3; j++) {
            const int64_t band = 2 * f + j - 2;
            x[3 * i + j] = band < 0 || band >= p.bands ? 0.0f : line[band];
          }
        }
        A *into = row + f * p.channels;
#pragma omp simd
        for (int64_t c = 0; c < p.channels; c++) {
          float sum = bias[c];
          for (int k = 0; k < TAPS; k++) sum += x[k] * taps[k * p.channels + c];
          into[c] = down<A>(sum > 0 ? sum : 0.0f);
        }
      }
    }
    std::memcpy(past, mine + (p.steps - 1) * p.bands, p.bands * sizeof(float));
  }
}

// 3 x 3, stride 2, each channel by itself.
template <class A>
void depthwise_stage(const Plane &p, const A *x, A *cache, const int64_t *slots, const float *taps,
                     const float *bias, A *out) {
  const int64_t half = p.steps / 2, bands = p.bands / 2 + 1, line = p.bands * p.channels;
  for (int64_t b = 0; b < p.rows; b++) {
    A *past = cache + slots[b] * line;
    const A *mine = x + b * p.steps * line;
    for (int64_t r = 0; r < half; r++)
      for (int64_t f = 0; f < bands; f++) {
        const A *cell[TAPS];
        const float *tap[TAPS];
        int count = 0;
        for (int i = 0; i < 3; i++)
          for (int j = 0; j < 3; j++) {
            const int64_t at = 2 * r + i - 1, band = 2 * f + j - 2;
            if (band < 0 || band >= p.bands) continue;
            cell[count] = (at < 0 ? past : mine + at * line) + band * p.channels;
            tap[count++] = taps + (3 * i + j) * p.channels;
          }
        A *into = out + ((b * half + r) * bands + f) * p.channels;
        if (count == TAPS) {
#pragma omp simd
          for (int64_t c = 0; c < p.channels; c++) {
            float sum = bias[c];
            for (int k = 0; k < TAPS; k++) sum += up(cell[k][c]) * tap[k][c];
            into[c] = down<A>(sum);
          }
        } else {
          for (int64_t c = 0; c < p.channels; c++) {
            float sum = bias[c];
            for (int k = 0; k < count; k++) sum += up(cell[k][c]) * tap[k][c];
            into[c] = down<A>(sum);
          }
        }
      }
    std::memcpy(past, mine + (p.steps - 1) * line, line * sizeof(A));
  }
}

}  // namespace

// Floats that attend wants as scratch, for a shape.
extern "C" int64_t attend_scratch(const int64_t *shape) {
  Attention a;
  std::memcpy(&a, shape, sizeof a);
  return a.scratch();
}

#define EXPORT(A, SUFFIX)                                                                        \
  extern "C" void norm_##SUFFIX(int64_t rows, int64_t width, const float *x,                     \
                                const float *weight, const float *bias, A *out) {                \
    for (int64_t r = 0; r < rows; r++)                                                           \
      norm_row(x + r * width, weight, bias, width, out + r * width);                             \
  }                                                                                              \
  extern "C" void add_norm_##SUFFIX(int64_t rows, int64_t width, float *x, const A *y,           \
                                    float scale, const float *weight, const float *bias,         \
                                    A *out) {                                                    \
    for (int64_t r = 0; r < rows; r++) {                                                         \
      add_row(x + r * width, y + r * width, scale, width);                                       \
      norm_row(x + r * width, weight, bias, width, out + r * width);                             \
    }                                                                                            \
  }                                                                                              \
  extern "C" void settle_##SUFFIX(int64_t rows, int64_t width, float *x, const A *y,             \
                                  float scale, const float *weight, const float *bias) {         \
    for (int64_t r = 0; r < rows; r++) {                                                         \
      add_row(x + r * width, y + r * width, scale, width);                                       \
      norm_row(x + r * width, weight, bias, width, x + r * width);                               \
    }                                                                                            \
  }                                                                                              \
  extern "C" void attend_##SUFFIX(const int64_t *shape, const A *qkv, A *keys, A *values,         \
                                 const int64_t *slots, const int64_t *frames,                    \
                                 const int64_t *valid, const float *positions,                   \
                                 const float *bias_u, const float *bias_v, float *scratch,       \
                                 A *out) {                                                       \
    Attention a;                                                                                 \
    std::memcpy(&a, shape, sizeof a);                                                            \
    each_head(a, qkv, keys, values, slots, frames, valid, out,                                   \
              [&](const Head<A> &head, Ahead &ahead) {                                           \
                const int64_t at = head.index * a.width;                                         \
                attend_head(a, head, positions + at * a.stride, bias_u + at, bias_v + at,        \
                            scratch, ahead);                                                     \
              });                                                                                          \
  }                                                                                              \
  extern "C" void convolve_##SUFFIX(                                                             \
      int64_t rows, int64_t steps, int64_t width, int64_t kernel, const A *gated,                \
      const int64_t *slots, const int64_t *valid, float *cache, const float *taps,               \
      const float *bias, const float *weight, const float *shift, float *scratch, A *out) {      \
    convolve(rows, steps, width, kernel, gated, slots, valid, cache, taps, bias, weight, shift,  \
             scratch, out);                                                                      \
  }                                                                                              \
  extern "C" void first_stage_##SUFFIX(                                                          \
      int64_t rows, int64_t steps, int64_t bands, int64_t channels, const float *mel,            \
      float *cache, const int64_t *slots, const float *taps, const float *bias,                  \
      const int64_t *from, const int64_t *until, A *out) {                                       \
    first_stage(Plane{rows, steps, bands, channels}, mel, cache, slots, taps, bias, from, until, \
                out);                                                                            \
  }                                                                                              \
  extern "C" void depthwise_stage_##SUFFIX(                                                      \
      int64_t rows, int64_t steps, int64_t bands, int64_t channels, const A *x, A *cache,        \
      const int64_t *slots, const float *taps, const float *bias, A *out) {                      \
    depthwise_stage(Plane{rows, steps, bands, channels}, x, cache, slots, taps, bias, out);      \
  }

EXPORT(float, fp32)
EXPORT(bf16, bf16)
