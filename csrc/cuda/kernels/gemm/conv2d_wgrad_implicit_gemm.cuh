// wgrad on the tensor cores, as an implicit GEMM with a split gemm_k (sm_80 and later).
//
//   dw (gemm_m x gemm_n) = dy^T (gemm_m x gemm_k) * x (gemm_k x gemm_n), x gathered
//   gemm_m: filters of a group, gemm_n: (tap, channel), gemm_k: output pixels (n, p, q)
//
//            gemm_n              Both operands have gemm_k along their rows, so a slab is kTileK
//          +---------+           pixels, each a row of kTileM filters or kTileN (tap, channel)s:
//     x    | kTileK  |           - 16-bit: chunk c of row r lies at chunk c ^ r%8 of its row, and
//   pixels +---------+             ldmatrix transposes on the way to the registers;
//    dy    | kTileK  |           - 32-bit, which ldmatrix cannot transpose: rows padded to 8 words
//          +---------+             mod 32, so that plain loads of fragments meet no bank twice.
//            gemm_m              Vectorised: cp.async of 16 bytes of channels; otherwise element by
//                                element through registers, lanes along pixels.
//
// Every slice of gemm_k writes its float32 sums; split_k_reduce.cuh adds them in order.
// Bound: mma for many channels, else bytes of x and dy: dy is read once for each tile along gemm_n,
// x once for each tap and each tile along gemm_m, mostly from L2.
// Limits: every extent below 2^30, an image of x or dy within 2^30 elements.
#pragma once

#include "cuda/kernels/gemm/wgrad_element_gather.cuh"
#include "cuda/kernels/gemm/wgrad_vector_gather.cuh"

namespace fastconv::cuda {

template <typename Config, typename Gather>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm)
    conv2d_wgrad_implicit_gemm(const __grid_constant__ WgradGemmParams params) {
  using T = typename Config::element_t;
  auto& storage = shared_storage<typename Gather::Storage>();
  const WgradBlock block = WgradBlock::locate<Config>(params);
  const T* const dy = static_cast<const T*>(params.dy.data) +
                      static_cast<int64_t>(block.group) * params.gemm_m * params.dy.strides.c;
  const T* const x = static_cast<const T*>(params.x.data) + static_cast<int64_t>(block.group) *
                                                                params.channels.divisor() *
                                                                params.x.strides.c;
  const auto tile = sum_tile<Config>([&](auto guarded, WarpTile<Config>& sums) {
    Gather::template run<guarded>(params, block, dy, x, storage, sums);
  });
  // Four lanes write 32 adjacent bytes of a row.
  float* const partial = params.partial + blockIdx.y * params.slice_elements +
                         static_cast<int64_t>(block.group) * params.gemm_m * params.gemm_n;
  const WarpPlace<Config> place;
  const int row0 = block.row0 + place.row, column0 = block.column0 + place.column;
  const bool aligned = params.gemm_n % 2 == 0;
  tile.for_each_pair(place.lane, [&](int row, int column, const Vector<float, 2>& pair) {
    const int left = params.gemm_n - column0 - column;  // columns from here on
    if (row0 + row >= params.gemm_m || left <= 0) return;
    float* const at = partial + static_cast<int64_t>(row0 + row) * params.gemm_n + column0 + column;
    if (aligned) {
      store_vector(at, pair);
    } else {
      at[0] = pair.v[0];
      if (left > 1) at[1] = pair.v[1];
    }
  });
}

}  // namespace fastconv::cuda
