// The epilogue on the device: y = activation(sum + bias[k] + residual), for one element.
#pragma once

#include "cuda/device/numeric.cuh"
#include "problem/activation.h"

namespace fastconv::cuda {

// z = sum + bias[k] + residual at (n, k, p, q); y = activation(z). Bias and residual may be absent.
template <typename T>
__device__ __forceinline__ accumulator_t<T> apply_epilogue(accumulator_t<T> z,
                                                           const Epilogue& epilogue, int64_t n,
                                                           int64_t k, int64_t p, int64_t q) {
  if (epilogue.bias != nullptr) z += to_accumulator(static_cast<const T*>(epilogue.bias)[k]);
  if (epilogue.residual.data != nullptr) {
    z += to_accumulator(*epilogue.residual.at<T>(n, k, p, q));
  }
  return activate(z, epilogue.activation);
}

// Calls visit(function), where function(z) is the activation with its kind as a constant, so that
// the loops of visit hold no switch.
template <typename Visitor>
__device__ __forceinline__ void with_activation(const Activation& activation,
                                                const Visitor& visit) {
  switch (activation.kind) {
#define FASTCONV_CASE(name)                                                       \
  case ActivationKind::name:                                                      \
    return visit([&](auto z) {                                                    \
      return activate(z, Activation{ActivationKind::name, activation.parameter}); \
    });
    FASTCONV_ACTIVATIONS(FASTCONV_CASE)
#undef FASTCONV_CASE
  }
}

}  // namespace fastconv::cuda
