// The activations and their gradients, shared by the CPU and the CUDA kernels.
#pragma once

#include <math.h>

#include "problem/device.h"
#include "problem/epilogue.h"

namespace fastconv {

FASTCONV_LOCAL double sigmoid(double z) { return 1.0 / (1.0 + exp(-z)); }
FASTCONV_LOCAL float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }
FASTCONV_LOCAL double normal_cdf(double z) { return 0.5 * erfc(-z * 0.70710678118654752440); }
FASTCONV_LOCAL float normal_cdf(float z) { return 0.5f * erfcf(-z * 0.70710678118654752440f); }
FASTCONV_LOCAL double normal_pdf(double z) { return 0.39894228040143267794 * exp(-0.5 * z * z); }
FASTCONV_LOCAL float normal_pdf(float z) { return 0.39894228040143267794f * expf(-0.5f * z * z); }

// Comparisons are written so that a NaN passes through, as in torch.
template <typename A>
FASTCONV_LOCAL A activate(A z, Activation activation) {
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
      // z times a zero where z <= -3: -0, and NaN where z is -inf.
      return z >= A(3) ? z : z * (z > A(-3) ? z + A(3) : A(0)) * (A(1) / A(6));
  }
  __builtin_unreachable();
}

// dy * d activation / dz at z. Flat pieces give 0 whatever dy is, and a NaN counts as a piece of
// slope 1, as in torch. For relu and relu6 the activated value y serves as well as z.
template <typename A>
FASTCONV_LOCAL A activation_gradient(A dy, A z, Activation activation) {
  switch (activation) {
    case Activation::none:
      return dy;
    case Activation::relu:
      return z <= A(0) ? A(0) : dy;
    case Activation::relu6:
      return z <= A(0) || z >= A(6) ? A(0) : dy;
    case Activation::silu: {
      const A s = sigmoid(z);
      return dy * (s * (A(1) + z * (A(1) - s)));
    }
    case Activation::gelu:
      return dy * (normal_cdf(z) + z * normal_pdf(z));
    case Activation::hardswish:
      return z <= A(-3) ? A(0) : (z < A(3) ? dy * (z * (A(1) / A(3)) + A(0.5)) : dy);
  }
  __builtin_unreachable();
}

}  // namespace fastconv
