// Vectors of kVectorBytes in accumulator type: GCC's and Clang's vector types, which the compiler
// maps to the instruction set at hand.
#pragma once

#include <type_traits>

#include "cpu/vectors/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <typename A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

template <typename A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes), aligned(alignof(A))));
};
template <typename A>
using vector_t = typename VectorOf<A>::type;

// Elements of 16 bits and their float32 bits.
typedef uint16_t narrow_bits_t __attribute__((vector_size(kVectorBytes / 2), aligned(2)));
typedef uint32_t wide_bits_t __attribute__((vector_size(kVectorBytes), aligned(4)));

template <typename T>
static inline vector_t<accumulator_t<T>> load_vector(const T* in) {
  return *reinterpret_cast<const vector_t<T>*>(in);
}
static inline wide_bits_t load_bits(const void* in) {
  return __builtin_convertvector(*static_cast<const narrow_bits_t*>(in), wide_bits_t);
}
template <>
inline vector_t<float> load_vector<bfloat16_t>(const bfloat16_t* in) {
  return reinterpret_cast<vector_t<float>>(load_bits(in) << 16);
}
template <>
inline vector_t<float> load_vector<float16_t>(const float16_t* in) {
  // As to_accumulator.
  const wide_bits_t bits = load_bits(in);
  const wide_bits_t magnitude = (bits & 0x7fffu) << 13;
  const vector_t<float> scaled = reinterpret_cast<vector_t<float>>(magnitude) * 0x1p112f;
  const wide_bits_t infinite =
      reinterpret_cast<wide_bits_t>(magnitude >= (0x7c00u << 13)) & 0x7f800000u;
  return reinterpret_cast<vector_t<float>>(reinterpret_cast<wide_bits_t>(scaled) | infinite |
                                           ((bits & 0x8000u) << 16));
}

template <typename T>
static inline void store_vector(T* out, vector_t<accumulator_t<T>> value) {
  *reinterpret_cast<vector_t<T>*>(out) = value;
}
static inline void store_bits(void* out, wide_bits_t bits) {
  *static_cast<narrow_bits_t*>(out) = __builtin_convertvector(bits, narrow_bits_t);
}
// Both as from_accumulator.
template <>
inline void store_vector<bfloat16_t>(bfloat16_t* out, vector_t<float> value) {
  const wide_bits_t bits = reinterpret_cast<wide_bits_t>(value);
  const wide_bits_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  store_bits(out, value == value ? rounded : (bits >> 16) | 0x40u);
}
template <>
inline void store_vector<float16_t>(float16_t* out, vector_t<float> value) {
  const wide_bits_t bits = reinterpret_cast<wide_bits_t>(value);
  const wide_bits_t magnitude = bits & 0x7fffffffu;
  const vector_t<float> aligned = reinterpret_cast<vector_t<float>>(magnitude) + 0.5f;
  const wide_bits_t subnormal = reinterpret_cast<wide_bits_t>(aligned) - 0x3f000000u;
  const wide_bits_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  wide_bits_t half = magnitude < (113u << 23) ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? half * 0u + 0x7c00u : half;  // rounds to infinity
  half = magnitude > 0x7f800000u ? half * 0u + 0x7e00u : half;   // NaN
  store_bits(out, half | ((bits >> 16) & 0x8000u));
}

template <typename A>
struct LaneIndex {
  using integer = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
  typedef integer type __attribute__((vector_size(kVectorBytes)));
};

// a[from[0]], a[from[1]], ...
template <typename A>
static inline vector_t<A> permute(vector_t<A> a, typename LaneIndex<A>::type from) {
#if defined(__clang__)
  vector_t<A> out;
  for (int l = 0; l < kLanes<A>; ++l) out[l] = a[from[l]];
  return out;
#else
  return __builtin_shuffle(a, from);
#endif
}

// a[first], b[first], a[first + 1], b[first + 1], ...
template <typename A>
static inline vector_t<A> interleave(vector_t<A> a, vector_t<A> b, int first) {
  typename LaneIndex<A>::type from;
  for (int l = 0; l < kLanes<A>; ++l) from[l] = first + l / 2 + l % 2 * kLanes<A>;
#if defined(__clang__)
  vector_t<A> out;
  for (int l = 0; l < kLanes<A>; ++l)
    out[l] = from[l] < kLanes<A> ? a[from[l]] : b[from[l] - kLanes<A>];
  return out;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

// a[0], a[2], ..., b[0], b[2], ...
template <typename A>
static inline vector_t<A> even_lanes(vector_t<A> a, vector_t<A> b) {
#if defined(__clang__)
  vector_t<A> out;
  for (int l = 0; l < kLanes<A>; ++l) {
    out[l] = 2 * l < kLanes<A> ? a[2 * l] : b[2 * l - kLanes<A>];
  }
  return out;
#else
  typename LaneIndex<A>::type from;
  for (int l = 0; l < kLanes<A>; ++l) from[l] = 2 * l;
  return __builtin_shuffle(a, b, from);
#endif
}

// Loads lanes [0, count), count < kLanes, and zeros.
template <typename A>
static inline vector_t<A> load_lanes(const A* in, int64_t count) {
  A lanes[kLanes<A>] = {};
  for (int64_t l = 0; l < count; ++l) lanes[l] = in[l];
  return load_vector(lanes);
}

// Stores lanes [0, count), count <= kLanes: two overlapping runs of a power of two.
template <typename A, int kRun = kLanes<A>>
static inline void store_lanes(A* out, vector_t<A> value, int64_t count) {
  if (count == kRun) {
    __builtin_memcpy(out, &value, kRun * sizeof(A));
  } else if constexpr (kRun > 1) {
    constexpr int kHalf = kRun / 2;
    if (count < kHalf) return store_lanes<A, kHalf>(out, value, count);
    __builtin_memcpy(out, &value, kHalf * sizeof(A));
    typename LaneIndex<A>::type from;
    for (int l = 0; l < kLanes<A>; ++l) from[l] = static_cast<int>(count) - kHalf + l;
    value = permute<A>(value, from);
    __builtin_memcpy(out + count - kHalf, &value, kHalf * sizeof(A));
  }
}

// rows[i][j] -> rows[j][i]: log2(kLanes) times, rows i and i + kLanes / 2 are interleaved.
template <typename A>
static inline void transpose(vector_t<A> (&rows)[kLanes<A>]) {
  constexpr int kHalf = kLanes<A> / 2;
  for (int stage = 1; stage < kLanes<A>; stage *= 2) {
    vector_t<A> out[kLanes<A>];
#pragma GCC unroll 8
    for (int i = 0; i < kHalf; ++i) {
      out[2 * i] = interleave<A>(rows[i], rows[i + kHalf], 0);
      out[2 * i + 1] = interleave<A>(rows[i], rows[i + kHalf], kHalf);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<A>; ++i) rows[i] = out[i];
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
