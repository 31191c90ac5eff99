// The table of CPU kernels, of which each instruction set has its own, the choice among these, and
// the reference.
#pragma once

#include "cpu/runtime/conv2d_args.h"
#include "cpu/runtime/elementwise_args.h"
#include "cpu/runtime/pool2d_args.h"
#include "plan/cpu_algorithms.h"
#include "problem/epilogue.h"
#include "problem/pool_problem.h"

namespace fastconv {

// dz = dy * activation'(saved), db[k] = sum of dz over n, p, q; both optional.
// `saved` is the activated output for the activations whose slope it tells, else the
// pre-activation: problem/activation.h.
struct EpilogueBackwardArgs {
  int64_t N = 0, K = 0, P = 0, Q = 0;
  DType dtype = DType::float32;
  Activation activation;
  TensorView dy, saved, dz;  // saved is null without activation; dz is null where not wanted
  void* db = nullptr;        // K contiguous elements, or null
  int num_threads = 1;
};

// y = activation(z)
struct ActivationArgs {
  int64_t N = 0, K = 0, P = 0, Q = 0;
  DType dtype = DType::float32;
  Activation activation;
  TensorView z, y;
  int num_threads = 1;
};

// One instruction set's kernels: cpu/kernels/kernel_table.cpp fills it in.
struct CpuKernels {
  const char* instruction_set;
  int micro_rows, micro_bytes;  // of the sums that implicit GEMM keeps in registers: rows, a row
#define FASTCONV_KERNEL(name) void (*conv2d_##name)(ConvOp, const CpuConvArgs&);
  FASTCONV_CPU_ALGORITHMS(FASTCONV_KERNEL)
#undef FASTCONV_KERNEL
  void (*epilogue_backward)(const EpilogueBackwardArgs&);
  void (*activation_forward)(const ActivationArgs&);
  void (*elementwise)(const ElementwiseArgs&);
#define FASTCONV_KERNELS(name)                     \
  void (*pool2d_##name##_fwd)(const CpuPoolArgs&); \
  void (*pool2d_##name##_bwd)(const CpuPoolArgs&);
  FASTCONV_POOLS(FASTCONV_KERNELS)
#undef FASTCONV_KERNELS
};

// The kernels of the best instruction set that this processor and FASTCONV_ISA allow.
const CpuKernels& cpu_kernels();

// The oracle: plain loops, sums in double. One version, for every processor.
void conv2d_reference(ConvOp op, const CpuConvArgs& args);
void epilogue_backward_reference(const EpilogueBackwardArgs& args);
void activation_forward_reference(const ActivationArgs& args);
void pool2d_reference(PoolOp op, const PoolProblem& problem, const CpuPoolArgs& args,
                      bool count_include_pad);
void pool2d_reference(PoolOp op, const AdaptivePoolProblem& problem, const CpuPoolArgs& args,
                      bool count_include_pad);

}  // namespace fastconv
