// The tiles of a core with AMX: their shape, and how bf16 is laid out for them.
//
// Does: configure tiles; put pairs of inputs side by side.
// Does not know: what is multiplied.

#pragma once
#include <cstdint>
#include <immintrin.h>

namespace {

constexpr int64_t ROWS = 16, COLUMNS = 16, INNER = 32;  // of a tile: outputs x, y; inputs
constexpr int64_t LINE = 64;                            // bytes of a row of a tile
constexpr int64_t TILE = ROWS * LINE;                   // bytes

struct alignas(64) Config {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // Right sides (6, 7) are whole tiles; with less than a tile of rows the others are as small.
  explicit Config(int64_t few) {
    for (int i = 0; i < 8; i++) row_bytes[i] = LINE, rows[i] = i < 6 && few < ROWS ? few : ROWS;
  }
};

}  // namespace
