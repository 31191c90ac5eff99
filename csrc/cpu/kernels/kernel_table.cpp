// The table of one instruction set's kernels; compiled once for each.
#include "cpu/kernels/gemm.h"
#include "cpu/runtime/kernels.h"
#include "cpu/vectors/isa.h"

#define FASTCONV_STRING_OF(name) #name
#define FASTCONV_STRING(name) FASTCONV_STRING_OF(name)

namespace fastconv::cpu::FASTCONV_ISA {

void conv2d_direct(ConvOp op, const CpuConvArgs& args);
void conv2d_implicit_gemm(ConvOp op, const CpuConvArgs& args);
void conv2d_depthwise(ConvOp op, const CpuConvArgs& args);
void conv2d_planes(ConvOp op, const CpuConvArgs& args);
void epilogue_backward(const EpilogueBackwardArgs& args);
void activation_forward(const ActivationArgs& args);
void elementwise(const ElementwiseArgs& args);
void pool2d_max_fwd(const CpuPoolArgs& args);
void pool2d_max_bwd(const CpuPoolArgs& args);
void pool2d_avg_fwd(const CpuPoolArgs& args);
void pool2d_avg_bwd(const CpuPoolArgs& args);

extern const CpuKernels kernel_table;
const CpuKernels kernel_table = {
    .instruction_set = FASTCONV_STRING(FASTCONV_ISA),
    .micro_rows = kMicroRows,
    .micro_bytes = kMicroVectors * kVectorBytes,
    .conv2d_direct = conv2d_direct,
    .conv2d_implicit_gemm = conv2d_implicit_gemm,
    .conv2d_depthwise = conv2d_depthwise,
    .conv2d_planes = conv2d_planes,
    .epilogue_backward = epilogue_backward,
    .activation_forward = activation_forward,
    .elementwise = elementwise,
    .pool2d_max_fwd = pool2d_max_fwd,
    .pool2d_max_bwd = pool2d_max_bwd,
    .pool2d_avg_fwd = pool2d_avg_fwd,
    .pool2d_avg_bwd = pool2d_avg_bwd,
};

}  // namespace fastconv::cpu::FASTCONV_ISA
