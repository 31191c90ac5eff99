// From the staged sums of a tile of the implicit GEMM through the epilogue to the output, or, with
// gemm_k split, to the partial sums.
#pragma once

#include "cuda/device/epilogue.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/kernels/gemm/implicit_gemm_params.cuh"

namespace fastconv::cuda {

struct OutPixel {
  int64_t n;
  int h, w;
};

__device__ __forceinline__ OutPixel out_pixel(const ImplicitGemmParams& params,
                                              const GemmPhase& phase, int m) {
  uint32_t pixel, q;
  const int64_t n = phase.image.divmod(m, pixel);
  const int p = phase.width.divmod(pixel, q);
  return {n, p * params.step_h + phase.first_h,
          static_cast<int>(q) * params.step_w + phase.first_w};
}

template <typename Config>
__device__ __forceinline__ void store_vectors(const ImplicitGemmParams& params,
                                              const GemmBlock& block,
                                              const StagedSums<Config>& staged) {
  using T = typename Config::element_t;
  constexpr int kVector = Config::kVector, kVectors = Config::kTileN / kVector;
  const GemmPhase& phase = params.phases[block.phase];
  for (int i = threadIdx.x; i < Config::kTileM * kVectors; i += Config::kThreads) {
    const int row = i / kVectors, column = i % kVectors * kVector;
    if (block.row0 + row >= phase.gemm_m || block.column0 + column >= params.gemm_n) continue;
    const OutPixel at = out_pixel(params, phase, block.row0 + row);
    const int64_t k = static_cast<int64_t>(block.group) * params.gemm_n + block.column0 + column;
    const float* const sums = staged.sums + row * StagedSums<Config>::kRowPitch + column;
    Vector<T, kVector> residual = {}, result;
    if (params.epilogue.residual.data != nullptr) {
      residual = load_vector<T, kVector>(params.epilogue.residual.at<T>(at.n, k, at.h, at.w));
    }
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      float z = sums[e];
      if (params.epilogue.bias != nullptr) {
        z += to_accumulator(static_cast<const T*>(params.epilogue.bias)[k + e]);
      }
      if (params.epilogue.residual.data != nullptr) z += to_accumulator(residual.v[e]);
      result.v[e] = from_accumulator<T>(activate(z, params.epilogue.activation));
    }
    store_vector(params.out.at<T>(at.n, k, at.h, at.w), result);
  }
}

// Lanes along channels or along pixels; also the partial sums of a split gemm_k.
template <typename Config>
__device__ __forceinline__ void store_elements(const ImplicitGemmParams& params,
                                               const GemmBlock& block,
                                               const StagedSums<Config>& staged, int pitch) {
  using T = typename Config::element_t;
  const GemmPhase& phase = params.phases[block.phase];
  const bool along_pixels = params.store == GemmStore::pixels;
  for (int i = threadIdx.x; i < Config::kTileM * Config::kTileN; i += Config::kThreads) {
    const int row = along_pixels ? i % Config::kTileM : i / Config::kTileN;
    const int column = along_pixels ? i / Config::kTileM : i % Config::kTileN;
    if (block.row0 + row >= phase.gemm_m || block.column0 + column >= params.gemm_n) continue;
    const OutPixel at = out_pixel(params, phase, block.row0 + row);
    const int64_t k = static_cast<int64_t>(block.group) * params.gemm_n + block.column0 + column;
    const float sum = staged.sums[row * pitch + column];
    if (params.partial != nullptr) {
      const int64_t pixel = (at.n * params.out_h + at.h) * params.out_w + at.w;
      const int64_t slice_row = static_cast<int64_t>(blockIdx.y) * params.out_pixels + pixel;
      params.partial[slice_row * params.groups * params.gemm_n + k] = sum;
    } else {
      *params.out.at<T>(at.n, k, at.h, at.w) =
          from_accumulator<T>(apply_epilogue<T>(sum, params.epilogue, at.n, k, at.h, at.w));
    }
  }
}

}  // namespace fastconv::cuda
