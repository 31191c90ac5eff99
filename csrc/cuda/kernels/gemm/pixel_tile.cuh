// A rectangle of output pixels of one image as the rows of a GEMM's tile, for the kernels that keep
// the part of x that it needs in shared memory: row i is pixel (i / kPixelTileColumns,
// i % kPixelTileColumns). A warp has whole rows of pixels, each of which is a fragment of A.
#pragma once

#include "cuda/device/fast_divmod.cuh"
#include "cuda/kernels/gemm/implicit_gemm_output.cuh"
#include "plan/pixel_tile_geometry.h"

namespace fastconv::cuda {

template <CudaMath kMath, int kColumns>
struct PixelTileConfig {
  using element_t = typename MathTraits<kMath>::element_t;
  static constexpr CudaMath kMathMode = kMath;
  static constexpr int kTileM = kPixelTileRows * kPixelTileColumns, kTileN = kColumns;
  static constexpr int kWarpsM = 4, kWarpsN = 1, kThreads = kWarpsM * kWarpSize;
  static constexpr int kWarpM = kTileM / kWarpsM, kWarpN = kTileN;
  static constexpr int kVector = kChunkBytes / static_cast<int>(sizeof(element_t));
  static constexpr int kBlocksPerSm = 3;
  // A fragment of A is one row of pixels.
  static_assert(kPixelTileColumns == kMmaM && kPixelTileRows % kWarpsM == 0);
};

struct PixelTiles {
  int count = 0;  // in all images
  int P = 0, Q = 0;
  FastDivmod along_h, along_w;  // of an image
};

struct PixelTile {
  int n, p, q;  // image and first pixel

  __device__ __forceinline__ PixelTile(const PixelTiles& tiles, int number) {
    uint32_t h, w;
    n = static_cast<int>(
        tiles.along_h.divmod(tiles.along_w.divmod(static_cast<uint32_t>(number), w), h));
    p = static_cast<int>(h) * kPixelTileRows, q = static_cast<int>(w) * kPixelTileColumns;
  }
};

// Two registers of a fragment: four adjacent elements.
__device__ __forceinline__ void read_four(const void* elements, uint32_t& low, uint32_t& high) {
  const auto words = *static_cast<const Vector<uint32_t, 2>*>(elements);
  low = words.v[0], high = words.v[1];
}

// Puts the sums, and the places of their pixels, where all threads can read them; a barrier must
// follow.
template <typename Config>
__device__ __forceinline__ void stage_pixel_tile(const GemmOutput& output, const PixelTiles& tiles,
                                                 const PixelTile& tile,
                                                 const WarpTile<Config>& sums,
                                                 StagedTile<Config>& staged) {
  stage_sums(output.store, sums, staged);
  for (int row = threadIdx.x; row < Config::kTileM; row += Config::kThreads) {
    const int64_t p = tile.p + row / kPixelTileColumns, q = tile.q + row % kPixelTileColumns;
    const auto offset = [&](const Strides& strides) {
      return tile.n * strides.n + p * strides.h + q * strides.w;
    };
    staged.rows[row] =
        p < tiles.P && q < tiles.Q
            ? StagedRow{offset(output.out.strides), offset(output.epilogue.residual.strides)}
            : StagedRow{-1, 0};
  }
}

}  // namespace fastconv::cuda
