// Matrix products of a layer in bf16 on a core with AMX, for one CPU thread.
//
// Does: y = act(x W^T + b) from weights packed in the order they are read. A step reads all weights
// once: with few rows that is all its time, with more the next ones are fetched meanwhile. Sums are
// kept in float, in one order whatever the number of rows: batch mates change no bit.
// Does not know: what a layer is for, Python. Without AMX nothing is here: dots.cpp does the work.

#include <cstdint>

#ifdef __AMX_BF16__
#include <cstring>
#include <sys/syscall.h>
#include <unistd.h>

#include "results.h"
#include "tiles.h"

namespace {

// Sums of some rows in a panel of columns, and how many of the rows have become results.
struct Sums {
  alignas(LINE) float at[2 * ROWS * PANEL];
  int64_t row = 0, column = 0, rows = 0, done = 0;
};

struct Product {
  int64_t rows, outer, inner, activation;
  const uint16_t *x;
  const float *bias;  // to whole panels
  bf16 *out;

  // One panel of columns for up to two tiles of rows. While tiles multiply, what the block before
  // left is finished, some rows with each tile.
  template <int TILES>
  inline void block(const uint16_t *left, const char *weights, const char *ahead, int64_t lines,
                    Sums &sums, Sums &before) const {
    _tile_zero(0);
    _tile_zero(1);
    if (TILES == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    const int64_t stride = inner * 2, share = (before.rows * INNER + inner - 1) / inner;
    for (int64_t k = 0; k < inner; k += INNER, weights += 2 * TILE) {
      for (int64_t i = 0; i < lines; i++, ahead += LINE) _mm_prefetch(ahead, _MM_HINT_T1);
      _tile_loadd(6, weights, LINE);
      _tile_loadd(7, weights + TILE, LINE);
      _tile_loadd(4, left + k, stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (TILES == 2) {
        _tile_loadd(5, left + ROWS * inner + k, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      finish(before, share);
    }
    constexpr int64_t WIDE = PANEL * sizeof(float);
    _tile_stored(0, sums.at, WIDE);
    _tile_stored(1, sums.at + COLUMNS, WIDE);
    if (TILES == 2) {
      _tile_stored(2, sums.at + ROWS * PANEL, WIDE);
      _tile_stored(3, sums.at + ROWS * PANEL + COLUMNS, WIDE);
    }
  }

  inline void finish(Sums &sums, int64_t count) const {
    const float *low = bias + sums.column, *high = low + COLUMNS;
    const int64_t until = sums.done + count < sums.rows ? sums.done + count : sums.rows;
    for (; sums.done < until; sums.done++) {
      const float *row = sums.at + sums.done * PANEL;
      const __m512 first = _mm512_add_ps(_mm512_load_ps(row), _mm512_loadu_ps(low));
      const __m512 second = _mm512_add_ps(_mm512_load_ps(row + COLUMNS), _mm512_loadu_ps(high));
      bf16 *into = out + (sums.row + sums.done) * outer + sums.column;
      put(into, outer - sums.column, first, second, activation);
    }
  }

  // `tail`: the last rows, filled up to a tile, where rows are more than a tile and do not fill all.
  void run(const char *weights, const uint16_t *tail) const {
    Sums sums[2];
    int turn = 0;
    const int64_t whole = rows / ROWS * ROWS, bytes = PANEL * inner * 2;
    const int64_t blocks = (rows + 2 * ROWS - 1) / (2 * ROWS);
    // Each block of rows asks for its share of the next panel; alone, reading straight on is faster.
    const int64_t lines = rows <= ROWS ? 0 : (2 * TILE / LINE + blocks - 1) / blocks;
    for (int64_t column = 0; column < outer; column += PANEL, weights += bytes) {
      const char *ahead = weights + bytes;
      for (int64_t row = 0; row < rows; turn ^= 1, ahead += lines * LINE * inner / INNER) {
        Sums &now = sums[turn], &before = sums[turn ^ 1];
        const uint16_t *left = row < whole || rows < ROWS ? x + row * inner : tail;
        const bool is_pair = row + 2 * ROWS <= whole;
        if (is_pair)
          block<2>(left, weights, ahead, lines, now, before);
        else
          block<1>(left, weights, ahead, lines, now, before);
        const int64_t most = is_pair ? 2 * ROWS : ROWS;
        now.row = row, now.column = column, now.done = 0;
        now.rows = rows - row < most ? rows - row : most;
        row += most;
      }
    }
    finish(sums[turn ^ 1], 2 * ROWS);
  }
};

}  // namespace

// Whether the system lets this process use tiles.
extern "C" int64_t product_ready() {
  constexpr long ASK = 0x1023, TILE_DATA = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, ...)
  return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
}

// weight [outer][inner] -> panels of 32 columns: for each 32 inputs two tiles, pairs of inputs
// side by side; outer is filled up with zeros.
extern "C" void pack(int64_t outer, int64_t inner, const uint16_t *weight, uint16_t *packed) {
  for (int64_t panel = 0; panel < outer; panel += PANEL)
    for (int64_t k = 0; k < inner; k += INNER)
      for (int64_t column = panel; column < panel + PANEL; column += COLUMNS)
        for (int64_t pair = 0; pair < INNER; pair += 2)
          for (int64_t c = column; c < column + COLUMNS; c++)
            for (int64_t i = 0; i < 2; i++)
              *packed++ = c < outer ? weight[c * inner + k + pair + i] : 0;
}

// `tail`: room for 16 rows of x, where rows are more than a tile and do not fill all.
extern "C" void product(const int64_t *shape, const uint16_t *x, const uint16_t *weights,
                        const float *bias, uint16_t *tail, bf16 *out) {
  const Product product{shape[0], shape[1], shape[2], shape[3], x, bias, out};
  const int64_t over = product.rows % ROWS, inner = product.inner;
  // What lies below the last row is never looked at: a row of a product comes from its own alone.
  if (product.rows > ROWS) std::memcpy(tail, x + (product.rows - over) * inner, over * inner * 2);
  const Config config(product.rows);
  _tile_loadconfig(&config);
  product.run((const char *)weights, tail);
  _tile_release();
}
#endif
