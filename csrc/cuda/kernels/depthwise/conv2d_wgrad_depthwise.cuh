// Depthwise wgrad with a square filter known at compile time. x and dy are read once for all taps.
//
//   block   = `channels` channels, one column tile, a slice of the row tiles (n, rows); for each of
//             those the tiles of x and dy are copied to shared memory
//   thread  = one channel, a strip of kStrip adjacent columns of dy; kFilter^2 sums in registers
//
//        x row i ->  kWindow values in registers; dy rows p that it meets, r = i - p*stride, slide
//                    through a window of kRows registers rows:  sums[r][s] += x[q*stride+s] * dy[q]
//
// Then strips are added up in order in shared memory, and their sums stored to the workspace, for
// each slice and column tile; conv2d_depthwise_reduce adds up these in order. No atomics: the same
// bits in every run.
//
// Bound: bytes, x once and dy once, for 3x3, 5x5, and for 7x7 in float32; 16-bit 7x7 by FFMA.
// Limits: stride 1 or 2, dilation 1, K = C.
#pragma once

#include "cuda/kernels/depthwise/conv2d_depthwise_wgrad_work.cuh"

namespace fastconv::cuda {

// 3x3 needs no more than 64 registers here.
template <int kFilter>
constexpr int kDepthwiseWgradMinBlocks = kFilter == 3 ? 4 : kDepthwiseMinBlocks<kFilter>;

template <typename T, int kFilter, int kStride, int kStrip, int kThreads>
__global__ void __launch_bounds__(kThreads, kDepthwiseWgradMinBlocks<kFilter>)
    conv2d_wgrad_depthwise(const __grid_constant__ DepthwiseWgradParams params) {
  constexpr int kRows = (kFilter + kStride - 1) / kStride;
  constexpr int kWindow = (kStrip - 1) * kStride + kFilter;
  const DepthwiseParams& tiles = params.tiles;
  unsigned char* const memory = &shared_storage<unsigned char>();
  T* const x_tile = reinterpret_cast<T*>(memory + tiles.source_tile.offset);
  T* const dy_tile = reinterpret_cast<T*>(memory + tiles.out_tile.offset);

  const DepthwiseWgradWork work(params, blockIdx.x);
  const int c0 = work.c0;
  const int x_column0 = aligned_column(tiles.source_tile, work.x_w0);
  const int dy_column0 = aligned_column(tiles.out_tile, work.dy_w0);
  const int x_pitch = tiles.source_tile.pitch_w, dy_pitch = tiles.out_tile.pitch_w;
  const T* const x_strip = x_tile + work.channel * tiles.source_tile.pitch_c +
                           (work.strip * kStrip * kStride + work.x_w0 - x_column0) * x_pitch;
  const T* const dy_strip = dy_tile + work.channel * tiles.out_tile.pitch_c +
                            (work.strip * kStrip + work.dy_w0 - dy_column0) * dy_pitch;

  const int columns = tiles.out_w - work.dy_w0 - work.strip * kStrip;  // of dy, for this thread

  float sums[kFilter][kFilter][1] = {};
#pragma unroll 1
  for (int64_t item = work.begin; item < work.end; ++item) {
    const int64_t n = item / tiles.row_tiles.divisor();
    const int row_tile = static_cast<int>(item - n * tiles.row_tiles.divisor());
    const int x_h0 = tiles.source_first_h + row_tile * tiles.tile_source_step_h;
    const int p0 = row_tile * tiles.rows;
    __syncthreads();  // nobody still reads the last item's tiles
    fill_tile(x_tile, tiles.source_tile, tiles.source, n, c0, x_h0, x_column0, tiles.C,
              tiles.source_h, tiles.source_w);
    fill_tile(dy_tile, tiles.out_tile, tiles.out, n, c0, p0, dy_column0, tiles.C, tiles.out_h,
              tiles.out_w);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    if (!work.active) continue;

    const int rows = min_of(tiles.rows, tiles.out_h - p0);
    // dy[a] is row p + a; the products of rows outside of the tile are left out.
    float dy[kRows][kStrip] = {};
#pragma unroll 1
    for (int p = 1 - kRows; p < rows; ++p) {
      if (p + kRows - 1 < rows) {
#pragma unroll
        for (int q = 0; q < kStrip; ++q) {
          dy[kRows - 1][q] =
              to_accumulator(dy_strip[(p + kRows - 1) * tiles.out_tile.pitch_h + q * dy_pitch]);
        }
      }
#pragma unroll
      for (int t = 0; t < kStride; ++t) {
        const int i = p * kStride + kFilter - kStride + t;
        const bool outside = x_h0 + i < 0 || x_h0 + i >= tiles.source_h;
        if (i < 0 || (outside && all_finite(dy))) continue;
        float x[kWindow];
#pragma unroll
        for (int j = 0; j < kWindow; ++j) {
          x[j] = to_accumulator(x_strip[i * tiles.source_tile.pitch_h + j * x_pitch]);
        }
#pragma unroll
        for (int a = 0; a < kRows; ++a) {
          const int r = kFilter - kStride + t - a * kStride;  // known at compile time
          if (r < 0 || p + a < 0 || p + a >= rows) continue;
#pragma unroll
          for (int q = 0; q < kStrip; ++q) {
            // Beyond the last column x may be infinite, and no zero makes that harmless.
            if (q >= columns) continue;
#pragma unroll
            for (int s = 0; s < kFilter; ++s) {
              sums[r < 0 ? 0 : r][s][0] += x[q * kStride + s] * dy[a][q];
            }
          }
        }
      }
#pragma unroll
      for (int a = 0; a + 1 < kRows; ++a) {
#pragma unroll
        for (int q = 0; q < kStrip; ++q) dy[a][q] = dy[a + 1][q];
      }
    }
  }

  add_strips(sums, params, work);
}

}  // namespace fastconv::cuda
