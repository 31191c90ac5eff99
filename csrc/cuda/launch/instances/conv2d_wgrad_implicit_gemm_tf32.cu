#include "cuda/launch/instances/implicit_gemm_instances.h"

namespace fastconv::cuda {

template cudaError_t launch_wgrad_implicit_gemm<CudaMath::tf32>(const CudaConvPlan&, unsigned,
                                                                const WgradGemmParams&,
                                                                cudaStream_t);

}  // namespace fastconv::cuda
