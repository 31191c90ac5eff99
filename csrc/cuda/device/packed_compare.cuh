// Two 16-bit numbers in one register, compared and selected at once. In a mask the half of a number
// is 0xffff where the comparison holds for it, else 0.
#pragma once

#include <cstdint>

#include "cuda/device/numeric.cuh"

namespace fastconv::cuda {

template <typename T>
struct Packed16;
template <>
struct Packed16<__half> {
  using pair = __half2;
};
template <>
struct Packed16<__nv_bfloat16> {
  using pair = __nv_bfloat162;
};

#ifdef FASTCONV_EMULATOR

template <typename T, typename Predicate>
inline uint32_t packed_mask(uint32_t a, uint32_t b, Predicate holds) {
  uint32_t mask = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    T x[2];
    const uint16_t bits[2] = {static_cast<uint16_t>(a >> shift), static_cast<uint16_t>(b >> shift)};
    __builtin_memcpy(x, bits, sizeof(x));
    if (holds(to_accumulator(x[0]), to_accumulator(x[1]))) mask |= 0xffffu << shift;
  }
  return mask;
}

template <typename T>
inline uint32_t packed_greater(uint32_t a, uint32_t b) {
  return packed_mask<T>(a, b, [](float x, float y) { return x > y; });
}

template <typename T>
inline uint32_t packed_is_nan(uint32_t a) {
  return packed_mask<T>(a, a, [](float x, float) { return x != x; });
}

#else

// a > b, false where either is NaN.
template <typename T>
__device__ __forceinline__ uint32_t packed_greater(uint32_t a, uint32_t b) {
  using Pair = typename Packed16<T>::pair;
  return __hgt2_mask(*reinterpret_cast<Pair*>(&a), *reinterpret_cast<Pair*>(&b));
}

template <typename T>
__device__ __forceinline__ uint32_t packed_is_nan(uint32_t a) {
  using Pair = typename Packed16<T>::pair;
  return __hneu2_mask(*reinterpret_cast<Pair*>(&a), *reinterpret_cast<Pair*>(&a));
}

#endif

// Bit by bit: a where the mask is set, else b.
__device__ __forceinline__ uint32_t packed_select(uint32_t mask, uint32_t a, uint32_t b) {
  return (mask & a) | (~mask & b);
}

}  // namespace fastconv::cuda
