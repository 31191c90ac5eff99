// DirectKernel::wide for fprop and dgrad: a large template, compiled apart.
#include "cuda/launch/conv2d_direct_gather.h"

namespace fastconv::cuda {

cudaError_t conv2d_gather_direct_wide(const CudaConvArgs& args) {
  return dispatch_dtype(args.dtype, [&](auto tag) {
    return launch_gather<WideTile<typename decltype(tag)::type>>(args);
  });
}

}  // namespace fastconv::cuda
