// The kernels of the implicit GEMM by CudaMath, that is by what multiplies. Each file beside this
// one whose name ends in such a mode compiles it, for fprop and dgrad or for wgrad.
#pragma once

#include "cuda/kernels/gemm/conv2d_implicit_gemm.cuh"
#include "cuda/kernels/gemm/conv2d_wgrad_implicit_gemm.cuh"
#include "cuda/launch/conv2d.h"
#include "cuda/launch/launch.h"

namespace fastconv::cuda {

template <CudaMath kMath>
cudaError_t launch_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                 const ImplicitGemmParams& params, cudaStream_t stream);
template <CudaMath kMath>
cudaError_t launch_wgrad_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                       const WgradGemmParams& params, cudaStream_t stream);

// ---- definitions, for the files that instantiate ---------------------------------------------

// Every device of sm_80 and later gives a block this much, so that the plan need not ask whether a
// tile fits.
constexpr size_t kSharedMemoryOfAnyDevice = 99 << 10;

// Starts the kernel of one tile and one way to gather; Params tells fprop and dgrad from wgrad.
template <typename Config, typename Gather>
cudaError_t launch_one(unsigned blocks, const ImplicitGemmParams& params, cudaStream_t stream) {
  using Storage = ImplicitGemmStorage<Config, Gather>;
  static_assert(sizeof(Storage) <= kSharedMemoryOfAnyDevice);
  return launch(conv2d_implicit_gemm<Config, Gather>, dim3(blocks, params.splits), Config::kThreads,
                sizeof(Storage), stream, params);
}

template <typename Config, typename Gather>
cudaError_t launch_one(unsigned blocks, const WgradGemmParams& params, cudaStream_t stream) {
  using Storage = typename Gather::Storage;
  static_assert(sizeof(Storage) <= kSharedMemoryOfAnyDevice);
  return launch(conv2d_wgrad_implicit_gemm<Config, Gather>, dim3(blocks, params.splits),
                Config::kThreads, sizeof(Storage), stream, params);
}

// Starts the plan's kernel, which must be one of kKernels: the plan knows which there are
// (kernels_of).
template <CudaMath kMath, template <typename> class Gather, GemmKernel... kKernels, typename Params>
cudaError_t launch_kernel(GemmKernel kernel, unsigned blocks, const Params& params,
                          cudaStream_t stream) {
  cudaError_t status = cudaErrorInvalidValue;
  const auto launch_if = [&]<GemmKernel kKernel>() {
    using Config = GemmConfig<kMath, kKernel>;
    if (kernel == kKernel) status = launch_one<Config, Gather<Config>>(blocks, params, stream);
  };
  (launch_if.template operator()<kKernels>(), ...);
  return status;
}

template <CudaMath kMath>
cudaError_t launch_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                 const ImplicitGemmParams& params, cudaStream_t stream) {
  using enum GemmKernel;
  if constexpr (kMath == CudaMath::tf32x3) {
    return plan.vectorised ? launch_kernel<kMath, VectorGather, tile64x64, tile128x32>(
                                 plan.gemm, blocks, params, stream)
                           : launch_kernel<kMath, ElementGather, tile64x64, tile128x32>(
                                 plan.gemm, blocks, params, stream);
  } else if (plan.vectorised) {
    return launch_kernel<kMath, VectorGather, tile128x128, tile256x64, tile128x64, tile64x64,
                         tile128x32>(plan.gemm, blocks, params, stream);
  } else {
    return launch_kernel<kMath, ElementGather, tile128x64_small_warps, tile64x64, tile128x32>(
        plan.gemm, blocks, params, stream);
  }
}

template <CudaMath kMath>
cudaError_t launch_wgrad_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                       const WgradGemmParams& params, cudaStream_t stream) {
  using enum GemmKernel;
  if constexpr (kMath == CudaMath::tf32x3) {
    return plan.vectorised ? launch_kernel<kMath, WgradVectorGather, tile64x64>(plan.gemm, blocks,
                                                                                params, stream)
                           : launch_kernel<kMath, WgradElementGather, tile64x64>(plan.gemm, blocks,
                                                                                 params, stream);
  } else if (plan.vectorised) {
    return launch_kernel<kMath, WgradVectorGather, tile128x128, tile64x128, tile64x64>(
        plan.gemm, blocks, params, stream);
  } else {
    return launch_kernel<kMath, WgradElementGather, tile128x64_small_warps, tile64x64>(
        plan.gemm, blocks, params, stream);
  }
}

}  // namespace fastconv::cuda
