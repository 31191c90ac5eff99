// Picks the instruction set once, when the first kernel is asked for.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/runtime/kernels.h"

namespace fastconv {

namespace cpu {
namespace baseline {
extern const CpuKernels kernel_table;
}
namespace avx2 {
extern const CpuKernels kernel_table;
}
namespace avx512 {
extern const CpuKernels kernel_table;
}
}  // namespace cpu

namespace {

// FASTCONV_HAS_AVX2 and FASTCONV_HAS_AVX512 come from setup.py: what this build contains.
const CpuKernels& choose() {
  const char* wanted = std::getenv("FASTCONV_ISA");
  const std::string limit = wanted == nullptr || *wanted == '\0' ? "avx512" : wanted;
  if (limit != "baseline" && limit != "avx2" && limit != "avx512") {
    throw std::invalid_argument("FASTCONV_ISA must be baseline, avx2 or avx512, got '" + limit +
                                "'");
  }
#ifdef FASTCONV_HAS_AVX512
  if (limit == "avx512" && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return cpu::avx512::kernel_table;
  }
#endif
#ifdef FASTCONV_HAS_AVX2
  if (limit != "baseline" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return cpu::avx2::kernel_table;
  }
#endif
  return cpu::baseline::kernel_table;
}

}  // namespace

const CpuKernels& cpu_kernels() {
  static const CpuKernels& kernels = choose();
  return kernels;
}

void throw_unknown_dtype(DType dtype) {
  throw std::invalid_argument("no kernel for DType " + std::to_string(static_cast<int>(dtype)));
}

}  // namespace fastconv
