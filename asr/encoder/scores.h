// What both ways to attend share: softmax, who sees whom, the ring.
//
// Does: scores of a frame -> weights; geometry of the ring and of the frames of a step.
// Does not know: where scores come from.

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

  // Scores of a frame: the ring in its own order, then the frames of this step.
  int64_t ring() const { return padded(left); }
  int64_t seen() const { return ring() + padded(steps); }
  int64_t distances() const { return padded(left + steps - 1 + chunk); }
  int64_t scratch() const {
    // `weigh` reads up to a ring beyond the last scores.
    return 3 * steps * width + width * padded(steps) + steps * (seen() + distances()) + ring();
  }
};

// Distances, visibility, softmax: scores of a frame become weights; what is hidden weighs nothing.
// Distances are read in whole registers, which begin up to a ring before `place` and end up to one
// behind it; what is read there is not used. Scores lie before, other scratch behind.
template <class A>
void weigh(const Attention &a, int64_t t, int64_t frames, int64_t valid, const float *place,
           float *score, A *weight) {
  const int next = frames % a.left, left = a.left, chunk = a.chunk, ring = a.ring();
  const int reach = left / chunk, chunks = t / chunk, columns = a.seen();
  const float *now = place + left + a.steps - 1 - t;  // distance 0
  int back = (reach - chunks) * chunk;                // frames before the step that are seen
  back = back < 0 ? 0 : back > frames ? int(frames) : back > left ? left : back;
  Ints lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  Lanes most = Lanes{} + HIDDEN;
  auto put = [&](int at, Lanes place, Ints is_seen) {
    const Lanes sum = is_seen ? load(score + at) + place : Lanes{} + HIDDEN;
    most = sum > most ? sum : most;
    store(score + at, sum);
  };
  // Ring row n < next lies next - n frames before this step, the others a ring further.
  for (int at = 0; at < ring; at += LANES) {
    const Ints n = lane + at, is_near = n < next;
    const Ints first = is_near ? Ints{} + (next - back) : Ints{} + (left + next - back);
    const float *near = now - next + at;
    put(at, is_near ? load(near) : load(near - left), (n >= first) & (n < left));
  }
  const int from = (chunks - reach) * chunk, end = (chunks + 1) * chunk;
  const int until = end < valid ? end : int(valid);
  for (int at = ring; at < columns; at += LANES) {
    const Ints n = lane + (at - ring);
    put(at, load(now + at - ring), (n >= from) & (n < until));
  }
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
