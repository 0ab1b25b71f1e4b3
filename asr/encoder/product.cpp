// Matrix products of a layer in bf16 on a core with AMX, for one CPU thread.
//
// Does: y = act(x W^T + b) from weights packed in the order they are read. A step reads all weights
// once: with few rows that is all its time, with more the next ones are fetched meanwhile. Sums are
// kept in float, in one order whatever the number of rows: batch mates change no bit.
// Does not know: what a layer is for, Python. Without AMX nothing is here and oneDNN does the work.

#include <cstdint>

#ifdef __AMX_BF16__
#include <cstring>
#include <immintrin.h>
#include <initializer_list>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int64_t ROWS = 16, COLUMNS = 16, INNER = 32;  // of a tile: outputs x, y; inputs
constexpr int64_t LINE = 64;                            // bytes of a row of a tile
constexpr int64_t TILE = ROWS * LINE;                   // bytes
constexpr int64_t PANEL = 2 * COLUMNS;                  // columns that are made at once

struct alignas(64) Config {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  Config() {
    for (int i = 0; i < 8; i++) row_bytes[i] = 64, rows[i] = ROWS;
  }
};

enum Activation : int64_t { NONE, RELU, SWISH };

// As in native.cpp: Cephes' expf.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88.0f)), _mm512_set1_ps(-87.0f));
  const __m512 n = _mm512_roundscale_ps(
      _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                  5.0000001201e-1f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

inline __m512 activated(__m512 x, int64_t activation) {
  if (activation == RELU) return _mm512_max_ps(x, _mm512_setzero_ps());
  if (activation != SWISH) return x;
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(x, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

struct Product {
  int64_t rows, outer, inner, activation;
  const uint16_t *x;
  const float *bias;  // to whole panels
  uint16_t *out;

  // One panel of columns for up to two tiles of rows.
  template <int TILES>
  inline void block(const uint16_t *left, const char *weights, const char *ahead, int64_t lines,
                    float *sums) const {
    _tile_zero(0);
    _tile_zero(1);
    if (TILES == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    const int64_t stride = inner * 2;
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
    }
    constexpr int64_t WIDE = PANEL * sizeof(float);
    _tile_stored(0, sums, WIDE);
    _tile_stored(1, sums + COLUMNS, WIDE);
    if (TILES == 2) {
      _tile_stored(2, sums + ROWS * PANEL, WIDE);
      _tile_stored(3, sums + ROWS * PANEL + COLUMNS, WIDE);
    }
  }

  // Whole cache lines: rows lie a power of two apart and drive each other out of the cache.
  inline void finish(const float *sums, int64_t row, int64_t count, int64_t column) const {
    const __m512 low = _mm512_loadu_ps(bias + column), high = _mm512_loadu_ps(bias + column + COLUMNS);
    const __mmask32 mask = outer - column >= PANEL ? ~0u : (1u << (outer - column)) - 1;
    uint16_t *into = out + row * outer + column;
    for (int64_t r = 0; r < count; r++, sums += PANEL, into += outer) {
      const __m512 first = activated(_mm512_add_ps(_mm512_load_ps(sums), low), activation);
      const __m512 second =
          activated(_mm512_add_ps(_mm512_load_ps(sums + COLUMNS), high), activation);
      _mm512_mask_storeu_epi16(into, mask, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
  }

  // `tail`: the last rows, filled up to a tile, where rows do not fill tiles.
  void run(const char *weights, const uint16_t *tail) const {
    alignas(LINE) float sums[2 * ROWS * PANEL];
    const int64_t whole = rows / ROWS * ROWS, bytes = PANEL * inner * 2;
    const int64_t blocks = (rows + 2 * ROWS - 1) / (2 * ROWS);
    // Each block of rows asks for its share of the next panel; alone, reading straight on is faster.
    const int64_t lines = rows <= ROWS ? 0 : (2 * TILE / LINE + blocks - 1) / blocks;
    for (int64_t column = 0; column < outer; column += PANEL, weights += bytes) {
      const char *ahead = weights + bytes;
      int64_t row = 0;
      for (; row + 2 * ROWS <= whole; row += 2 * ROWS, ahead += lines * LINE * inner / INNER) {
        block<2>(x + row * inner, weights, ahead, lines, sums);
        finish(sums, row, 2 * ROWS, column);
      }
      for (; row < rows; row += ROWS, ahead += lines * LINE * inner / INNER) {
        const bool is_whole = row < whole;
        block<1>(is_whole ? x + row * inner : tail, weights, ahead, lines, sums);
        finish(sums, row, is_whole ? ROWS : rows - row, column);
      }
    }
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
extern "C" void product_pack(int64_t outer, int64_t inner, const uint16_t *weight,
                             uint16_t *packed) {
  for (int64_t panel = 0; panel < outer; panel += PANEL)
    for (int64_t k = 0; k < inner; k += INNER)
      for (int64_t column = panel; column < panel + PANEL; column += COLUMNS)
        for (int64_t pair = 0; pair < INNER; pair += 2)
          for (int64_t c = column; c < column + COLUMNS; c++)
            for (int64_t i = 0; i < 2; i++)
              *packed++ = c < outer ? weight[c * inner + k + pair + i] : 0;
}

// `tail`: room for 16 rows of x.
extern "C" void product(const int64_t *shape, const uint16_t *x, const uint16_t *weights,
                        const float *bias, uint16_t *tail, uint16_t *out) {
  const Product product{shape[0], shape[1], shape[2], shape[3], x, bias, out};
  const int64_t over = product.rows % ROWS, inner = product.inner;
  // What lies below the last row is never looked at: a row of a product comes from its own alone.
  std::memcpy(tail, x + (product.rows - over) * inner, over * inner * 2);
  static const Config config;
  _tile_loadconfig(&config);
  product.run((const char *)weights, tail);
  _tile_release();
}
#endif
