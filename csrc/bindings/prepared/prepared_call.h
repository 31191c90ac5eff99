// A call of an operator whose checks, plan, sizes and strides were found when it was first met: it
// needs nothing but addresses to run again.
#pragma once

namespace fastconv {

struct PreparedCall {
  virtual ~PreparedCall() = default;
  // operands: the addresses of the call's tensors, in the order of its arguments; results: those of
  // the tensors that are allocated for it. Runs without Python's lock, in several threads at once.
  virtual void run(void* const* operands, void* const* results, int num_threads) const = 0;
};

}  // namespace fastconv
