#include "cuda/launch/conv2d_direct.h"
#include "plan/cuda_direct_tile.h"

namespace fastconv::cuda {

cudaError_t conv2d_direct(const ConvArgs& args) {
  if (args.op == ConvOp::wgrad) return conv2d_wgrad_direct(args);
  switch (static_cast<DirectTileKind>(args.plan.tile)) {
    case DirectTileKind::wide:
      return conv2d_gather_direct_wide(args);
    case DirectTileKind::narrow:
      return conv2d_gather_direct_narrow(args);
    case DirectTileKind::stem:
    case DirectTileKind::stem_few_filters:
      return conv2d_fprop_stem(args);
  }
  throw std::invalid_argument("no direct convolution with tile " + std::to_string(args.plan.tile));
}

}  // namespace fastconv::cuda
