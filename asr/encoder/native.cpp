// Parts of an encoder step between its matrix products, for one CPU thread.
//
// Does: norms with residuals, attention over the ring cache, causal depthwise convolutions; in
// float or bf16, accumulated in float. Every row is computed alone: batch mates change no bit.
// Does not know: weights' names, streams, Python. The specification is plain.py, line by line.
//
// Plain loops that a compiler turns into vectors; 16 floats fill one AVX-512 register.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct bf16 {
  uint16_t bits;
};

inline float up(float x) { return x; }
inline float up(bf16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }

template <class A> inline A down(float x);
template <> inline float down<float>(float x) { return x; }
template <> inline bf16 down<bf16>(float x) {  // to the nearest, ties to even
  uint32_t bits = __builtin_bit_cast(uint32_t, x);
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// Cephes' expf: relative error below 2e-7 and no branches, so that loops around it are vectors.
inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x < -87.0f ? -87.0f : x;
  float n = std::floor(x * 1.44269504f + 0.5f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  float y = p * r * r + r + 1.0f;
  return y * __builtin_bit_cast(float, (int32_t(n) + 127) << 23);
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

struct Moments {
  float mean, scale;
};

inline Moments moments(const float *x, int64_t width) {
  constexpr float EPSILON = 1e-5f;
  float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; i++) sum += x[i];
  float mean = sum / width;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
  return {mean, 1.0f / std::sqrt(squares / width + EPSILON)};
}

template <class A>
void norm_row(const float *x, const float *weight, const float *bias, int64_t width, A *out) {
  Moments m = moments(x, width);
#pragma omp simd
  for (int64_t i = 0; i < width; i++)
    out[i] = down<A>((x[i] - m.mean) * m.scale * weight[i] + bias[i]);
}

template <class A> void add_row(float *x, const A *y, float scale, int64_t width) {
#pragma omp simd
  for (int64_t i = 0; i < width; i++) x[i] += scale * up(y[i]);
}

// Sixteen floats: one AVX-512 register, or what the compiler makes of it elsewhere.
constexpr int LANES = 16;
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

inline Lanes load(const float *x) {
  Lanes lanes;
  std::memcpy(&lanes, x, sizeof lanes);
  return lanes;
}

inline Lanes load(const bf16 *x) {
  typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(uint16_t))));
  typedef uint32_t Words __attribute__((vector_size(LANES * sizeof(uint32_t))));
  Halves halves;
  std::memcpy(&halves, x, sizeof halves);
  return (Lanes)(__builtin_convertvector(halves, Words) << 16);
}

// Memory that is needed a few microseconds later, asked for line by line meanwhile.
struct Ahead {
  const char *at[2], *end[2];

  inline void touch() {
    for (int i = 0; i < 2; i++)
      if (at[i] < end[i]) {
        __builtin_prefetch(at[i], 0, 2);
        at[i] += 64;
      }
  }
};

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

constexpr float HIDDEN = -1e30f;

// Over columns in whole registers; hidden ones weigh nothing.
inline void softmax(float *score, int64_t columns) {
  float largest = HIDDEN, total = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t n = 0; n < columns; n++) largest = score[n] > largest ? score[n] : largest;
#pragma omp simd reduction(+ : total)
  for (int64_t n = 0; n < columns; n++) {
    const float weight = exponential(score[n] - largest);
    score[n] = score[n] > HIDDEN ? weight : 0.0f;
    total += score[n];
  }
  const float share = total > 0 ? 1.0f / total : 0.0f;
#pragma omp simd
  for (int64_t n = 0; n < columns; n++) score[n] *= share;
}

inline void hide(float *score, int64_t from, int64_t until) {
  for (int64_t n = from; n < until; n++) score[n] = HIDDEN;
}

struct Attention {
  // `zero` is the column of distance 0 in the table of positions, which has `stride` columns.
  int64_t rows, steps, heads, width, left, chunk, stride, zero;

  // Scores of a frame: the ring in its own order, then the frames of this step.
  int64_t ring() const { return padded(left); }
  int64_t seen() const { return ring() + padded(steps); }
  int64_t distances() const { return padded(left + steps - 1 + chunk); }
  int64_t scratch() const {
    return 3 * steps * width + width * padded(steps) + steps * (seen() + distances());
  }
};

// Distances and visibility: scores of a frame become weights.
void weigh(const Attention &a, int64_t t, int64_t frames, int64_t valid, const float *place,
           float *score) {
  const int64_t next = frames % a.left, reach = a.left / a.chunk, chunks = t / a.chunk;
  const float *now = place + a.left + a.steps - 1 - t;  // distance 0
  // Ring row n < next lies next - n frames before this step, the others a ring further.
  const float *near = now - next;
#pragma omp simd
  for (int64_t n = 0; n < next; n++) score[n] += near[n];
#pragma omp simd
  for (int64_t n = next; n < a.left; n++) score[n] += near[n - a.left];
  float *fresh = score + a.ring();
#pragma omp simd
  for (int64_t n = 0; n < a.steps; n++) fresh[n] += now[n];
  int64_t back = (reach - chunks) * a.chunk;  // frames before the step that are seen
  back = back < 0 ? 0 : back > frames ? frames : back > a.left ? a.left : back;
  hide(score, 0, next - back);
  hide(score, next, back > next ? a.left + next - back : a.left);
  hide(score, a.left, a.ring());
  const int64_t end = (chunks + 1) * a.chunk;
  hide(fresh, 0, (chunks - reach) * a.chunk);
  hide(fresh, end < valid ? end : valid, padded(a.steps));
  softmax(score, a.seen());
}

