// One call of the elementwise kernel: y = a + b, a * b or a, for tensors of any strides; a stride
// of 0 repeats an operand along an axis.
#pragma once

#include <cstdint>

#include "problem/tensor.h"

namespace fastconv {

enum class ElementwiseOp { add, multiply, copy };

struct ElementwiseAxis {
  int64_t size = 1;
  int64_t y = 0, a = 0, b = 0;  // strides
};

struct ElementwiseArgs {
  ElementwiseOp op = ElementwiseOp::add;
  DType dtype = DType::float32;
  ElementwiseAxis axes[4];  // the last is the innermost
  void* y = nullptr;
  const void *a = nullptr, *b = nullptr;  // b is not read by copy
  int num_threads = 1;
};

// Puts the axes into y's order, from the largest stride to the smallest, and joins those that all
// operands walk through as if they were one.
void join_axes(ElementwiseAxis (&axes)[4]);

}  // namespace fastconv
