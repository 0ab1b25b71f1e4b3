// What becomes of a product's sums, for AVX-512.
//
// Does: bias is in; no activation, ReLU or swish; 32 results of a row stored at once, as float or bf16.
// Does not know: how sums are made.

#pragma once
#include <initializer_list>

#include "lanes.h"

namespace {

enum Activation : int64_t { NONE, RELU, SWISH };
constexpr int64_t PANEL = 2 * LANES;  // outputs that are made at once

inline __m512 swish(__m512 x, float) { return (__m512)((Lanes)x * sigmoid((Lanes)x)); }

// What leaves is bf16, of which a step is 4e-3: degree 4 (4e-6) and a reciprocal of 14 bits will do.
inline __m512 swish(__m512 x, bf16) {
  __m512 y = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
  y = _mm512_min_ps(y, _mm512_set1_ps(126.0f));
  const __m512 r = _mm512_reduce_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(9.6181291e-3f);
  for (float c : {5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  p = _mm512_scalef_ps(p, _mm512_sub_ps(y, r));
  return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(p, _mm512_set1_ps(1.0f))));
}

inline void store(float *into, __m512 first, __m512 second, __mmask32 mask) {
  _mm512_mask_storeu_ps(into, mask, first);
  _mm512_mask_storeu_ps(into + LANES, mask >> LANES, second);
}

// Whole cache lines: rows lie a power of two apart and drive each other out of the cache.
inline void store(bf16 *into, __m512 first, __m512 second, __mmask32 mask) {
#ifdef __AVX512BF16__
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
#else
  bf16 halves[PANEL];
  store(halves, (Lanes)first);
  store(halves + LANES, (Lanes)second);
  const __m512i both = _mm512_loadu_si512(halves);
#endif
  _mm512_mask_storeu_epi16(into, mask, both);
}

// The first `count` of the results of a row in a panel.
template <class A>
inline void put(A *into, int64_t count, __m512 first, __m512 second, int64_t activation) {
  auto activated = [activation](__m512 x) {
    if (activation == RELU) return _mm512_max_ps(x, _mm512_setzero_ps());
    return activation == SWISH ? swish(x, A{}) : x;
  };
  const __mmask32 mask = count >= PANEL ? ~0u : (1u << count) - 1;
  store(into, activated(first), activated(second), mask);
}

}  // namespace
