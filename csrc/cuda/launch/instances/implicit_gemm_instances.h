// The kernels of the implicit GEMM by math mode: each mode is compiled in a file of its own.
#pragma once

#include <type_traits>

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

// ---- definitions, for the files that instantiate
// ---------------------------------------------------

template <int kTile>
using TileConstant = std::integral_constant<int, kTile>;

// Starts the kernel of one tile and one way to gather; Params tells fprop and dgrad from wgrad.
template <typename Config, typename Gather>
cudaError_t launch_one(unsigned blocks, const ImplicitGemmParams& params, cudaStream_t stream) {
  return launch(conv2d_implicit_gemm<Config, Gather>, dim3(blocks, params.splits), Config::kThreads,
                sizeof(ImplicitGemmStorage<Config, Gather>), stream, params);
}

template <typename Config, typename Gather>
cudaError_t launch_one(unsigned blocks, const WgradGemmParams& params, cudaStream_t stream) {
  return launch(conv2d_wgrad_implicit_gemm<Config, Gather>, dim3(blocks, params.splits),
                Config::kThreads, sizeof(typename Gather::Storage), stream, params);
}

// The first of the tiles that is the plan's. The plan knows which these are (has_wide_warps).
template <CudaMath kMath, template <typename> class Gather, typename Params, int... kTiles>
cudaError_t launch_tile(int tile, unsigned blocks, const Params& params, cudaStream_t stream,
                        TileConstant<kTiles>...) {
  cudaError_t status = cudaErrorInvalidValue;
  const bool found =
      ((tile == kTiles &&
        (status = launch_one<GemmConfig<kMath, kTiles>, Gather<GemmConfig<kMath, kTiles>>>(
             blocks, params, stream),
         true)) ||
       ...);
  return found ? status : cudaErrorInvalidValue;
}

template <CudaMath kMath>
cudaError_t launch_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                 const ImplicitGemmParams& params, cudaStream_t stream) {
  constexpr TileConstant<kTile128x64Small> kSmall;
  constexpr TileConstant<kTile64x64> kSquare;
  constexpr TileConstant<kTile128x32> kNarrow;
  if (!plan.vectorised) {
    return launch_tile<kMath, ElementGather>(plan.tile, blocks, params, stream, kSmall, kSquare,
                                             kNarrow);
  }
  if constexpr (kMath == CudaMath::tf32x3) {
    return launch_tile<kMath, VectorGather>(plan.tile, blocks, params, stream, kSmall, kSquare,
                                            kNarrow);
  } else {
    return launch_tile<kMath, VectorGather>(plan.tile, blocks, params, stream,
                                            TileConstant<kTile128x128>{},
                                            TileConstant<kTile128x64>{}, kSquare, kNarrow);
  }
}

template <CudaMath kMath>
cudaError_t launch_wgrad_implicit_gemm(const CudaConvPlan& plan, unsigned blocks,
                                       const WgradGemmParams& params, cudaStream_t stream) {
  constexpr TileConstant<kTile128x64Small> kSmall;
  constexpr TileConstant<kTile64x64> kSquare;
  if (!plan.vectorised) {
    return launch_tile<kMath, WgradElementGather>(plan.tile, blocks, params, stream, kSmall,
                                                  kSquare);
  }
  if constexpr (kMath == CudaMath::tf32x3) {
    return launch_tile<kMath, WgradVectorGather>(plan.tile, blocks, params, stream, kSmall,
                                                 kSquare);
  } else {
    return launch_tile<kMath, WgradVectorGather>(plan.tile, blocks, params, stream,
                                                 TileConstant<kTile128x128>{}, kSquare);
  }
}

}  // namespace fastconv::cuda
