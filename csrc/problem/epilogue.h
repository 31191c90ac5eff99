// What may follow a convolution before its result is stored: bias, residual, activation.
//   y = activation(conv(x, w) + bias[k] + residual)
#pragma once

#include "problem/tensor.h"

namespace fastconv {

enum class Activation { none, relu, relu6, silu, gelu, hardswish };

struct Epilogue {
  const void* bias = nullptr;  // K contiguous elements of the tensors' dtype, or null
  TensorView residual;         // shaped like y, or null
  Activation activation = Activation::none;
};

}  // namespace fastconv
