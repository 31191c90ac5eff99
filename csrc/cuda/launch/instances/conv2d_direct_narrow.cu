// DirectKernel::narrow for fprop and dgrad: a large template, compiled apart.
#include "cuda/launch/conv2d_direct_gather.h"

namespace fastconv::cuda {

cudaError_t conv2d_gather_direct_narrow(const CudaConvArgs& args) {
  return dispatch_dtype(args.dtype, [&](auto tag) {
    return launch_gather<DirectTile<typename decltype(tag)::type, 128, 16, 4>>(args);
  });
}

}  // namespace fastconv::cuda
