// The oracle's activations and their gradients: the textbook's formulas in double, written apart
// from those of the kernels (problem/activation.h), so that a comparison compares two writings.
#pragma once

#include <cmath>

#include "problem/epilogue.h"

namespace fastconv::reference {

inline double sigmoid(double z) {
  const double e = std::exp(-std::fabs(z));  // cannot overflow
  return (z < 0 ? e : 1) / (1 + e);
}
inline double tanh_softplus(double z) { return std::tanh(std::log1p(std::exp(z))); }

// A NaN stays one.
inline double activate(double z, Activation activation) {
  const double parameter = activation.parameter;
  switch (activation.kind) {
    case ActivationKind::none:
      return z;
    case ActivationKind::relu:
      return z < 0 ? 0 : z;
    case ActivationKind::relu6:
      return z < 0 ? 0 : z > 6 ? 6 : z;
    case ActivationKind::silu:
      return z * sigmoid(z);
    case ActivationKind::gelu:
      return z / 2 * std::erfc(-z / std::sqrt(2.0));
    case ActivationKind::hardswish:
      return z * (activate(z + 3, {ActivationKind::relu6}) / 6);
    case ActivationKind::leaky_relu:
      return z > 0 ? z : parameter * z;
    case ActivationKind::elu:
      return z < 0 ? parameter * std::expm1(z) : z;
    case ActivationKind::mish:
      return z * tanh_softplus(z);
    case ActivationKind::sigmoid:
      return sigmoid(z);
    case ActivationKind::tanh:
      return std::tanh(z);
    case ActivationKind::hardsigmoid:
      return activate(z + 3, {ActivationKind::relu6}) / 6;
  }
  __builtin_unreachable();
}

// dy * d activation / dz. `saved` is z, or where the slope can be told from it y = activation(z):
// for relu, relu6 and leaky_relu with a slope >= 0. A flat piece's is 0 whatever dy is.
inline double activation_gradient(double dy, double saved, Activation activation) {
  const double z = saved, parameter = activation.parameter;
  switch (activation.kind) {
    case ActivationKind::none:
      return dy;
    case ActivationKind::relu:
      return saved <= 0 ? 0 : dy;
    case ActivationKind::relu6:
      return saved <= 0 || saved >= 6 ? 0 : dy;
    case ActivationKind::silu:
      return dy * sigmoid(z) * (1 + z * (1 - sigmoid(z)));
    case ActivationKind::gelu: {
      const double density = std::exp(-z * z / 2) / std::sqrt(2 * M_PI);
      return dy * (std::erfc(-z / std::sqrt(2.0)) / 2 + z * density);
    }
    case ActivationKind::hardswish:
      return z <= -3 ? 0 : z < 3 ? dy * (2 * z + 3) / 6 : dy;
    case ActivationKind::leaky_relu:
      return saved > 0 ? dy : dy * parameter;
    case ActivationKind::elu:
      return z <= 0 ? dy * parameter * std::exp(z) : dy;
    case ActivationKind::mish: {
      const double t = tanh_softplus(z);
      return dy * (t + z * (1 - t * t) * sigmoid(z));
    }
    case ActivationKind::sigmoid:
      return dy * sigmoid(z) * (1 - sigmoid(z));
    case ActivationKind::tanh:
      return dy / (std::cosh(z) * std::cosh(z));
    case ActivationKind::hardsigmoid:
      return z > -3 && z < 3 ? dy / 6 : 0;
  }
  __builtin_unreachable();
}

}  // namespace fastconv::reference
