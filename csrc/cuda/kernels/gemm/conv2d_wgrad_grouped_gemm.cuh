// wgrad of groups of 4, 8 or 16 channels and as many filters on the tensor cores, in 16 bits and
// channels_last (sm_80 and later).
//
//   dw (16 filters x (tap, 16 channels)) += dy^T (16 filters x 16 pixels) * x (16 pixels x 16
//   channels)
//
//   block = kGroupedChannels filters and as many channels, up to kWgradGroupedTaps taps; one
//   rectangle
//           of pixels after the other, whose x and dy come to shared memory in 16-byte vectors
//   warp  = 16 filters, half of a tile's rows of pixels; a row of 16 pixels is a step of mma
//
// Both operands have their pixels along rows, and ldmatrix transposes on the way to the registers.
// Products of a filter with channels of another group are computed and dropped.
//
// Each warp of pixels writes its float32 sums as a slice; split_k_reduce.cuh adds them in order.
// Pixels beyond the output's last column multiply zeros of both operands, since zero times an
// infinite element of x is NaN.
// Bound: bytes of x and dy.
// Limits: those of conv2d_grouped_gemm.cuh, for dy too.
#pragma once

#include "cuda/device/ldmatrix.cuh"
#include "cuda/kernels/gemm/grouped_source.cuh"

namespace fastconv::cuda {

struct WgradGroupedParams {
  GroupedSource x, dy;
  PixelTiles tiles;
  float* partial = nullptr;  // (slice, filter, tap, channel of the group)
  int64_t slice_elements = 0;
  int taps = 0;
  int dy_offset = 0;  // bytes of x in shared memory
};

template <CudaMath kMath>
struct WgradGroupedConfig {
  using element_t = typename MathTraits<kMath>::element_t;
  using mma_t = typename MathTraits<kMath>::mma_t;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
  static constexpr int kVector = kChunkBytes / static_cast<int>(sizeof(element_t));
  static constexpr int kFilters = kMmaM;  // of a warp
  static constexpr int kWarpsOfFilters = kGroupedChannels / kFilters;
  static constexpr int kSlices = kWarps / kWarpsOfFilters;
  static constexpr int kRows = kPixelTileRows / kSlices;  // of pixels, of a warp
  static constexpr int kColumns = kFilters / kMmaN;       // products of a tap
  static constexpr int kBlocksPerSm = 3;
  static_assert(kSlices == kWgradGroupedSlices && kPixelTileColumns == 16);
};

// Both 16-bit halves of a register of B hold pixels; keeps those before `count`.
__device__ __forceinline__ uint32_t pixels_before(int count, int pixel) {
  return pixel + 1 < count ? ~0u : pixel < count ? 0xffffu : 0u;
}

template <typename Config, int kGroup>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm)
    conv2d_wgrad_grouped_gemm(const __grid_constant__ WgradGroupedParams params) {
  using T = typename Config::element_t;
  unsigned char* const memory = &shared_storage<unsigned char>();
  T* const x = reinterpret_cast<T*>(memory);
  T* const dy = reinterpret_cast<T*>(memory + params.dy_offset);
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int filter = warp % Config::kWarpsOfFilters * Config::kFilters;  // within the block
  const int part = warp / Config::kWarpsOfFilters;
  const int first = static_cast<int>(blockIdx.y) * kGroupedChannels;
  const int first_tap = static_cast<int>(blockIdx.z) * kWgradGroupedTaps;

  // Matrices of A: (filters 0-7, 8-15) x (pixels 0-7, 8-15), filters first. Of B: (pixels 0-7,
  // 8-15) x (channels 0-7, 8-15), pixels first.
  const T* const a_from =
      dy + (lane % 8 + lane / 16 * 8) * kGroupedPixelPitch + filter + lane / 8 % 2 * kMmaN;
  const T* const b_from = x +
                          (lane % 8 + lane / 8 % 2 * 8) * params.x.stride_w * kGroupedPixelPitch +
                          filter + lane / 16 * kMmaN;
  int tap_offset[kWgradGroupedTaps];
#pragma unroll
  for (int i = 0; i < kWgradGroupedTaps; ++i) {
    uint32_t s;
    const int tap = min_of(first_tap + i, params.taps - 1);  // sums of taps beyond are not stored
    const int r = static_cast<int>(params.x.row_taps.divmod(tap, s));
    tap_offset[i] =
        (r * params.x.dilation_h * params.x.pitch + static_cast<int>(s) * params.x.dilation_w) *
        kGroupedPixelPitch;
  }

  float sums[kWgradGroupedTaps][Config::kColumns][4] = {};
  for (int number = blockIdx.x; number < params.tiles.count; number += gridDim.x) {
    const PixelTile tile(params.tiles, number);
    load_grouped_pixels<Config>(params.x, tile, first, x);
    load_grouped_pixels<Config>(params.dy, tile, first, dy);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    const int columns = params.tiles.Q - tile.q, pair = lane % 4 * 2;
    const uint32_t near = pixels_before(columns, pair), far = pixels_before(columns, pair + 8);
#pragma unroll 1
    for (int row = part * Config::kRows; row < (part + 1) * Config::kRows; ++row) {
      if (tile.p + row >= params.tiles.P) break;
      uint32_t a[4];
      ldmatrix_transposed(a, a_from + row * kPixelTileColumns * kGroupedPixelPitch);
      const T* const b_row = b_from + row * params.x.stride_h * params.x.pitch * kGroupedPixelPitch;
#pragma unroll
      for (int i = 0; i < kWgradGroupedTaps; ++i) {
        uint32_t both[4];
        ldmatrix_transposed(both, b_row + tap_offset[i]);
#pragma unroll
        for (int j = 0; j < Config::kColumns; ++j) {
          const uint32_t b[2] = {both[2 * j] & near, both[2 * j + 1] & far};
          mma<typename Config::mma_t>(sums[i][j], a, b);
        }
      }
    }
    __syncthreads();  // all have read x and dy, whose places the next tile takes
  }

  float* const partial =
      params.partial + (blockIdx.x * Config::kSlices + part) * params.slice_elements;
#pragma unroll
  for (int i = 0; i < kWgradGroupedTaps; ++i) {
    if (first_tap + i >= params.taps) break;
#pragma unroll
    for (int j = 0; j < Config::kColumns; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int own = lane / 4 + half * 8, channel = j * kMmaN + lane % 4 * 2;
        const int k = first + filter + own;
        if (own / kGroup != channel / kGroup || k >= params.x.C) continue;
        float* const at = partial +
                          (static_cast<int64_t>(k) * params.taps + first_tap + i) * kGroup +
                          channel % kGroup;
        store_vector(at, Vector<float, 2>{sums[i][j][2 * half], sums[i][j][2 * half + 1]});
      }
    }
  }
}

}  // namespace fastconv::cuda