// One head of one row.
template <class A>
void attend_head(const Attention &a, const A *qkv, const A *keys, const A *values, int64_t frames,
                 int64_t valid, const float *positions, const float *bias_u, const float *bias_v,
                 float *scratch, Ahead &ahead, A *out) {
  const int64_t width = a.width, model = a.heads * width, across = 3 * model;
  const int64_t ring = a.ring(), seen = a.seen(), distances = a.distances();
  const int64_t fresh = padded(a.steps);
  float *score = scratch, *place = score + a.steps * seen, *key = place + a.steps * distances;
  float *query_u = key + width * fresh, *query_v = query_u + a.steps * width;
  float *mixed = query_v + a.steps * width;
  const float scale = 1.0f / std::sqrt(float(width));
  for (int64_t t = 0; t < a.steps; t++) {
    const A *q = qkv + t * across, *k = q + model;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      query_u[t * width + i] = (up(q[i]) + bias_u[i]) * scale;
      query_v[t * width + i] = (up(q[i]) + bias_v[i]) * scale;
    }
    for (int64_t i = 0; i < width; i++) key[i * fresh + t] = up(k[i]);
  }
  const float *from = positions + a.zero - (a.left + a.steps - 1);
  Product<A>{query_u, width, width, keys, a.left, score, seen, ring, ahead}.template run<false>(a.steps);
  Product<float>{query_u, width, width, key, fresh, score + ring, seen, fresh, ahead}.run<false>(a.steps);
  Product<float>{query_v, width, width, from, a.stride, place, distances, distances, ahead}
      .run<false>(a.steps);
  for (int64_t t = 0; t < a.steps; t++)
    weigh(a, t, frames, valid, place + t * distances, score + t * seen);
  Product<A>{score, seen, a.left, values, width, mixed, width, width, ahead}
      .template run<false>(a.steps);
  Product<A>{score + ring, seen, a.steps, qkv + 2 * model, across, mixed, width, width, ahead}
      .template run<true>(a.steps);
  for (int64_t t = 0; t < a.steps; t++)
#pragma omp simd
    for (int64_t i = 0; i < width; i++) out[t * model + i] = down<A>(mixed[t * width + i]);
}

template <class A>
void attend(const Attention &a, const A *qkv, A *keys, A *values, const int64_t *slots,
            const int64_t *frames, const int64_t *valid, const float *positions,
            const float *bias_u, const float *bias_v, float *scratch, A *out) {
  const int64_t model = a.heads * a.width, across = 3 * model;
  // Head by head over the whole batch: a head's positions stay in the first cache.
  for (int64_t h = 0; h < a.heads; h++)
    for (int64_t b = 0; b < a.rows; b++) {
      const A *mine = qkv + b * a.steps * across + h * a.width;
      const int64_t size = a.left * a.width, at = (slots[b] * a.heads + h) * size;
      const bool is_last = b + 1 == a.rows;
      const int64_t then = is_last ? at : (slots[b + 1] * a.heads + h) * size;
      const char *key = (const char *)(keys + then), *value = (const char *)(values + then);
      const int64_t bytes = is_last ? 0 : size * sizeof(A);
      Ahead ahead{{key, value}, {key + bytes, value + bytes}};
      attend_head(a, mine, keys + at, values + at, frames[b], valid[b],
                  positions + h * a.width * a.stride, bias_u + h * a.width,
                  bias_v + h * a.width, scratch, ahead, out + b * a.steps * model + h * a.width);
      for (int64_t t = a.steps > a.left ? a.steps - a.left : 0; t < a.steps; t++) {
        const int64_t ring = (frames[b] + t) % a.left;
        const A *k = mine + t * across + model;
        for (int64_t i = 0; i < a.width; i++) keys[at + i * a.left + ring] = k[i];
        std::memcpy(values + at + ring * a.width, k + model, a.width * sizeof(A));
      }
    }
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
#pragma omp simd
        for (int64_t i = 0; i < width; i++) into[i] = up(y[i]) * sigmoid(up(y[width + i]));
      } else {
        std::memset(into, 0, width * sizeof(float));
      }
    }
    std::memcpy(mine, scratch + steps * width, past * width * sizeof(float));
    for (int64_t t = 0; t < steps; t++) {
      std::memcpy(row, bias, width * sizeof(float));
      for (int64_t k = 0; k < kernel; k++) {
        const float *x = scratch + (t + k) * width, *tap = taps + k * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) row[i] += x[i] * tap[i];
      }
      Moments m = moments(row, width);
      A *into = out + (b * steps + t) * width;
#pragma omp simd
      for (int64_t i = 0; i < width; i++) {
        float z = (row[i] - m.mean) * m.scale * weight[i] + shift[i];
        into[i] = down<A>(z * sigmoid(z));
      }
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
    attend(a, qkv, keys, values, slots, frames, valid, positions, bias_u, bias_v, scratch, out); \
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
