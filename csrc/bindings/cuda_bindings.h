// fastconv._cuda is a table, like fastconv._core, and takes numbers alone: problems are tuples of
// their sizes, enums are integers, tensors are addresses and strides. So it works with any build of
// _core, and the emulator's module with it.
#pragma once

#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/address.h"
#include "problem/conv_problem.h"
#include "problem/epilogue.h"

namespace fastconv {

// N C H W K R S, stride h w, pad h w, dilation h w, groups
using ConvSizes = std::array<int64_t, 14>;

inline ConvProblem conv_problem(const ConvSizes& s) {
  const ConvProblem problem{s[0], s[1], s[2], s[3],  s[4],  s[5],  s[6],
                            s[7], s[8], s[9], s[10], s[11], s[12], s[13]};
  problem.validate();
  return problem;
}

// An ActivationKind and its parameter.
using ActivationNumbers = std::pair<int, double>;

inline Activation activation_of(const ActivationNumbers& numbers) {
  return {static_cast<ActivationKind>(numbers.first), numbers.second};
}

inline cudaStream_t stream_of(Address stream) { return reinterpret_cast<cudaStream_t>(stream); }

// RuntimeError with CUDA's words.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky must not surface in somebody else's call
  throw std::runtime_error(std::string("fastconv ") + what + ": " + cudaGetErrorString(status));
}
}  // namespace fastconv
