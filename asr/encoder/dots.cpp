// Matrix products of a layer with AVX-512, for one CPU thread.
//
// Does: y = act(x W^T + b) in fp32, in bf16 (AVX512-BF16), or for x in bf16 and weights in 8 bits
// (AVX512-VNNI), from weights packed in the order they are read. 8 bits have a scale for each
// output of W and, found here, for each row of x; their sums are whole numbers. A row is computed
// alone, in one order whatever the number of rows: batch mates change no bit.
// Does not know: what a layer is for, Python. Where the instructions are missing nothing is here.

#ifdef __AVX512BW__
#include "results.h"

namespace {

constexpr int64_t LINE = 64;
constexpr int MOST = 8;  // rows at once; with more a compiler runs out of registers

struct Shape {
  int64_t rows, outer, inner, activation;
};

// Rows in equal blocks: each(first row, rows).
template <class Each> inline void each_block(int64_t rows, const Each &each) {
  const int64_t blocks = (rows + MOST - 1) / MOST;
  for (int64_t i = 0, row = 0; i < blocks; i++) {
    const int64_t until = rows * (i + 1) / blocks;
    each(row, until - row);
    row = until;
  }
}

// x [rows][words] -> for each block [words][rows of the block]: as they lie, rows a power of two
// apart drive each other out of the cache.
inline void stand(const uint32_t *x, int64_t rows, int64_t words, uint32_t *out) {
  each_block(rows, [&](int64_t row, int64_t count) {
    for (int64_t k = 0; k < words; k++)
      for (int64_t r = row; r < row + count; r++) *out++ = x[r * words + k];
  });
}

// A word of x is what one lane of an instruction takes: one input, two in bf16, four in 8 bits.
template <class Numbers> struct Product {
  using Sum = typename Numbers::Sum;
  Shape shape;
  Numbers numbers;
  const uint32_t *x;  // standing
  const float *bias;  // to whole panels
  typename Numbers::Out *out;

  template <int ROWS, bool AHEAD>
  inline void block(int64_t row, int64_t column, const char *weights, const char *ahead) const {
    Sum low[ROWS] = {}, high[ROWS] = {};
    const uint32_t *word = x + row * words();
    for (int64_t k = 0; k < words(); k++, word += ROWS, weights += 2 * LINE, ahead += LINE) {
      if (AHEAD) _mm_prefetch(ahead, _MM_HINT_T1);
      const __m512i first = _mm512_load_si512(weights), second = _mm512_load_si512(weights + LINE);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) {
        const __m512i all = _mm512_set1_epi32(word[r]);
        low[r] = Numbers::add(low[r], first, all);
        high[r] = Numbers::add(high[r], second, all);
      }
    }
    const __m512 before = _mm512_loadu_ps(bias + column);
    const __m512 behind = _mm512_loadu_ps(bias + column + LANES);
    for (int r = 0; r < ROWS; r++) {
      const __m512 y = numbers.result(low[r], row + r, column, before);
      const __m512 z = numbers.result(high[r], row + r, column + LANES, behind);
      put(out + (row + r) * shape.outer + column, shape.outer - column, y, z, shape.activation);
    }
  }

  template <bool AHEAD>
  void rows(int64_t count, int64_t row, int64_t column, const char *weights,
            const char *ahead) const {
    switch (count) {
#define CASE(ROWS)                                                                               \
  case ROWS:                                                                                     \
    return block<ROWS, AHEAD>(row, column, weights, ahead);
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
  }

  // The first two blocks of rows ask for the next panel; with one, reading straight on is faster.
  void run(const char *weights) const {
    const int64_t bytes = words() * 2 * LINE, half = bytes / 2;
    for (int64_t column = 0; column < shape.outer; column += PANEL, weights += bytes) {
      const char *ahead = weights + bytes;
      each_block(shape.rows, [&](int64_t row, int64_t count) {
        if (shape.rows > MOST && ahead < weights + 2 * bytes)
          rows<true>(count, row, column, weights, ahead);
        else
          rows<false>(count, row, column, weights, ahead);
        ahead += half;
      });
    }
  }

  int64_t words() const { return shape.inner / Numbers::TOGETHER; }
};

// weight [outer][inner] -> panels of 32 outputs: for each word of x one of each; outer is filled up.
template <class N>
void pack(int64_t outer, int64_t inner, int64_t together, const N *weight, int more, N *packed) {
  for (int64_t panel = 0; panel < outer; panel += PANEL)
    for (int64_t k = 0; k < inner; k += together)
      for (int64_t c = panel; c < panel + PANEL; c++)
        for (int64_t i = k; i < k + together; i++)
          *packed++ = (c < outer ? weight[c * inner + i] : N{}) + more;
}

struct FloatSums {
  using Sum = __m512;
  static inline __m512 result(Sum sum, int64_t, int64_t, __m512 bias) {
    return _mm512_add_ps(sum, bias);
  }
};

struct Fp32 : FloatSums {
  using Out = float;
  static constexpr int64_t TOGETHER = 1;
  static inline Sum add(Sum sum, __m512i w, __m512i x) {
    return _mm512_fmadd_ps((__m512)w, (__m512)x, sum);
  }
};

#ifdef __AVX512BF16__
struct Bf16 : FloatSums {
  using Out = bf16;
  static constexpr int64_t TOGETHER = 2;
  static inline Sum add(Sum sum, __m512i w, __m512i x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
  }
};
#endif
}  // namespace

