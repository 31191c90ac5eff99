// The table of one instruction set's kernels; compiled once for each.
#include "cpu/kernels/gemm.h"
#include "cpu/runtime/kernels.h"
#include "cpu/vectors/isa.h"

#define FASTCONV_STRING_OF(name) #name
#define FASTCONV_STRING(name) FASTCONV_STRING_OF(name)

namespace fastconv::cpu::FASTCONV_ISA {

#define FASTCONV_DECLARATION(name) void conv2d_##name(ConvOp op, const CpuConvArgs& args);
FASTCONV_CPU_ALGORITHMS(FASTCONV_DECLARATION)
#undef FASTCONV_DECLARATION
#define FASTCONV_DECLARATIONS(name)                  \
  void pool2d_##name##_fwd(const CpuPoolArgs& args); \
  void pool2d_##name##_bwd(const CpuPoolArgs& args);
FASTCONV_POOLS(FASTCONV_DECLARATIONS)
#undef FASTCONV_DECLARATIONS
void epilogue_backward(const EpilogueBackwardArgs& args);
void activation_forward(const ActivationArgs& args);
void elementwise(const ElementwiseArgs& args);

static constexpr CpuKernels make_table() {
  CpuKernels table{};
  table.instruction_set = FASTCONV_STRING(FASTCONV_ISA);
  table.micro_rows = kMicroRows;
  table.micro_bytes = kMicroVectors * kVectorBytes;
#define FASTCONV_ENTRY(name) table.conv2d_##name = conv2d_##name;
  FASTCONV_CPU_ALGORITHMS(FASTCONV_ENTRY)
#undef FASTCONV_ENTRY
  table.epilogue_backward = epilogue_backward;
  table.activation_forward = activation_forward;
  table.elementwise = elementwise;
#define FASTCONV_ENTRIES(name)                     \
  table.pool2d_##name##_fwd = pool2d_##name##_fwd; \
  table.pool2d_##name##_bwd = pool2d_##name##_bwd;
  FASTCONV_POOLS(FASTCONV_ENTRIES)
#undef FASTCONV_ENTRIES
  return table;
}

extern const CpuKernels kernel_table;
constinit const CpuKernels kernel_table = make_table();

}  // namespace fastconv::cpu::FASTCONV_ISA
