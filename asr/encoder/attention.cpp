// Attention over the ring cache in bf16 on a core that multiplies it, for one CPU thread.
//
// Does: what attend in native.cpp does, for chunks of up to sixteen frames; the ring lies as it does there,
// and what such a core wants (pairs of inputs side by side) is made of it row by row.
// Does not know: weights' names, streams, Python. Without AMX or AVX512-BF16 nothing is here.

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)
#include "pairs.h"
#include "scores.h"

namespace {

// Columns of a right side [inner][columns] whose rows lie in memory by twos: pairs [inner / 2][columns].
inline void pair(const bf16 *even, const bf16 *odd, int64_t columns, uint32_t *pairs, Ahead &ahead) {
  for (int64_t c = 0; c < columns; c += LANES) {
    ahead.touch();
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(even + c)));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(odd + c)));
    _mm512_storeu_si512(pairs + c, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
}

inline void round_row(const float *x, int64_t count, bf16 *out) {
  for (int64_t i = 0; i < count; i += LANES)
    _mm256_storeu_si256((__m256i *)(out + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
}

inline int64_t whole(int64_t inner) { return (inner + TAKEN - 1) / TAKEN * TAKEN; }

struct Room {
  float *score, *place, *mixed;
  bf16 *query_u, *query_v, *weight, *nothing;
  uint32_t *key_pairs, *value_pairs;
  int64_t floats = 0;

  // Values are paired over `inner`, as much of it as is taken at once; keys over the width.
  Room(const Attention &a, float *scratch) {
    const int64_t inner = whole(a.seen());
    auto take = [&](int64_t count) {
      float *at = scratch + floats;
      floats += padded(count);
      return at;
    };
    score = take(a.chunk * a.seen());
    place = take(a.chunk * a.distances());
    mixed = take(a.chunk * a.width);
    query_u = (bf16 *)take(a.chunk * a.width / 2);
    query_v = (bf16 *)take(a.chunk * a.width / 2);
    weight = (bf16 *)take(a.chunk * inner / 2);
    nothing = (bf16 *)take(a.width / 2);
    key_pairs = (uint32_t *)take(a.width * a.seen() / 2);
    value_pairs = (uint32_t *)take(a.width * inner / 2);
  }
};

// One head of one row, in one chunk.
void attend_head(const Attention &a, const Room &room, const Multiplier &multiply,
                 const Head<bf16> &head, const uint32_t *positions, const float *bias_u,
                 const float *bias_v, Ahead &ahead) {
  const bf16 *qkv = head.qkv, *keys = head.keys, *values = head.values;
  const int64_t width = a.width, model = a.heads * width, across = 3 * model;
  const int64_t ring = a.ring(), seen = a.seen(), inner = whole(seen);
  const float scale = 1.0f / std::sqrt(float(width));
  for (int64_t t = 0; t < a.chunk; t++) {
    const bf16 *q = qkv + t * across;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      room.query_u[t * width + i] = down<bf16>((up(q[i]) + bias_u[i]) * scale);
      room.query_v[t * width + i] = down<bf16>((up(q[i]) + bias_v[i]) * scale);
    }
  }
  // What was just written is not at once there to be read: between lies other work.
  for (int64_t i = 0; i < width; i += 2) {
    uint32_t *into = room.key_pairs + i / 2 * seen;
    pair(keys + i * a.left, keys + (i + 1) * a.left, ring, into, ahead);
    for (int64_t t = 0; t < a.chunk; t++)
      std::memcpy(into + ring + t, qkv + t * across + model + i, sizeof *into);
  }
  const uint32_t *from = positions + a.zero - a.farthest();
  multiply(room.query_v, width, {from, a.stride}, room.place, a.distances());
  auto value = [&](int64_t n) {
    if (n < a.left) return values + n * width;
    return n >= ring && n < ring + a.chunk ? qkv + 2 * model + (n - ring) * across : room.nothing;
  };
  for (int64_t n = 0; n < inner; n += 2)
    pair(value(n), value(n + 1), width, room.value_pairs + n / 2 * width, ahead);
  multiply(room.query_u, width, {room.key_pairs, seen}, room.score, seen);
  for (int64_t t = 0; t < a.chunk; t++) {
    bf16 *weight = room.weight + t * inner;
    weigh(a, t, head.frames, head.valid, room.place + t * a.distances(), room.score + t * seen, weight);
    std::memset(weight + seen, 0, (inner - seen) * sizeof(bf16));
  }
  multiply(room.weight, inner, {room.value_pairs, width}, room.mixed, width);
  for (int64_t t = 0; t < a.chunk; t++) round_row(room.mixed + t * width, width, head.out + t * model);
}

}  // namespace

// Floats that attend wants as scratch, for a shape.
extern "C" int64_t attend_scratch(const int64_t *shape) {
  Attention a;
  std::memcpy(&a, shape, sizeof a);
  return Room(a, nullptr).floats;
}

// Inputs that are taken at once: a head's width is a multiple of it.
extern "C" int64_t attend_takes() { return TAKEN; }

// `positions`: pairs of a head's rows side by side, [heads][width / 2][stride].
extern "C" void attend_bf16(const int64_t *shape, const bf16 *qkv, bf16 *keys, bf16 *values,
                            const int64_t *slots, const int64_t *frames, const int64_t *valid,
                            const uint32_t *positions, const float *bias_u, const float *bias_v,
                            float *scratch, bf16 *out) {
  Attention a;
  std::memcpy(&a, shape, sizeof a);
  const Room room(a, scratch);
  std::memset(room.nothing, 0, a.width * sizeof(bf16));
  const Multiplier multiply{a.chunk};
  each_head(a, qkv, keys, values, slots, frames, valid, out,
            [&](const Head<bf16> &head, Ahead &ahead) {
              const int64_t at = head.index * a.width;
              attend_head(a, room, multiply, head, positions + at / 2 * a.stride, bias_u + at,
                          bias_v + at, ahead);
            });
}
#endif
