// Depthwise fprop of channels_last tensors with a square filter known at compile time; dgrad of
// stride 1 as well, which is fprop over dy with the filter turned by 180 degrees.
//
//   block   = one image, `channels` channels, a tile of output; its filters in shared memory
//   thread  = kVector adjacent channels, a strip of kStrip adjacent output columns, all rows of the
//             tile. Each row of the window comes straight from memory: L1 holds what neighbouring
//             strips share.
//
//        x row i ->  kWindow vectors in registers; as soon as one is unpacked, its place takes that
//                    of row i + 1. All kRows output rows that are open add their products:
//                    sums[a][q] += x[q*stride+s] * w[r][s], r = i - (p+a)*stride;
//                    sums[0] is then complete, the others move up.
//
// Padding is zeros that are multiplied like any element. Whole rows of it are skipped from 5x5 on,
// where all of the block's filters are finite. Products are added up in the order of the kernel for
// any layout (conv2d_fprop_depthwise.cuh).
//
// Bound: bytes, x once and y once. Limits: stride 1 or 2, dilation 1, K = C, whole vectors.
#pragma once

#include "cuda/device/epilogue.cuh"
#include "cuda/device/shared_memory.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_vector.cuh"

namespace fastconv::cuda {

// y of one row of a strip, whose first column is at `out`: bias, residual, activation, and the
// stores of so many columns.
template <typename T, int kStrip, int kVector>
__device__ __forceinline__ void store_vectors(float (&z)[kStrip][kVector], const float* bias,
                                              const T* residual, T* out, int columns,
                                              const DepthwiseParams& params) {
  const Epilogue& epilogue = params.epilogue;
  if (epilogue.bias != nullptr) {
    const auto bias_of = load_vector<float, kVector>(bias);
#pragma unroll
    for (int q = 0; q < kStrip; ++q) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) z[q][v] += bias_of.v[v];
    }
  }
  if (epilogue.residual.data != nullptr) {
    const int step = static_cast<int>(epilogue.residual.strides.w);
#pragma unroll
    for (int q = 0; q < kStrip; ++q) {
      if (q >= columns) continue;
      float addends[kVector];
      unpack<T, kVector>(
          *reinterpret_cast<const Packed<T, kVector>*>(residual + static_cast<int64_t>(step) * q),
          addends);
#pragma unroll
      for (int v = 0; v < kVector; ++v) z[q][v] += addends[v];
    }
  }
  if (epilogue.activation.kind != ActivationKind::none) {
    // Most activations are long: code for one column, past which the strip is turned round.
    with_activation(epilogue.activation, [&](const auto& activate_sum) {
#pragma unroll 1
      for (int turn = 0; turn < kStrip; ++turn) {
        float y[kVector];
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          y[v] = activate_sum(z[0][v]);
#pragma unroll
          for (int q = 0; q + 1 < kStrip; ++q) z[q][v] = z[q + 1][v];
          z[kStrip - 1][v] = y[v];
        }
      }
    });
  }
  const int step = static_cast<int>(params.out.strides.w);
#pragma unroll
  for (int q = 0; q < kStrip; ++q) {
    if (q < columns) {
      *reinterpret_cast<Packed<T, kVector>*>(out + static_cast<int64_t>(step) * q) =
          pack<T, kVector>(z[q]);
    }
  }
}

