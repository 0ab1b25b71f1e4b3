// Numbers and registers: sixteen floats at a time, whatever the processor.
//
// Does: load, store (bf16 to the nearest), sums over rows, exponential, sigmoid; rows of any width.
// Does not know: what is computed.

#pragma once
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

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

// Sixteen floats: one AVX-512 register, or what the compiler makes of it elsewhere.
constexpr int LANES = 16;
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(LANES * sizeof(int32_t))));
typedef uint32_t Words __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(uint16_t))));

inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

inline Lanes load(const float *x) {
  Lanes lanes;
  std::memcpy(&lanes, x, sizeof lanes);
  return lanes;
}

inline Lanes load(const bf16 *x) {
  Halves halves;
  std::memcpy(&halves, x, sizeof halves);
  return (Lanes)(__builtin_convertvector(halves, Words) << 16);
}

inline void store(float *into, Lanes x) { std::memcpy(into, &x, sizeof x); }

inline void store(bf16 *into, Lanes x) {
#ifdef __AVX512BF16__
  const auto halves = _mm512_cvtneps_pbh((__m512)x);
#else
  Words bits = (Words)x;
  bits += 0x7fff + ((bits >> 16) & 1);
  const Halves halves = __builtin_convertvector(bits >> 16, Halves);
#endif
  std::memcpy(into, &halves, sizeof halves);
}

// Registers of a row: whole ones, and the last, of which only some numbers are there.
struct Whole {};
struct Part {
  int64_t count;
};

template <class A> inline Lanes load(const A *x, Whole) { return load(x); }
template <class A> inline Lanes load(const A *x, Part part) {
  A lanes[LANES] = {};
  std::memcpy(lanes, x, part.count * sizeof(A));
  return load(lanes);
}
template <class A> inline void store(A *into, Lanes x, Whole) { store(into, x); }
template <class A> inline void store(A *into, Lanes x, Part part) {
  A lanes[LANES];
  store(lanes, x);
  std::memcpy(into, lanes, part.count * sizeof(A));
}
inline Lanes kept(Lanes x, Whole) { return x; }
inline Lanes kept(Lanes x, Part part) {
  for (int64_t i = part.count; i < LANES; i++) x[i] = 0;
  return x;
}

template <class Each> inline void sweep(int64_t width, const Each &each) {
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) each(i, Whole{});
  if (i < width) each(i, Part{width - i});
}

// Of all lanes, by halves: one after the other would wait sixteen times.
template <class V> inline void split(V x, void *low, void *high) {
  std::memcpy(low, &x, sizeof x / 2);
  std::memcpy(high, (const char *)&x + sizeof x / 2, sizeof x / 2);
}
template <class Join> inline float across(Lanes x, const Join &join) {
  typedef float Eight __attribute__((vector_size(8 * sizeof(float))));
  typedef float Four __attribute__((vector_size(4 * sizeof(float))));
  Eight eight[2];
  Four four[2];
  split(x, eight, eight + 1);
  split(join(eight[0], eight[1]), four, four + 1);
  const Four rest = join(four[0], four[1]);
  return join(join(rest[0], rest[1]), join(rest[2], rest[3]));
}
inline float total(Lanes x) {
  return across(x, [](auto a, auto b) { return a + b; });
}
inline float largest(Lanes x) {
  return across(x, [](auto a, auto b) { return a > b ? a : b; });
}

// Sum over a row; four at once hide the latency of an addition.
template <class Term> inline float total(int64_t width, const Term &term) {
  Lanes sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= width; i += 4 * LANES)
    for (int k = 0; k < 4; k++) sum[k] += term(i + k * LANES, Whole{});
  for (; i + LANES <= width; i += LANES) sum[0] += term(i, Whole{});
  if (i < width) sum[1] += term(i, Part{width - i});
  return total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// Cephes' expf: relative error below 2e-7 and no branches.
inline Lanes exponential(Lanes x) {
  constexpr float NEAREST = 12582912.0f;  // 1.5 * 2^23: a sum with it has no fraction
  x = x > 88.0f ? Lanes{} + 88.0f : x;
  x = x < -87.0f ? Lanes{} - 87.0f : x;
  const Lanes whole = x * 1.44269504f + NEAREST, n = whole - NEAREST;
  const Lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Lanes y = p * r * r + r + 1.0f;
  return y * (Lanes)(((Ints)whole << 23) + (127 << 23));
}

// A division takes as long as the exponential; a guess of 14 bits and one step of Newton's do not.
inline Lanes inverse(Lanes x) {
#ifdef __AVX512F__
  const Lanes guess = (Lanes)_mm512_rcp14_ps((__m512)x);
  return guess * (2.0f - x * guess);
#else
  return 1.0f / x;
#endif
}

inline Lanes sigmoid(Lanes x) { return inverse(1.0f + exponential(-x)); }

}  // namespace
