// One call of the elementwise kernel: y = a + b, a * b or a, for tensors of any strides; a stride
// of 0 repeats an operand along an axis.
#pragma once

#include <array>
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
  std::array<ElementwiseAxis, 4> axes;  // the last is the innermost
  void* y = nullptr;
  const void *a = nullptr, *b = nullptr;  // b is not read by copy
  int num_threads = 1;
};

// The axes in y's order, from the largest stride to the smallest, and those joined that all
// operands walk through as if they were one.
std::array<ElementwiseAxis, 4> joined_axes(std::array<ElementwiseAxis, 4> axes);

}  // namespace fastconv
