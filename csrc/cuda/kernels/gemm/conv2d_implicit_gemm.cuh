// fprop and dgrad on the tensor cores, as an implicit GEMM (sm_80 and later).
//
//   out (gemm_m x gemm_n) = source (gemm_m x gemm_k) * filters^T (gemm_n x gemm_k)
//   gemm_m: output pixels (n, p, q), gemm_n: output channels of a group, gemm_k: (tap, channel)
//   fprop gathers x with the filter's taps; dgrad gathers dy, once for each phase of dx
//   (problem/gather_axis.h), all in one launch.
//
// clang-format off
//          gemm_k -> in slabs of 64 bytes
//        +--+--+--+     +---------+    A block owns kTileM x kTileN of out and walks along gemm_k.
//   m    |A0|A1|A2| ... | kTileM  |    Filters come by cp.async from rows packed in (tap, channel)
//        +--+--+--+     | x kTileN|    order. The source comes
//                       +---------+    - vectorised: by cp.async too, 16 bytes of channels of one
//                                        pixel; a ring of kGemmStages slabs;
//                                      - otherwise: element by element through registers, lanes
//                                        along pixels (NCHW rows), the next slab in flight while
//                                        this one is multiplied.
// clang-format on
//   Sums go through shared memory to be stored along channels or pixels, whichever is contiguous,
//   with the epilogue; or, with gemm_k split, as float32 partial sums (split_k_reduce.cuh).
//
// Filters lie along gemm_n, where mma is 8 wide and not 16: few filters need a narrow tile, and no
// exchange of the operands.
// Bound: mma for many channels (a slab moves 64 B x (kTileM + kTileN) for kTileM * kTileN * kTileK
// multiply-adds); bytes of x and y for 1x1 and small K.
// Limits: every extent below 2^30, an image of the source within 2^30 elements; at most
// kMaxGemmPhases phases.
#pragma once

#include "cuda/kernels/gemm/implicit_gemm_element_gather.cuh"
#include "cuda/kernels/gemm/implicit_gemm_vector_gather.cuh"

namespace fastconv::cuda {

__device__ __forceinline__ StagedRow staged_row(const ImplicitGemmParams& params,
                                                const GemmPhase& phase, int m) {
  if (m >= phase.gemm_m) return {-1, 0};
  uint32_t pixel, q;
  const int64_t n = phase.image.divmod(m, pixel);
  const int64_t h = static_cast<int>(phase.width.divmod(pixel, q)) * params.step_h + phase.first_h;
  const int64_t w = static_cast<int>(q) * params.step_w + phase.first_w;
  if (params.output.partial != nullptr) {
    const int64_t row = blockIdx.y * params.out_pixels + (n * params.out_h + h) * params.out_w + w;
    return {row * params.groups * params.gemm_n, 0};
  }
  const auto offset = [&](const Strides& strides) {
    return n * strides.n + h * strides.h + w * strides.w;
  };
  return {offset(params.output.out.strides), offset(params.output.epilogue.residual.strides)};
}

template <typename Config, typename Gather>
union ImplicitGemmStorage {
  typename Gather::Storage main_loop;
  StagedTile<Config> staged;
};

template <typename Config, typename Gather>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm)
    conv2d_implicit_gemm(const __grid_constant__ ImplicitGemmParams params) {
  auto& storage = shared_storage<ImplicitGemmStorage<Config, Gather>>();
  const GemmBlock block = GemmBlock::locate<Config>(params);
  const auto tile = sum_tile<Config>([&](auto guarded, WarpTile<Config>& sums) {
    Gather::template run<guarded>(params, block, storage.main_loop, sums);
  });
  stage_sums(params.output.store, tile, storage.staged);
  const GemmPhase& phase = params.phases[block.phase];
  for (int row = threadIdx.x; row < Config::kTileM; row += Config::kThreads) {
    storage.staged.rows[row] = staged_row(params, phase, block.row0 + row);
  }
  __syncthreads();
  store_tile(params.output,
             {params.gemm_n - block.column0,
              static_cast<int64_t>(block.group) * params.gemm_n + block.column0},
             storage.staged);
}

}  // namespace fastconv::cuda
