// Picks the instruction set once, when the first kernel is asked for.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace fastconv {

namespace cpu {
namespace baseline {
extern const CpuKernels kernel_table;
}
#ifdef FASTCONV_X86
namespace avx2 {
extern const CpuKernels kernel_table;
}
namespace avx512 {
extern const CpuKernels kernel_table;
}
#endif
}  // namespace cpu

namespace {

const CpuKernels& choose() {
  const char* wanted = std::getenv("FASTCONV_ISA");
  const std::string limit = wanted == nullptr ? "" : wanted;
  if (limit == "baseline") return cpu::baseline::kernel_table;
#ifdef FASTCONV_X86
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (limit != "" && limit != "avx2" && limit != "avx512") {
    throw std::invalid_argument("FASTCONV_ISA must be baseline, avx2 or avx512, got '" + limit +
                                "'");
  }
  if (has_avx512 && limit != "avx2") return cpu::avx512::kernel_table;
  if (has_avx2) return cpu::avx2::kernel_table;
#else
  if (limit != "") throw std::invalid_argument("FASTCONV_ISA must be baseline, got '" + limit + "'");
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
