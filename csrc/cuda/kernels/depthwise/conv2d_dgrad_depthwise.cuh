// Depthwise dgrad of stride 2 with a square filter known at compile time. (Stride 1 is fprop.)
//
// With m = h + pad, dx(m - pad) = sum over dy(p) * w(m - 2p): the phase of even m has the even
// taps, that of odd m the odd ones. Tiles begin at an even m, so that the phase of each of their
// rows and columns is known at compile time and no tap is wasted: each tap is multiplied once for
// 2x2 pixels of dx.
//
//   block   = one image, `channels` channels, a tile of dx; the dy that it needs in shared memory
//   thread  = one channel, kStrip adjacent columns of dx (pairs even, odd), all rows of the tile
//
//        dy row i ->  kWindow values in registers; tap row b adds them to the open row b of dx.
//                     Rows 0 and 1 are then complete, the others move up by two.
//
// Bound: bytes, dy once and dx once; the FLOPs for a pixel of dx are a quarter of those at
// stride 1. Limits: dilation 1, K = C.
#pragma once

#include "cuda/device/shared_memory.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_tile.cuh"

namespace fastconv::cuda {

template <typename T, int kFilter, int kStrip, int kThreads>
__global__ void __launch_bounds__(kThreads, kDepthwiseMinBlocks<kFilter>)
    conv2d_dgrad_depthwise(const __grid_constant__ DepthwiseParams params) {
  constexpr int kReach = kFilter - 1;
  constexpr int kWindow = (kStrip + kReach) / 2;
  constexpr int kTaps = kFilter * kFilter;
  static_assert(kFilter % 2 == 1 && kStrip % 2 == 0);
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
    const T* const window = tile + work.channel * params.source_tile.pitch_c +
                            (work.strip * (kStrip / 2) + work.source_first_w - column0) * pitch_w;
    const int row_begin = work.first_h < 0 ? -work.first_h : 0;
    const int row_end = min_of(params.rows, params.out_h - work.first_h);
    const int steps = (params.rows + kReach) / 2;

    float sums[kFilter][kStrip] = {};
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
      const int first = 2 * i - kReach;  // row of the tile that sums[0] belongs to
      const int h = work.source_first_h + i;
      if ((h >= 0 && h < params.source_h) || !all_finite(filter)) {
        float dy[kWindow];
#pragma unroll
        for (int j = 0; j < kWindow; ++j) {
          dy[j] = to_accumulator(window[i * pitch_h + j * pitch_w]);
        }
#pragma unroll
        for (int b = 0; b < kFilter; ++b) {
          if (first + b < row_begin || first + b >= row_end) continue;
#pragma unroll
          for (int j = 0; j < kWindow; ++j) {
#pragma unroll
            for (int e = 0; e < kStrip; ++e) {
              const int s = e + kReach - 2 * j;  // known at compile time
              if (s >= 0 && s < kFilter) {
                sums[b][e] += dy[j] * filter[b][s >= 0 && s < kFilter ? s : 0];
              }
            }
          }
        }
      }
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        if (first + b >= row_begin && first + b < row_end) {
          store_strip<T>(sums[b], staged, params, work, first + b);
        }
      }
#pragma unroll
      for (int b = 0; b < kFilter; ++b) {
#pragma unroll
        for (int e = 0; e < kStrip; ++e) {
          sums[b][e] = b + 2 < kFilter ? sums[b + 2 < kFilter ? b + 2 : 0][e] : 0.0f;
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
