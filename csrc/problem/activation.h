// The activations and their gradients for one element, in the CUDA kernels. The CPU's are in
// cpu/vectors/activation_vectors.h.
#pragma once

#include <math.h>

#include "problem/device.h"
#include "problem/epilogue.h"

namespace fastconv {

// What C calls exp and expf, for a type that is a template's argument.
FASTCONV_LOCAL double exponential(double z) { return exp(z); }
FASTCONV_LOCAL float exponential(float z) { return expf(z); }
FASTCONV_CALLED double exponential_minus_1(double z) { return expm1(z); }
FASTCONV_CALLED float exponential_minus_1(float z) { return expm1f(z); }
FASTCONV_CALLED double hyperbolic_tangent(double z) { return tanh(z); }
FASTCONV_CALLED float hyperbolic_tangent(float z) { return tanhf(z); }
FASTCONV_CALLED double normal_cdf(double z) { return 0.5 * erfc(-z * 0.70710678118654752440); }
FASTCONV_CALLED float normal_cdf(float z) { return 0.5f * erfcf(-z * 0.70710678118654752440f); }

template <typename A>
FASTCONV_LOCAL A normal_pdf(A z) {
  return A(0.39894228040143267794) * exponential(A(-0.5) * z * z);
}

template <typename A>
FASTCONV_LOCAL A sigmoid(A z) {
  return A(1) / (A(1) + exponential(-z));
}

// tanh(log(1 + exp(z))) = n / (n + 2) with n = exp(z) (exp(z) + 2). From z = 20 on it is 1 in both
// types, and n is kept finite.
template <typename A>
FASTCONV_CALLED A tanh_of_softplus(A z) {
  const A e = exponential(z > A(20) ? A(20) : z), n = e * (e + A(2));
  return n / (n + A(2));
}

// Comparisons are written so that a NaN passes through, as in torch.
template <typename A>
FASTCONV_LOCAL A activate(A z, Activation activation) {
  switch (activation.kind) {
    case ActivationKind::none:
      return z;
    case ActivationKind::relu:
      return z < A(0) ? A(0) : z;
    case ActivationKind::relu6:
      return z < A(0) ? A(0) : (z > A(6) ? A(6) : z);
    case ActivationKind::silu:
      return z * sigmoid(z);
    case ActivationKind::gelu:
      return z * normal_cdf(z);
    case ActivationKind::hardswish:
      // z times a zero where z <= -3: -0, and NaN where z is -inf.
      return z >= A(3) ? z : z * (z > A(-3) ? z + A(3) : A(0)) * (A(1) / A(6));
    case ActivationKind::leaky_relu:
      return z > A(0) ? z : z * A(activation.parameter);
    case ActivationKind::elu:
      return z < A(0) ? A(activation.parameter) * exponential_minus_1(z) : z;
    case ActivationKind::mish:
      return z * tanh_of_softplus(z);
    case ActivationKind::sigmoid:
      return sigmoid(z);
    case ActivationKind::tanh:
      return hyperbolic_tangent(z);
    case ActivationKind::hardsigmoid:
      return z <= A(-3) ? A(0) : (z >= A(3) ? A(1) : (z + A(3)) * (A(1) / A(6)));
  }
  __builtin_unreachable();
}

// dy * d activation / dz at z. Flat pieces give 0 whatever dy is, and a NaN counts as a piece of
// the slope that it has in torch. For relu, relu6 and leaky_relu with a slope >= 0 the activated
// value y serves as well as z.
template <typename A>
FASTCONV_LOCAL A activation_gradient(A dy, A z, Activation activation) {
  switch (activation.kind) {
    case ActivationKind::none:
      return dy;
    case ActivationKind::relu:
      return z <= A(0) ? A(0) : dy;
    case ActivationKind::relu6:
      return z <= A(0) || z >= A(6) ? A(0) : dy;
    case ActivationKind::silu: {
      const A s = sigmoid(z);
      return dy * (s * (A(1) + z * (A(1) - s)));
    }
    case ActivationKind::gelu:
      return dy * (normal_cdf(z) + z * normal_pdf(z));
    case ActivationKind::hardswish:
      return z <= A(-3) ? A(0) : (z < A(3) ? dy * (z * (A(1) / A(3)) + A(0.5)) : dy);
    case ActivationKind::leaky_relu:
      return z > A(0) ? dy : dy * A(activation.parameter);
    case ActivationKind::elu:
      return z <= A(0) ? dy * (A(activation.parameter) * exponential(z)) : dy;
    case ActivationKind::mish: {
      const A t = tanh_of_softplus(z);
      return dy * (t + z * sigmoid(z) * (A(1) - t * t));
    }
    case ActivationKind::sigmoid: {
      const A s = sigmoid(z);
      return dy * (s * (A(1) - s));
    }
    case ActivationKind::tanh: {
      // 1 - tanh(z)^2 without the difference.
      const A e = exponential(A(2) * (z < A(0) ? z : -z));
      return dy * (A(4) * e / ((A(1) + e) * (A(1) + e)));
    }
    case ActivationKind::hardsigmoid:
      return z > A(-3) && z < A(3) ? dy * (A(1) / A(6)) : A(0);
  }
  __builtin_unreachable();
}

}  // namespace fastconv
