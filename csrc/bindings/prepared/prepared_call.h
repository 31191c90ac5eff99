// A call of an operator whose checks, plan, sizes and strides were found when it was first met: it
// needs nothing but addresses to run again.
#pragma once

#include <memory>

#include "problem/tensor.h"

namespace fastconv {

struct PreparedCall {
  virtual ~PreparedCall() = default;
  // operands: the addresses of the call's tensors, in the order of its arguments; results: those of
  // the tensors that are allocated for it. Runs without Python's lock, in several threads at once.
  virtual void run(void* const* operands, void* const* results, int num_threads) const = 0;
  // The same call for a result of other strides, with the same bits; null where there is none.
  virtual std::unique_ptr<PreparedCall> with_result_strides(const Strides&) const {
    return nullptr;
  }
};

}  // namespace fastconv
