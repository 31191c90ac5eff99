// A call of an operator whose checks, plan, sizes and strides were found when it was first met: it
// needs nothing but addresses to run again.
#pragma once

#include <memory>

#include "problem/tensor.h"

namespace fastconv {

// Where and how a call runs, of what a signature does not say.
struct RunContext {
  int num_threads = 1;     // of a CPU
  int device = 0;          // the number of a GPU
  void* stream = nullptr;  // a GPU's
};

struct PreparedCall {
  virtual ~PreparedCall() = default;
  // operands: the addresses of the call's tensors, in the order of its arguments; results: those of
  // the tensors that are allocated for it. Runs without Python's lock, in several threads at once.
  virtual void run(void* const* operands, void* const* results,
                   const RunContext& context) const = 0;
  // The same call for a result of other strides, with the same bits; null where there is none.
  virtual std::unique_ptr<PreparedCall> with_result_strides(const Strides&) const {
    return nullptr;
  }
};

// The name of the capsules in which fastconv._cuda hands its calls to fastconv._core.
constexpr char kPreparedCallCapsule[] = "fastconv.PreparedCall";

}  // namespace fastconv
