// What both ways to attend share: softmax, who sees whom, the ring.
//
// Does: scores of a frame -> weights; geometry of the ring and of the frames of a chunk.
// Does not know: where scores come from.
//
// A step of many chunks attends chunk by chunk, each behind the ring that the one before it left: sums
// are then the same, in the same order, as in as many steps. (In 8 bits a sum that differs in its last
// bit can tip a word: a file read at once would say other words than the same speech live.)

#pragma once
#include <cmath>

#include "lanes.h"

namespace {

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

struct Attention {
  // `zero` is the column of distance 0 in the table of positions, which has `stride` columns.
  int64_t rows, steps, heads, width, left, chunk, stride, zero;

  // Scores of a frame: the ring in its own order, then the frames of its chunk.
  int64_t ring() const { return padded(left); }
  int64_t seen() const { return ring() + padded(chunk); }
  int64_t farthest() const { return left + chunk - 1; }
  int64_t distances() const { return padded(farthest() + chunk); }
  int64_t scratch() const {
    // `weigh` reads up to a ring beyond the last scores.
    return 3 * chunk * width + width * padded(chunk) + chunk * (seen() + distances()) + ring();
  }
};

// Distances, visibility, softmax: scores of a frame become weights; what is hidden weighs nothing.
// Distances are read in whole registers, which begin up to a ring before `place` and end up to one
// behind it; what is read there is not used. Scores lie before, other scratch behind.
template <class A>
void weigh(const Attention &a, int64_t t, int64_t frames, int64_t valid, const float *place,
           float *score, A *weight) {
  const int next = frames % a.left, left = a.left, chunk = a.chunk, ring = a.ring();
  const int columns = a.seen(), until = valid < chunk ? int(valid) : chunk;
  const float *now = place + a.farthest() - t;    // distance 0
  const int reach = left / chunk * chunk;         // frames before the chunk that may be seen
  const int back = frames < reach ? int(frames) : reach;
  Ints lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  Lanes most = Lanes{} + HIDDEN;
  auto put = [&](int at, Lanes place, Ints is_seen) {
    const Lanes sum = is_seen ? load(score + at) + place : Lanes{} + HIDDEN;
    most = sum > most ? sum : most;
    store(score + at, sum);
  };
  // Ring row n < next lies next - n frames before this chunk, the others a ring further.
  for (int at = 0; at < ring; at += LANES) {
    const Ints n = lane + at, is_near = n < next;
    const Ints first = is_near ? Ints{} + (next - back) : Ints{} + (left + next - back);
    const float *near = now - next + at;
    put(at, is_near ? load(near) : load(near - left), (n >= first) & (n < left));
  }
  for (int at = ring; at < columns; at += LANES)
    put(at, load(now + at - ring), lane + (at - ring) < until);
  const float top = largest(most);
  Lanes sum = {};
  for (int at = 0; at < columns; at += LANES) {
    const Lanes x = load(score + at);
    const Lanes y = x > HIDDEN ? exponential(x - top) : Lanes{};
    sum += y;
    store(score + at, y);
  }
  const float all = total(sum), share = all > 0 ? 1.0f / all : 0.0f;
  for (int at = 0; at < columns; at += LANES) store(weight + at, load(score + at) * share);
}

// What one head of one row has in a chunk: queries, keys and values of it, and the ring before it.
template <class A> struct Head {
  int64_t index, frames, valid;
  const A *qkv;
  A *keys, *values, *out;
};

// Run `attend` for each, then put the chunk's keys and values into the ring.
template <class A, class Attend>
void each_head(const Attention &a, const A *qkv, A *keys, A *values, const int64_t *slots,
               const int64_t *frames, const int64_t *valid, A *out, const Attend &attend) {
  const int64_t model = a.heads * a.width, across = 3 * model, size = a.left * a.width;
  // Head by head over the whole batch: a head's positions stay in the first cache.
  for (int64_t h = 0; h < a.heads; h++)
    for (int64_t b = 0; b < a.rows; b++) {
      const int64_t at = (slots[b] * a.heads + h) * size;
      const bool is_last = b + 1 == a.rows;
      const int64_t then = is_last ? at : (slots[b + 1] * a.heads + h) * size;
      const char *key = (const char *)(keys + then), *value = (const char *)(values + then);
      const int64_t bytes = is_last ? 0 : size * sizeof(A);
      Ahead ahead{{key, value}, {key + bytes, value + bytes}};
      for (int64_t first = 0; first < a.steps; first += a.chunk) {
        const int64_t row = b * a.steps + first, column = h * a.width;
        const Head<A> head{h,         frames[b] + first, valid[b] - first, qkv + row * across + column,
                           keys + at, values + at,       out + row * model + column};
        attend(head, ahead);
        for (int64_t t = a.chunk > a.left ? a.chunk - a.left : 0; t < a.chunk; t++) {
          const int64_t ring = (head.frames + t) % a.left;
          const A *k = head.qkv + t * across + model;
          for (int64_t i = 0; i < a.width; i++) head.keys[i * a.left + ring] = k[i];
          std::memcpy(head.values + ring * a.width, k + model, a.width * sizeof(A));
        }
      }
    }
}

}  // namespace