template <typename T, int kFilter, int kStride, int kVector, int kStrip, int kThreads>
__global__ void __launch_bounds__(kThreads, kDepthwiseVectorMinBlocks<T, kFilter, kStride>)
    conv2d_fprop_depthwise_vectors(const __grid_constant__ DepthwiseParams params) {
  constexpr int kRows = (kFilter + kStride - 1) / kStride;
  constexpr int kWindow = (kStrip - 1) * kStride + kFilter;
  constexpr bool kSkipsPadding = kFilter > 3;  // where that saves more than it costs
  // The first row that the loop takes in; those before row 0 meet no output of the tile.
  constexpr int kFirstRow = (1 - kRows) * kStride + kFilter - kStride;
  float* const filters = &shared_storage<float>();

  const DepthwiseWork work(params, blockIdx.x, kVector);
  const int rows = min_of(params.rows, params.out_h - work.first_h);
  const int c = work.c0 + work.channel, w0 = work.first_w + work.strip * kStrip;
  const int h_end = min_of(params.source_h, work.source_first_h + (rows - 1) * kStride + kFilter);
  const auto window_from = [&](int step) {
    WindowRow<T, kVector, kWindow> row(params.source, work.n, c,
                                       work.source_first_h + kFirstRow + step * kStride,
                                       work.source_first_w + work.strip * kStrip * kStride, h_end,
                                       work.active ? params.source_w : 0);
#pragma unroll
    for (int j = 0; j < kWindow; ++j) row.load(j);
    return row;
  };
  // Steps before row 0 that take in padding alone.
  const int above = -(work.source_first_h + kFirstRow) / kStride;
  int step = kSkipsPadding ? min_of(max_of(above, 0), kRows - 1) : 0;
  auto row = window_from(step);
  float* const biases = filters + kFilter * kFilter * params.channels;
  fill_biases<T>(biases, params, work.c0);
  const bool finite =
      __syncthreads_and(fill_filter_vectors<T, kFilter, kVector>(filters, params, work.c0));
  if (!work.active) return;
  if (kSkipsPadding && !finite) {
    step = 0;
    row = window_from(step);
  }

  const FilterVectors<kFilter, kVector> filter(filters + work.channel * kFilter * kFilter);
  const int columns = params.out_w - w0;
  T* out = params.out.at<T>(work.n, c, work.first_h, w0);
  const T* residual = params.epilogue.residual.at<const T>(work.n, c, work.first_h, w0);
  float sums[kRows][kStrip][kVector] = {};
  // Steps from which on rows of x are padding alone.
  const int below = div_up(params.source_h - work.source_first_h - kFilter + kStride, kStride);
  const int p_end = kSkipsPadding && finite ? max_of(min_of(rows, below), 1 - kRows) : rows;
  const auto finish_row = [&](int p) {
    if (p >= 0) {
      store_vectors<T>(sums[0], biases + work.channel, residual, out, columns, params);
      out += params.out.strides.h;
      residual += params.epilogue.residual.strides.h;
    }
#pragma unroll
    for (int a = 0; a < kRows; ++a) {
#pragma unroll
      for (int q = 0; q < kStrip; ++q) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          sums[a][q][v] = a + 1 < kRows ? sums[a + 1 < kRows ? a + 1 : 0][q][v] : 0.0f;
        }
      }
    }
  };
  // At step p the last rows of x arrive that output row p needs.
  int p = 1 - kRows + step;
#pragma unroll 1
  for (; p < p_end; ++p) {
#pragma unroll
    for (int t = 0; t < kStride; ++t) {
      row.advance();
      const auto multiply = [&](int a, int q, int s, const float(&x)[kVector]) {
        const int r = kFilter - kStride + t - a * kStride;  // known at compile time
        if (r < 0 || s < 0 || s >= kFilter) return;
        const Vector<float, kVector> w = filter(r, s);
#pragma unroll
        for (int v = 0; v < kVector; ++v) sums[a][q][v] += x[v] * w.v[v];
      };
      if constexpr (FilterVectors<kFilter, kVector>::kInRegisters) {
#pragma unroll
        for (int j = 0; j < kWindow; ++j) {
          float x[kVector];
          row.get(j, x);
          row.load(j);
#pragma unroll
          for (int a = 0; a < kRows; ++a) {
#pragma unroll
            for (int q = 0; q < kStrip; ++q) multiply(a, q, j - q * kStride, x);
          }
        }
      } else {
        float x[kWindow][kVector];
#pragma unroll
        for (int s = 0; s < kFilter; ++s) {
#pragma unroll
          for (int j = 0; j < kWindow; ++j) {
            const int first_needed = max_of(0, j - (kStrip - 1) * kStride);
            if (s != first_needed) continue;
            row.get(j, x[j]);
            row.load(j);
          }
#pragma unroll
          for (int a = 0; a < kRows; ++a) {
#pragma unroll
            for (int q = 0; q < kStrip; ++q) multiply(a, q, s, x[q * kStride + s]);
          }
        }
      }
    }
    finish_row(p);
  }
  if constexpr (kSkipsPadding) {
#pragma unroll 1
    for (; p < rows; ++p) finish_row(p);
  }
}

}  // namespace fastconv::cuda
