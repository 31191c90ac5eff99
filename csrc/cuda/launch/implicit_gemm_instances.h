// The kernels of the implicit GEMM by math mode: each mode is compiled in a file of its own.
#pragma once

#include "cuda/kernels/conv2d_implicit_gemm.cuh"
#include "cuda/kernels/conv2d_wgrad_implicit_gemm.cuh"
#include "cuda/launch/conv2d.h"
#include "cuda/launch/launch.h"

namespace fastconv::cuda {

template <CudaMath kMath>
cudaError_t launch_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                 const ImplicitGemmParams& params, cudaStream_t stream);
template <CudaMath kMath>
cudaError_t launch_wgrad_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                       const WgradGemmParams& params, cudaStream_t stream);

// ---- definitions, for the files that instantiate
// ---------------------------------------------------

// Calls visit(std::integral_constant<int, tile>) for the tiles that a math mode has kernels for.
template <CudaMath kMath, typename Visitor>
cudaError_t dispatch_tile(int tile, const Visitor& visit) {
  const auto of = [&](auto constant) { return visit(constant); };
  if constexpr (kMath == CudaMath::tf32x3) {
    if (tile == kTile128x64Small) return of(std::integral_constant<int, kTile128x64Small>{});
  } else {
    if (tile == kTile128x128) return of(std::integral_constant<int, kTile128x128>{});
    if (tile == kTile128x64) return of(std::integral_constant<int, kTile128x64>{});
  }
  if (tile == kTile64x64) return of(std::integral_constant<int, kTile64x64>{});
  if (tile == kTile128x32) return of(std::integral_constant<int, kTile128x32>{});
  return cudaErrorInvalidValue;
}

template <CudaMath kMath>
cudaError_t launch_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                 const ImplicitGemmParams& params, cudaStream_t stream) {
  return dispatch_tile<kMath>(plan.tile, [&](auto tile) {
    using Config = GemmConfig<kMath, decltype(tile)::value>;
    const auto run = [&](auto gather) {
      using Gather = typename decltype(gather)::type;
      return launch(conv2d_implicit_gemm<Config, Gather>, dim3(blocks, params.splits),
                    Config::kThreads, sizeof(ImplicitGemmStorage<Config, Gather>), stream, params);
    };
    return plan.vectorised ? run(TypeTag<VectorGather<Config>>{})
                           : run(TypeTag<ElementGather<Config>>{});
  });
}

template <CudaMath kMath>
cudaError_t launch_wgrad_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                       const WgradGemmParams& params, cudaStream_t stream) {
  const auto run_tile = [&](auto tile) {
    using Config = GemmConfig<kMath, decltype(tile)::value>;
    const auto run = [&](auto gather) {
      using Gather = typename decltype(gather)::type;
      return launch(conv2d_wgrad_implicit_gemm<Config, Gather>, dim3(blocks, params.splits),
                    Config::kThreads, sizeof(typename Gather::Storage), stream, params);
    };
    return plan.vectorised ? run(TypeTag<WgradVectorGather<Config>>{})
                           : run(TypeTag<WgradElementGather<Config>>{});
  };
  constexpr int kLarge = kMath == CudaMath::tf32x3 ? kTile128x64Small : kTile128x128;
  if (plan.tile == kLarge) return run_tile(std::integral_constant<int, kLarge>{});
  if (plan.tile == kTile64x64) return run_tile(std::integral_constant<int, kTile64x64>{});
  return cudaErrorInvalidValue;
}

}  // namespace fastconv::cuda
