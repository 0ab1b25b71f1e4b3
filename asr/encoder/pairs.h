// Small products in bf16 whose right side has pairs of inputs side by side.
//
// Does: out [rows][columns] = left [rows][inner] x pairs [inner / 2][columns], for up to sixteen
// rows; in tiles on a core with AMX, else by dot products.
// Does not know: what is multiplied.

#pragma once
#include "lanes.h"

#ifdef __AMX_BF16__
#include "tiles.h"
#endif

namespace {

struct Pairs {
  const uint32_t *at;
  int64_t stride;  // words from a pair of inputs to the next
};

#ifdef __AMX_BF16__
constexpr int64_t TAKEN = INNER;  // inputs at once

struct Multiplier {
  explicit Multiplier(int64_t rows) {
    const Config config(rows);
    _tile_loadconfig(&config);
  }
  ~Multiplier() { _tile_release(); }

  void operator()(const bf16 *left, int64_t inner, Pairs right, float *out, int64_t columns) const {
    for (int64_t c = 0; c < columns; c += 2 * COLUMNS) {
      const bool is_two = c + COLUMNS < columns;
      _tile_zero(0);
      _tile_zero(1);
      for (int64_t k = 0; k < inner; k += INNER) {
        const uint32_t *from = right.at + k / 2 * right.stride + c;
        _tile_loadd(4, left + k, inner * 2);
        _tile_loadd(6, from, right.stride * 4);
        _tile_dpbf16ps(0, 4, 6);
        if (is_two) {
          _tile_loadd(7, from + COLUMNS, right.stride * 4);
          _tile_dpbf16ps(1, 4, 7);
        }
      }
      _tile_stored(0, out + c, columns * 4);
      if (is_two) _tile_stored(1, out + c + COLUMNS, columns * 4);
    }
  }
};
#elif defined(__AVX512BF16__)
constexpr int64_t TAKEN = 2;

struct Multiplier {
  int64_t rows;

  template <int ROWS, int BLOCKS>
  static inline void block(const bf16 *left, int64_t inner, Pairs right, float *out,
                           int64_t columns) {
    __m512 sum[ROWS][BLOCKS] = {};
    for (int64_t k = 0; k < inner; k += 2, right.at += right.stride)
      for (int c = 0; c < BLOCKS; c++) {
        const __m512i pairs = _mm512_loadu_si512(right.at + c * LANES);
        for (int r = 0; r < ROWS; r++) {
          int32_t both;
          std::memcpy(&both, left + r * inner + k, sizeof both);
          sum[r][c] = _mm512_dpbf16_ps(sum[r][c], (__m512bh)_mm512_set1_epi32(both), (__m512bh)pairs);
        }
      }
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < BLOCKS; c++) _mm512_storeu_ps(out + r * columns + c * LANES, sum[r][c]);
  }

  // Eight sums or more at once hide the latency of a dot product.
  template <int ROWS>
  static void some(const bf16 *left, int64_t inner, Pairs right, float *out, int64_t columns) {
    constexpr int BLOCKS = ROWS >= 4 ? 2 : 4;
    int64_t c = 0;
    for (; c + BLOCKS * LANES <= columns; c += BLOCKS * LANES)
      block<ROWS, BLOCKS>(left, inner, {right.at + c, right.stride}, out + c, columns);
    for (; c < columns; c += LANES)
      block<ROWS, 1>(left, inner, {right.at + c, right.stride}, out + c, columns);
  }

  void operator()(const bf16 *left, int64_t inner, Pairs right, float *out, int64_t columns) const {
    int64_t row = 0;
    for (; row + 8 <= rows; row += 8)
      some<8>(left + row * inner, inner, right, out + row * columns, columns);
    left += row * inner, out += row * columns;
    switch (rows - row) {
#define CASE(ROWS)                                                                               \
  case ROWS:                                                                                     \
    return some<ROWS>(left, inner, right, out, columns);
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
#undef CASE
    }
  }
};
#endif

}  // namespace
