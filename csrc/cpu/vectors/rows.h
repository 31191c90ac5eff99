// Operations on rows of a tensor, the inner loops of the direct, depthwise and pooling kernels. A
// row is n elements, a fixed step apart. Simple loops, written for the compiler to vectorise.
#pragma once

#include <type_traits>

#include "cpu/vectors/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

// out[i] = in[i * step], converted to the accumulator type.
template <typename T>
static inline void load_row(accumulator_t<T>* __restrict out, const T* __restrict in, int64_t step,
                            int64_t n) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] = to_accumulator(in[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = to_accumulator(in[i * step]);
  }
}

// out[i * step] = in[i], converted from the accumulator type.
template <typename T>
static inline void store_row(T* __restrict out, int64_t step, const accumulator_t<T>* __restrict in,
                             int64_t n) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] = from_accumulator<T>(in[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i * step] = from_accumulator<T>(in[i]);
  }
}

// A row of accumulator type with unit step: the tensor's own memory where it is that already, else
// a converted copy in buffer.
template <typename T>
static inline const accumulator_t<T>* unit_row(accumulator_t<T>* buffer, const T* in, int64_t step,
                                               int64_t n) {
  if constexpr (std::is_same_v<T, accumulator_t<T>>) {
    if (step == 1) return in;
  }
  load_row(buffer, in, step, n);
  return buffer;
}

// out[i] += a * in[i * step]
template <typename A>
static inline void axpy_gather(A* __restrict out, A a, const A* __restrict in, int64_t step,
                               int64_t n) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] += a * in[i];
  } else if (step == 2) {
    for (int64_t i = 0; i < n; ++i) out[i] += a * in[2 * i];
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] += a * in[i * step];
  }
}

// out[i * step] += a * in[i]
template <typename A>
static inline void axpy_scatter(A* __restrict out, int64_t step, A a, const A* __restrict in,
                                int64_t n) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] += a * in[i];
  } else {
    for (int64_t i = 0; i < n; ++i) out[i * step] += a * in[i];
  }
}

// sum of a[i] * b[i * step], in kVectorBytes of partial sums: a fixed order, and vectorisable.
template <typename A>
static inline A dot(const A* __restrict a, const A* __restrict b, int64_t step, int64_t n) {
  constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));
  A lanes[kLanes] = {};
  int64_t i = 0;
  if (step == 1) {
    for (; i + kLanes <= n; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) lanes[l] += a[i + l] * b[i + l];
    }
  } else {
    for (; i + kLanes <= n; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) lanes[l] += a[i + l] * b[(i + l) * step];
    }
  }
  A sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i * step];
  for (int l = 0; l < kLanes; ++l) sum += lanes[l];
  return sum;
}

// Whether no element is infinite or NaN.
template <typename A>
static inline bool all_finite(const A* in, int64_t n) {
  using Bits = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
  const A infinity = static_cast<A>(__builtin_inf());
  Bits largest = 0, infinite;
  __builtin_memcpy(&infinite, &infinity, sizeof infinite);
  for (int64_t i = 0; i < n; ++i) {
    Bits bits;
    __builtin_memcpy(&bits, in + i, sizeof bits);
    bits &= ~(Bits{1} << (8 * sizeof(A) - 1));  // magnitudes compare as integers do
    largest = bits > largest ? bits : largest;
  }
  return largest < infinite;
}

// Positions begin, begin + 1, ..., end - 1 of an axis.
struct Range {
  int64_t begin, end;
};

// The output positions in [begin, end) whose tap lies inside of the source:
// 0 <= position * stride + offset < source_size.
static inline Range valid_range(int64_t offset, int64_t stride, int64_t source_size, int64_t begin,
                                int64_t end) {
  const int64_t first = min64(end, max64(begin, div_up(-offset, stride)));
  const int64_t last = min64(end, div_up(source_size - offset, stride));
  return {first, max64(first, last)};
}

}  // namespace fastconv::cpu::FASTCONV_ISA
