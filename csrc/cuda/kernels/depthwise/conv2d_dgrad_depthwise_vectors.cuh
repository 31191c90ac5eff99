// Depthwise dgrad of stride 2 of channels_last tensors with a square filter known at compile time.
// (Stride 1 is fprop.)
//
//   block   = one image, `channels` channels, a tile of dx; its filters in shared memory
//   thread  = kVector adjacent channels, kStrip adjacent columns of dx (pairs even, odd), all rows
//   of
//             the tile. Rows of dy come straight from memory, the next while one is multiplied.
//
// Phases and open rows are those of the kernel for any layout (conv2d_dgrad_depthwise.cuh), and so
// is the order in which products are added up. Padding is zeros that are multiplied like any
// element.
//
// Bound: bytes, dy once and dx once. Limits: dilation 1, K = C, whole vectors.
#pragma once

#include "cuda/device/shared_memory.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_vector.cuh"

namespace fastconv::cuda {

template <typename T, int kFilter, int kVector, int kStrip, int kThreads>
__global__ void __launch_bounds__(kThreads, kDepthwiseVectorMinBlocks<T, kFilter, 2>)
    conv2d_dgrad_depthwise_vectors(const __grid_constant__ DepthwiseParams params) {
  constexpr int kReach = kFilter - 1;
  constexpr int kWindow = (kStrip + kReach) / 2;
  static_assert(kFilter % 2 == 1 && kStrip % 2 == 0);
  float* const filters = &shared_storage<float>();

  const DepthwiseWork work(params, blockIdx.x, kVector);
  const int c = work.c0 + work.channel, w0 = work.first_w + work.strip * kStrip;
  const int row_begin = work.first_h < 0 ? -work.first_h : 0;
  const int row_end = min_of(params.rows, params.out_h - work.first_h);
  const int steps = (row_end + 1 + kReach) / 2;
  const int h_end = min_of(params.source_h, work.source_first_h + steps);
  WindowRow<T, kVector, kWindow> row(params.source, work.n, c, work.source_first_h,
                                     work.source_first_w + work.strip * (kStrip / 2), h_end,
                                     work.active ? params.source_w : 0);
#pragma unroll
  for (int j = 0; j < kWindow; ++j) row.load(j);
  fill_filter_vectors<T, kFilter, kVector>(filters, params, work.c0);
  __syncthreads();
  if (!work.active) return;

  const FilterVectors<kFilter, kVector> filter(filters + work.channel * kFilter * kFilter);
  // The row of dx that sums[0] belongs to is 2 * i - kReach of the tile.
  T* out = params.out.at<T>(work.n, c, work.first_h - kReach, w0);
  const int step = static_cast<int>(params.out.strides.w);

  float sums[kFilter][kStrip][kVector] = {};
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    row.advance();
    float dy[kWindow][kVector];
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {
      row.get(j, dy[j]);
      row.load(j);
    }
#pragma unroll
    for (int b = 0; b < kFilter; ++b) {
#pragma unroll
      for (int s = kReach; s >= 0; --s) {
        const Vector<float, kVector> w = filter(b, s);
#pragma unroll
        for (int e = 0; e < kStrip; ++e) {
          if ((e + kReach - s) % 2 != 0) continue;  // known at compile time
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            sums[b][e][v] += dy[(e + kReach - s) / 2][v] * w.v[v];
          }
        }
      }
    }
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int h = 2 * i - kReach + b;
      if (h >= row_begin && h < row_end) {
#pragma unroll
        for (int e = 0; e < kStrip; ++e) {
          if (static_cast<unsigned>(w0 + e) < static_cast<unsigned>(params.out_w)) {
            *reinterpret_cast<Packed<T, kVector>*>(out + static_cast<int64_t>(step) * e) =
                pack<T, kVector>(sums[b][e]);
          }
        }
      }
      out += params.out.strides.h;
    }
#pragma unroll
    for (int b = 0; b < kFilter; ++b) {
#pragma unroll
      for (int e = 0; e < kStrip; ++e) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          sums[b][e][v] = b + 2 < kFilter ? sums[b + 2 < kFilter ? b + 2 : 0][e][v] : 0.0f;
        }
      }
    }
  }
}

}  // namespace fastconv::cuda
