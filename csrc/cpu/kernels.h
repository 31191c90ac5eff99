// The CPU kernels of one instruction set, and the choice among instruction sets.
#pragma once

#include "cpu/conv2d_args.h"
#include "cpu/epilogue_args.h"

namespace fastconv {

// dz = dy * activation'(saved), db[k] = sum of dz over n, p, q; both optional.
// `saved` is the activated output for relu and relu6, the pre-activation for the others.
struct EpilogueBackwardArgs {
  int64_t N = 0, K = 0, P = 0, Q = 0;
  DType dtype = DType::float32;
  Activation activation = Activation::none;
  TensorView dy, saved, dz;  // saved is null without activation; dz is null where not wanted
  void* db = nullptr;        // K contiguous elements, or null
  int num_threads = 1;
};

// y = activation(z)
struct ActivationArgs {
  int64_t N = 0, K = 0, P = 0, Q = 0;
  DType dtype = DType::float32;
  Activation activation = Activation::none;
  TensorView z, y;
  int num_threads = 1;
};

struct CpuKernels {
  const char* instruction_set;
  void (*conv2d_direct)(ConvOp, const ConvArgs&);
  void (*conv2d_im2col)(ConvOp, const ConvArgs&);
  void (*conv2d_depthwise)(ConvOp, const ConvArgs&);
  void (*epilogue_backward)(const EpilogueBackwardArgs&);
  void (*activation_forward)(const ActivationArgs&);
};

// The kernels of the best instruction set that this processor and FASTCONV_ISA allow.
const CpuKernels& cpu_kernels();

// The oracle: plain loops, sums in double. One version, for every processor.
void conv2d_reference(ConvOp op, const ConvArgs& args);

}  // namespace fastconv
