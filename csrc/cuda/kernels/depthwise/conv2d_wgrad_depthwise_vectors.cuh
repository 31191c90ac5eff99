// Depthwise wgrad of channels_last tensors with a square filter known at compile time. x and dy are
// read once for all taps.
//
//   block   = `channels` channels, one column tile, a slice of the row tiles (n, rows)
//   thread  = kVector adjacent channels, a strip of kStrip adjacent columns of dy; kFilter^2 sums
//   of
//             each channel in registers. Rows come straight from memory, the next ones of x and dy
//             while these are multiplied: L1 holds what neighbouring strips share.
//
//        x row i ->  kWindow vectors in registers; dy rows p that it meets, r = i - p*stride, slide
//                    through a window of kRows register rows:  sums[r][s] += x[q*stride+s] * dy[q]
//
// Sums are then added up as in the kernel for any layout (conv2d_wgrad_depthwise.cuh), without
// atomics: the same bits in every run. Padding is zeros that are multiplied like any element.
//
// Bound: bytes, x once and dy once. Limits: stride 1 or 2, dilation 1, K = C, whole vectors.
#pragma once

#include "cuda/kernels/depthwise/conv2d_depthwise_vector.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_wgrad_work.cuh"

namespace fastconv::cuda {

template <typename T, int kFilter, int kStride, int kVector, int kStrip, int kThreads>
__global__ void __launch_bounds__(kThreads, 3)
    conv2d_wgrad_depthwise_vectors(const __grid_constant__ DepthwiseWgradParams params) {
  constexpr int kRows = (kFilter + kStride - 1) / kStride;
  constexpr int kWindow = (kStrip - 1) * kStride + kFilter;
  // The first row of x that the loop takes in; those before row 0 meet no dy of the tile.
  constexpr int kFirstRow = (1 - kRows) * kStride + kFilter - kStride;
  const DepthwiseParams& tiles = params.tiles;
  const DepthwiseWgradWork work(params, blockIdx.x, kVector);
  const int c = work.c0 + work.channel, dy_w0 = work.dy_w0 + work.strip * kStrip;
  const int columns = tiles.out_w - dy_w0;  // of dy, for this thread

  float sums[kFilter][kFilter][kVector] = {};
#pragma unroll 1
  for (int64_t item = work.begin; work.active && item < work.end; ++item) {
    const int64_t n = item / tiles.row_tiles.divisor();
    const int row_tile = static_cast<int>(item - n * tiles.row_tiles.divisor());
    const int x_h0 = tiles.source_first_h + row_tile * tiles.tile_source_step_h;
    const int p0 = row_tile * tiles.rows;
    const int rows = min_of(tiles.rows, tiles.out_h - p0);
    const int x_end = min_of(tiles.source_h, x_h0 + (rows - 1) * kStride + kFilter);
    WindowRow<T, kVector, kWindow> x_row(tiles.source, n, c, x_h0 + kFirstRow,
                                         work.x_w0 + work.strip * kStrip * kStride, x_end,
                                         tiles.source_w);
    WindowRow<T, kVector, kStrip> dy_row(tiles.out, n, c, p0, dy_w0, p0 + rows, tiles.out_w);
#pragma unroll
    for (int j = 0; j < kWindow; ++j) x_row.load(j);
#pragma unroll
    for (int q = 0; q < kStrip; ++q) dy_row.load(q);

    // dy[a] is row p + a; the products of rows outside of the tile are left out.
    float dy[kRows][kStrip][kVector] = {};
#pragma unroll 1
    for (int p = 1 - kRows; p < rows; ++p) {
      dy_row.advance();
#pragma unroll
      for (int q = 0; q < kStrip; ++q) {
        dy_row.get(q, dy[kRows - 1][q]);
        dy_row.load(q);
      }
#pragma unroll
      for (int t = 0; t < kStride; ++t) {
        x_row.advance();
        float x[kWindow][kVector];
#pragma unroll
        for (int j = 0; j < kWindow; ++j) {
          x_row.get(j, x[j]);
          x_row.load(j);
        }
        // Beyond the last column x may be infinite, and no zero makes that harmless.
        const auto multiply = [&](auto whole_strip) {
#pragma unroll
          for (int a = 0; a < kRows; ++a) {
            const int r = kFilter - kStride + t - a * kStride;  // known at compile time
            if (r < 0 || p + a < 0 || p + a >= rows) continue;
#pragma unroll
            for (int q = 0; q < kStrip; ++q) {
              if (!decltype(whole_strip)::value && q >= columns) continue;
#pragma unroll
              for (int s = 0; s < kFilter; ++s) {
#pragma unroll
                for (int v = 0; v < kVector; ++v) {
                  sums[r < 0 ? 0 : r][s][v] += x[q * kStride + s][v] * dy[a][q][v];
                }
              }
            }
          }
        };
        if (columns >= kStrip) {
          multiply(std::true_type{});
        } else {
          multiply(std::false_type{});
        }
      }
#pragma unroll
      for (int a = 0; a + 1 < kRows; ++a) {
#pragma unroll
        for (int q = 0; q < kStrip; ++q) {
#pragma unroll
          for (int v = 0; v < kVector; ++v) dy[a][q][v] = dy[a + 1][q][v];
        }
      }
    }
  }
  add_strips(sums, params, work);
}

}  // namespace fastconv::cuda
