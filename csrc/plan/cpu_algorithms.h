// The CPU's algorithms for convolutions, declared here alone.
#pragma once

// All but the reference. The enum, the kernels' table, their calls and their names in Python follow
// from this list: the kernel is conv2d_<name>, the backend "cpu:<name>".
#define FASTCONV_CPU_ALGORITHMS(X) \
  X(direct)                        \
  X(implicit_gemm)                 \
  X(depthwise)                     \
  X(planes)

namespace fastconv {

enum class CpuAlgorithm {
  reference,
#define FASTCONV_ENUMERATOR(name) name,
  FASTCONV_CPU_ALGORITHMS(FASTCONV_ENUMERATOR)
#undef FASTCONV_ENUMERATOR
};

}  // namespace fastconv
