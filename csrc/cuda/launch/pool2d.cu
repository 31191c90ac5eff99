#include "cuda/launch/pool2d.h"

namespace fastconv::cuda {

cudaError_t pool2d(const CudaPoolArgs& args) {
  const PoolOp op = args.call.op;
  switch (args.plan.algorithm) {
    case CudaPoolAlgorithm::reduce:
      if (op == PoolOp::max_fwd) return pool2d_max_fwd(args);
      if (op == PoolOp::avg_fwd) return pool2d_avg_fwd(args);
      break;
    case CudaPoolAlgorithm::gather:
      if (op == PoolOp::max_bwd) return pool2d_max_bwd(args);
      if (op == PoolOp::avg_bwd) return pool2d_avg_bwd(args);
      break;
    case CudaPoolAlgorithm::strip:
      return pool2d_max_fwd_strip(args);
    case CudaPoolAlgorithm::tile:
      return pool2d_max_bwd_tile(args);
    case CudaPoolAlgorithm::global:
      return pool2d_avg_bwd_global(args);
  }
  return cudaErrorInvalidValue;
}

}  // namespace fastconv::cuda
