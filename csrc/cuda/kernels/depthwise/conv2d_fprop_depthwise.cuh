// Depthwise fprop with a square filter known at compile time; dgrad of stride 1 as well, which is
// fprop over dy with the filter turned by 180 degrees.
//
//   block   = one image, `channels` channels, a tile of output; the window of x that it needs is
//             copied to shared memory, padding as zeros
//   thread  = one channel, a strip of kStrip adjacent output columns, all rows of the tile
//
//        x row i ->  kWindow values in registers, each read from shared memory once, used by
//                    the kRows output rows that are open:  sums[a][q] += x[q*stride+s] * w[r][s],
//                    r = i - (p+a)*stride;  sums[0] is then complete, the others move up.
//
// Bound: bytes, x once and y once, for 3x3, 5x5, and for 7x7 in float32. 16-bit 7x7 is bound by
// FFMA: 49 multiply-adds for 4 bytes, 24.5 FLOP/B; its floor is 2*49*N*C*P*Q FLOP at FFMA rate.
// Limits: stride 1 or 2, dilation 1, K = C.
#pragma once

#include "cuda/device/shared_memory.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_tile.cuh"

namespace fastconv::cuda {

template <typename T, int kFilter, int kStride, int kStrip, int kThreads>
__global__ void __launch_bounds__(kThreads, kDepthwiseMinBlocks<kFilter>)
    conv2d_fprop_depthwise(const __grid_constant__ DepthwiseParams params) {
  constexpr int kRows = (kFilter + kStride - 1) / kStride;
  constexpr int kWindow = (kStrip - 1) * kStride + kFilter;
  constexpr int kTaps = kFilter * kFilter;
  unsigned char* const memory = &shared_storage<unsigned char>();
  T* const filters = reinterpret_cast<T*>(memory);
  T* const tile = reinterpret_cast<T*>(memory + params.source_tile.offset);
  T* const staged = reinterpret_cast<T*>(memory + params.out_tile.offset);

  const DepthwiseWork work(params, blockIdx.x);
  const int column0 = aligned_column(params.source_tile, work.source_first_w);
  fill_tile(tile, params.source_tile, params.source, work.n, work.c0, work.source_first_h, column0,
            params.C, params.source_h, params.source_w);
  cp_async_commit();
  fill_filters<T, kFilter>(filters, params, work.c0);
  cp_async_wait<0>();
  __syncthreads();

  if (work.active) {
    float filter[kFilter][kFilter];
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      filter[tap / kFilter][tap % kFilter] = to_accumulator(filters[work.channel * kTaps + tap]);
    }
    const int pitch_w = params.source_tile.pitch_w, pitch_h = params.source_tile.pitch_h;
    const T* const window =
        tile + work.channel * params.source_tile.pitch_c +
        (work.strip * kStrip * kStride + work.source_first_w - column0) * pitch_w;
    const int rows = min_of(params.rows, params.out_h - work.first_h);

    const float bias = bias_of<T>(params.epilogue, work.c0 + work.channel);
    float sums[kRows][kStrip] = {};
    // At step p the last rows of x arrive that output row p needs.
#pragma unroll 1
    for (int p = 1 - kRows; p < rows; ++p) {
#pragma unroll
      for (int t = 0; t < kStride; ++t) {
        const int i = p * kStride + kFilter - kStride + t;
        const int h = work.source_first_h + i;
        if (i < 0 || ((h < 0 || h >= params.source_h) && all_finite(filter))) continue;
        float x[kWindow];
#pragma unroll
        for (int j = 0; j < kWindow; ++j) {
          x[j] = to_accumulator(window[i * pitch_h + j * pitch_w]);
        }
#pragma unroll
        for (int a = 0; a < kRows; ++a) {
          const int r = kFilter - kStride + t - a * kStride;  // known at compile time
          if (r < 0 || p + a < 0 || p + a >= rows) continue;
#pragma unroll
          for (int s = 0; s < kFilter; ++s) {
#pragma unroll
            for (int q = 0; q < kStrip; ++q) {
              sums[a][q] += x[q * kStride + s] * filter[r < 0 ? 0 : r][s];
            }
          }
        }
      }
      if (p >= 0) {
        apply_epilogue<T>(sums[0], bias, params.epilogue, work.n, work.c0 + work.channel,
                          work.first_h + p, work.first_w + work.strip * kStrip, params.out_w);
        store_strip<T>(sums[0], staged, params, work, p);
      }
#pragma unroll
      for (int a = 0; a < kRows; ++a) {
#pragma unroll
        for (int q = 0; q < kStrip; ++q) {
          sums[a][q] = a + 1 < kRows ? sums[a + 1 < kRows ? a + 1 : 0][q] : 0.0f;
        }
      }
    }
  }
  if (params.stage_out) {
    __syncthreads();
    drain_tile(staged, params, work);
  }
}

}  // namespace fastconv::cuda
