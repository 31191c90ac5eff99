// The epilogue's arithmetic, shared by every CPU convolution: z = conv + bias + residual,
// y = activation(z), and the derivative of the activation.
#pragma once

#include <math.h>

#include "cpu/epilogue_args.h"
#include "cpu/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

static inline double sigmoid(double z) { return 1.0 / (1.0 + exp(-z)); }
static inline float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }
static inline double normal_cdf(double z) { return 0.5 * erfc(-z * 0.70710678118654752440); }
static inline float normal_cdf(float z) { return 0.5f * erfcf(-z * 0.70710678118654752440f); }
static inline double normal_pdf(double z) { return 0.39894228040143267794 * exp(-0.5 * z * z); }
static inline float normal_pdf(float z) { return 0.39894228040143267794f * expf(-0.5f * z * z); }

// Comparisons are written so that a NaN passes through, as in torch.
template <typename A>
static inline A activate(A z, Activation activation) {
  switch (activation) {
    case Activation::none:
      return z;
    case Activation::relu:
      return z < A(0) ? A(0) : z;
    case Activation::relu6:
      return z < A(0) ? A(0) : (z > A(6) ? A(6) : z);
    case Activation::silu:
      return z * sigmoid(z);
    case Activation::gelu:
      return z * normal_cdf(z);
    case Activation::hardswish:
      return z <= A(-3) ? A(0) : (z >= A(3) ? z : z * (z + A(3)) * (A(1) / A(6)));
  }
  __builtin_unreachable();
}

// d activation / dz at z. For relu and relu6 the activated value y serves as well as z.
template <typename A>
static inline A activation_slope(A z, Activation activation) {
  switch (activation) {
    case Activation::none:
      return A(1);
    case Activation::relu:
      return z <= A(0) ? A(0) : A(1);
    case Activation::relu6:
      return z <= A(0) || z >= A(6) ? A(0) : A(1);
    case Activation::silu: {
      const A s = sigmoid(z);
      return s * (A(1) + z * (A(1) - s));
    }
    case Activation::gelu:
      return normal_cdf(z) + z * normal_pdf(z);
    case Activation::hardswish:
      return z <= A(-3) ? A(0) : (z >= A(3) ? A(1) : z * (A(1) / A(3)) + A(0.5));
  }
  __builtin_unreachable();
}

// Stores n results z[0..n) of one sample to y, going along pixels of one filter (bias_step 0) or
// along filters of one pixel (bias_step 1). Positions are given by the tensors' own strides.
template <typename T>
static inline void store_epilogue(accumulator_t<T>* __restrict z, int64_t n,
                                  const Epilogue& epilogue, const T* bias, int64_t bias_step,
                                  const T* residual, int64_t residual_step, T* __restrict y,
                                  int64_t y_step) {
  using A = accumulator_t<T>;
  if (bias != nullptr) {
    if (bias_step == 0) {
      const A b = to_accumulator(*bias);
      for (int64_t i = 0; i < n; ++i) z[i] += b;
    } else {
      for (int64_t i = 0; i < n; ++i) z[i] += to_accumulator(bias[i]);
    }
  }
  if (residual != nullptr) {
    for (int64_t i = 0; i < n; ++i) z[i] += to_accumulator(residual[i * residual_step]);
  }
  // The switch stands outside the loop so that the cheap activations vectorise.
  switch (epilogue.activation) {
    case Activation::none:
      break;
    case Activation::relu:
      for (int64_t i = 0; i < n; ++i) z[i] = activate(z[i], Activation::relu);
      break;
    case Activation::relu6:
      for (int64_t i = 0; i < n; ++i) z[i] = activate(z[i], Activation::relu6);
      break;
    default:
      for (int64_t i = 0; i < n; ++i) z[i] = activate(z[i], epilogue.activation);
  }
  if (y_step == 1) {
    for (int64_t i = 0; i < n; ++i) y[i] = from_accumulator<T>(z[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i * y_step] = from_accumulator<T>(z[i]);
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