// `room`, here and below: as many bytes for a row as product.py says.
#define EXPORT(NUMBERS, SUFFIX, STORED)                                                          \
  extern "C" void pack_##SUFFIX(int64_t outer, int64_t inner, const STORED *weight,              \
                                STORED *packed) {                                                \
    pack(outer, inner, NUMBERS::TOGETHER, weight, 0, packed);                                    \
  }                                                                                              \
  extern "C" void product_##SUFFIX(const Shape *shape, const uint32_t *x, const char *weights,   \
                                   const float *bias, uint32_t *room, NUMBERS::Out *out) {       \
    stand(x, shape->rows, shape->inner / NUMBERS::TOGETHER, room);                               \
    Product<NUMBERS>{*shape, {}, room, bias, out}.run(weights);                                  \
  }

EXPORT(Fp32, fp32, float)
#ifdef __AVX512BF16__
EXPORT(Bf16, bf16, uint16_t)
#endif

#ifdef __AVX512VNNI__
namespace {
// The instruction takes weights without a sign: they are kept 128 higher than they are.
constexpr int HIGHER = 128;

struct Int8 {
  using Sum = __m512i;
  using Out = bf16;
  static constexpr int64_t TOGETHER = 4;
  const float *row_scale, *output_scale;
  const int32_t *surplus;  // of rows: what comes of weights that are higher

  static inline Sum add(Sum sum, __m512i w, __m512i x) { return _mm512_dpbusd_epi32(sum, w, x); }
  inline __m512 result(Sum sum, int64_t row, int64_t column, __m512 bias) const {
    const __m512i whole = _mm512_sub_epi32(sum, _mm512_set1_epi32(surplus[row]));
    const Lanes scale = load(output_scale + column) * row_scale[row];
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), (__m512)scale, bias);
  }
};

// A row of x in 8 bits. What is no number is larger than all numbers, as bits, and spoils its row.
inline void shrink(const bf16 *x, int64_t inner, int8_t *out, float *scale, int32_t *surplus) {
  const __m512i no_sign = _mm512_set1_epi16(0x7fff);
  __m512i most = _mm512_setzero_si512();
  for (int64_t i = 0; i < inner; i += 2 * LANES)
    most = _mm512_max_epu16(most, _mm512_and_si512(_mm512_loadu_si512(x + i), no_sign));
  const __m512i even = _mm512_slli_epi32(most, 16), odd = _mm512_srli_epi32(most, 16);
  most = _mm512_max_epu32(even, _mm512_slli_epi32(odd, 16));
  const float largest = up(bf16{uint16_t(_mm512_reduce_max_epu32(most) >> 16)});
  const float by = largest == 0 ? 0 : 127 / largest;
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < inner; i += LANES) {
    const __m512i whole = _mm512_cvtps_epi32((__m512)(load(x + i) * by));
    sum = _mm512_add_epi32(sum, whole);
    _mm_storeu_si128((__m128i *)(out + i), _mm512_cvtepi32_epi8(whole));
  }
  *scale = largest / 127;
  *surplus = HIGHER * _mm512_reduce_add_epi32(sum);
}
}  // namespace

extern "C" void pack_int8(int64_t outer, int64_t inner, const int8_t *weight, uint8_t *packed) {
  pack(outer, inner, Int8::TOGETHER, (const uint8_t *)weight, HIGHER, packed);
}

// Behind the biases lie the scales of the outputs.
extern "C" void product_int8(const Shape *shape, const bf16 *x, const char *weights,
                             const float *bias, uint32_t *room, bf16 *out) {
  const int64_t rows = shape->rows, inner = shape->inner, words = inner / Int8::TOGETHER;
  uint32_t *lying = room + rows * words;
  float *scale = (float *)(lying + rows * words);
  int32_t *surplus = (int32_t *)(scale + rows);
  for (int64_t r = 0; r < rows; r++)
    shrink(x + r * inner, inner, (int8_t *)(lying + r * words), scale + r, surplus + r);
  stand(lying, rows, words, room);
  const float *output_scale = bias + (shape->outer + PANEL - 1) / PANEL * PANEL;
  Product<Int8>{*shape, {scale, output_scale, surplus}, room, bias, out}.run(weights);
}
#endif
#endif
