// What may follow a convolution, or a transposed one, before its result is stored:
//   y = activation(conv(x, w) + bias[k] + residual)
#pragma once

#include "problem/tensor.h"

// The activations, which are declared here alone: the enum, its names in Python and their number
// follow from this list.
#define FASTCONV_ACTIVATIONS(X) \
  X(none)                       \
  X(relu)                       \
  X(relu6)                      \
  X(silu)                       \
  X(gelu)                       \
  X(hardswish)                  \
  X(leaky_relu)                 \
  X(elu)                        \
  X(mish)                       \
  X(sigmoid)                    \
  X(tanh)                       \
  X(hardsigmoid)

namespace fastconv {

enum class ActivationKind {
#define FASTCONV_ENUMERATOR(name) name,
  FASTCONV_ACTIVATIONS(FASTCONV_ENUMERATOR)
#undef FASTCONV_ENUMERATOR
};

struct Activation {
  ActivationKind kind = ActivationKind::none;
  double parameter = 0;  // the negative slope of leaky_relu, alpha of elu; others have none
};

struct Epilogue {
  const void* bias = nullptr;  // contiguous, one for each channel of y, of its dtype; or null
  TensorView residual;         // shaped like y, or null
  Activation activation;
};

}  // namespace fastconv
