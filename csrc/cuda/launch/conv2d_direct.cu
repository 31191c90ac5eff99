#include "cuda/launch/conv2d_direct.h"

namespace fastconv::cuda {

cudaError_t conv2d_direct(const CudaConvArgs& args) {
  if (args.op == ConvOp::wgrad) return conv2d_wgrad_direct(args);
  switch (args.plan.direct) {
    case DirectKernel::wide:
      return conv2d_gather_direct_wide(args);
    case DirectKernel::narrow:
      return conv2d_gather_direct_narrow(args);
    case DirectKernel::stem:
    case DirectKernel::stem_few_filters:
      return conv2d_fprop_stem(args);
  }
  throw std::invalid_argument("unknown DirectKernel " +
                              std::to_string(static_cast<int>(args.plan.direct)));
}

}  // namespace fastconv::cuda
