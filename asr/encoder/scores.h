// What both ways to attend share: numbers, registers, softmax, who sees whom.
//
// Does: scores of a frame -> weights; geometry of the ring and of the frames of a step.
// Does not know: where scores come from.

#pragma once
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

// What one head of one row has: queries, keys and values of the step, and its ring.
template <class A> struct Head {
  int64_t row, index;
  const A *qkv;
  A *keys, *values;
};

// Run `attend` for each, then put the step's keys and values into the ring.
template <class A, class Attend>
void each_head(const Attention &a, const A *qkv, A *keys, A *values, const int64_t *slots,
               const int64_t *frames, const Attend &attend) {
  const int64_t model = a.heads * a.width, across = 3 * model, size = a.left * a.width;
  // Head by head over the whole batch: a head's positions stay in the first cache.
  for (int64_t h = 0; h < a.heads; h++)
    for (int64_t b = 0; b < a.rows; b++) {
      const int64_t at = (slots[b] * a.heads + h) * size;
      const Head<A> head{b, h, qkv + b * a.steps * across + h * a.width, keys + at, values + at};
      const bool is_last = b + 1 == a.rows;
      const int64_t then = is_last ? at : (slots[b + 1] * a.heads + h) * size;
      const char *key = (const char *)(keys + then), *value = (const char *)(values + then);
      const int64_t bytes = is_last ? 0 : size * sizeof(A);
      Ahead ahead{{key, value}, {key + bytes, value + bytes}};
      attend(head, ahead);
      for (int64_t t = a.steps > a.left ? a.steps - a.left : 0; t < a.steps; t++) {
        const int64_t ring = (frames[b] + t) % a.left;
        const A *k = head.qkv + t * across + model;
        for (int64_t i = 0; i < a.width; i++) head.keys[i * a.left + ring] = k[i];
        std::memcpy(head.values + ring * a.width, k + model, a.width * sizeof(A));
      }
    }
}

}  // namespace
