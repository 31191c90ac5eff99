// Every kernel file is compiled once for each instruction set (setup.py), into a namespace named
// after it: FASTCONV_ISA is baseline, avx2 or avx512. dispatch.cpp picks one when a kernel is first
// asked for.
//
// Hazard: code in these files must not instantiate templates or inline functions of the standard
// library or of headers outside the ISA namespace that the linker could merge across instruction
// sets; it might keep the AVX-512 copy for a machine without it.
// tests/installation/test_packaging.py looks.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/runtime/parallel.h"
#include "problem/math.h"
#include "problem/tensor.h"

#ifndef FASTCONV_ISA
#error "kernel files are compiled with -DFASTCONV_ISA=baseline, avx2 or avx512"
#endif

namespace fastconv {
[[noreturn]] void throw_unknown_dtype(DType dtype);  // dispatch.cpp
}

namespace fastconv::cpu::FASTCONV_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// parallel_for(tasks, threads, [&](int64_t task) { ... }): see run_tasks.
template <typename Body>
static void parallel_for(int64_t tasks, int num_threads, const Body& body) {
  run_tasks(
      tasks, num_threads,
      [](void* context, int64_t task) { (*static_cast<const Body*>(context))(task); },
      const_cast<Body*>(&body));
}

template <int value>
using Constant = std::integral_constant<int, value>;

// Cuts [0, count) into runs: body(first, constant length), as many of the first length as fit, then
// of the next. The last length is 1.
template <int kLength, int... kShorter, typename Body>
static inline void for_each_run(int64_t count, const Body& body, int64_t first = 0) {
  for (; first + kLength <= count; first += kLength) body(first, Constant<kLength>{});
  if constexpr (sizeof...(kShorter) > 0) for_each_run<kShorter...>(count, body, first);
}

// ---- element types ---------------------------------------------------------------------------

struct float16_t {
  uint16_t bits;
};
struct bfloat16_t {
  uint16_t bits;
};

// The type sums are kept in: float32 for the 16-bit types.
template <typename T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <typename T>
using accumulator_t = typename AccumulatorOf<T>::type;

static inline uint32_t float_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}
static inline float bits_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

static inline double to_accumulator(double value) { return value; }
static inline float to_accumulator(float value) { return value; }
static inline float to_accumulator(bfloat16_t value) {
  return bits_float(static_cast<uint32_t>(value.bits) << 16);
}
static inline float to_accumulator(float16_t value) {
  // Exponent and mantissa moved into place; the product by 2^112 rebases the exponent and
  // normalises subnormals; what was infinite or NaN gets the all-ones exponent.
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  const float scaled = bits_float(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0u;
  return bits_float(float_bits(scaled) | special | sign);
}

template <typename T>
T from_accumulator(accumulator_t<T> value);
template <>
inline double from_accumulator<double>(double value) {
  return value;
}
template <>
inline float from_accumulator<float>(float value) {
  return value;
}
template <>
inline bfloat16_t from_accumulator<bfloat16_t>(float value) {
  const uint32_t bits = float_bits(value);
  // To nearest, ties to even.
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>(value == value ? rounded : (bits >> 16) | 0x40u)};
}
template <>
inline float16_t from_accumulator<float16_t>(float value) {
  // Round to nearest, ties to even. Below the normal range the addition of 0.5 aligns the mantissa
  // to float16's subnormal grid, so the float unit does the rounding.
  const uint32_t sign = (float_bits(value) >> 16) & 0x8000u;
  const uint32_t magnitude = float_bits(value) & 0x7fffffffu;
  const uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t half = magnitude < (113u << 23) ? subnormal : normal;
  if (magnitude >= 0x477ff000u) half = 0x7c00u;  // rounds to infinity
  if (magnitude > 0x7f800000u) half = 0x7e00u;   // NaN
  return {static_cast<uint16_t>(half | sign)};
}

// Calls body with a value of the element type, as in dispatch_dtype(t, [&](auto tag) {
// using T = decltype(tag); ... }).
template <typename Body>
static void dispatch_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::float64:
      return body(double{});
    case DType::float32:
      return body(float{});
    case DType::float16:
      return body(float16_t{});
    case DType::bfloat16:
      return body(bfloat16_t{});
  }
  throw_unknown_dtype(dtype);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
