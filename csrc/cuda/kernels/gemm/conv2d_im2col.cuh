// im2col and col2im for some rows of y of some images; the matrix product between them is a
// library's.
//
//   im2col    columns[(c, r, s)][pixel] = x[n][c][p * stride - pad + r * dilation][...], 0 outside
//   col2im    dx[n][c][h][w] = the sum of columns[(c, r, s)][pixel] over the taps that read it:
//             a gather, in the order of r and s, so the same bits every time
//
// Layouts, whichever x has: columns [group][c][r][s][pixel], or, channels innermost,
// [group][pixel][r][s][c]; pixel = (image, row, q). A thread of im2col has one pixel and channel
// (or 16 bytes of channels) and writes all its taps; a thread of col2im has one element of dx.
//
// Bound: bytes: im2col writes each element of x R * S times (over the stride), col2im reads as
// many.
#pragma once

#include "cuda/kernels/direct/conv2d_direct_tile.cuh"
#include "problem/tensor.h"

namespace fastconv::cuda {

constexpr int kIm2colThreads = 256;

struct Im2colParams {
  ConvAxis h, w;
  int64_t groups = 1, channels = 1;  // channels of a group
  int64_t first_image = 0, images = 1;
  int64_t first_row = 0, rows = 1, columns_w = 1;  // rows of y in the columns, Q
  int64_t first_h = 0, h_rows = 1;                 // col2im: rows of dx
  TensorView x;
  void* columns = nullptr;
  bool channels_inner = false;
  int64_t count = 0;  // threads wanted
};

// Where columns lie: elements from one row of taps (r), tap (s) and pixel to the next, and the
// first element of a channel.
struct ColumnStrides {
  int64_t r, s, pixel, channel;
  __device__ __forceinline__ ColumnStrides(const Im2colParams& params, int64_t group,
                                           int64_t channel_in_group) {
    const int64_t pixels = params.images * params.rows * params.columns_w;
    const int64_t taps = params.h.kernel * params.w.kernel;
    s = params.channels_inner ? params.channels : pixels;
    r = params.w.kernel * s;
    pixel = params.channels_inner ? taps * params.channels : 1;
    channel = group * params.channels * taps * pixels +
              channel_in_group * (params.channels_inner ? 1 : taps * pixels);
  }
};

// T: any type of the size of an element; kVector: adjacent channels of a thread.
template <typename T, int kVector>
__global__ void __launch_bounds__(kIm2colThreads, 4)
    conv2d_im2col(const __grid_constant__ Im2colParams params) {
  const int64_t block = blockIdx.y * static_cast<int64_t>(gridDim.x) + blockIdx.x;
  int64_t rest = block * kIm2colThreads + threadIdx.x;
  if (rest >= params.count) return;
  const int64_t pixels = params.images * params.rows * params.columns_w;
  int64_t channel, pixel;
  if (params.channels_inner) {
    channel = take_digit(rest, params.groups * params.channels / kVector) * kVector;
    pixel = rest;
  } else {
    pixel = take_digit(rest, pixels);
    channel = rest;
  }
  int64_t n = pixel;
  const int64_t q = take_digit(n, params.columns_w), row = take_digit(n, params.rows);
  const GatherAxis axis_h = fprop_axis(params.h), axis_w = fprop_axis(params.w);
  const int64_t h = (params.first_row + row) * axis_h.source_step + axis_h.source_first;
  const int64_t w = q * axis_w.source_step + axis_w.source_first;
  const TapRange valid_h = tap_range(axis_h, h), valid_w = tap_range(axis_w, w);
  const Strides& strides = params.x.strides;
  const T* const x = static_cast<const T*>(params.x.data) + (params.first_image + n) * strides.n +
                     channel * strides.c + h * strides.h + w * strides.w;
  const int64_t group = quotient(channel, params.channels);
  const ColumnStrides columns(params, group, channel - group * params.channels);
  T* out = static_cast<T*>(params.columns) + columns.channel + pixel * columns.pixel;
  for (int r = 0; r < params.h.kernel; ++r) {
#pragma unroll 4
    for (int s = 0; s < params.w.kernel; ++s) {
      Vector<T, kVector> value = {};
      if (valid_h.contains(r) && valid_w.contains(s)) {
        value = load_vector<T, kVector>(x + r * axis_h.tap_offset * strides.h +
                                        s * axis_w.tap_offset * strides.w);
      }
      store_vector(out, value);
      out += columns.s;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kIm2colThreads, 4)
    conv2d_col2im(const __grid_constant__ Im2colParams params) {
  using A = accumulator_t<T>;
  const int64_t block = blockIdx.y * static_cast<int64_t>(gridDim.x) + blockIdx.x;
  int64_t n = block * kIm2colThreads + threadIdx.x;
  if (n >= params.count) return;
  const int64_t channels = params.groups * params.channels;
  int64_t channel = params.channels_inner ? take_digit(n, channels) : 0;
  const int64_t w = take_digit(n, params.w.x_size);
  const int64_t h = params.first_h + take_digit(n, params.h_rows);
  if (!params.channels_inner) channel = take_digit(n, channels);

  const int64_t i = quotient(h, params.h.stride), j = quotient(w, params.w.stride);
  const GatherAxis axis_h = dgrad_axis(params.h, h - i * params.h.stride);
  const GatherAxis axis_w = dgrad_axis(params.w, w - j * params.w.stride);
  const int64_t p = i + axis_h.source_first, q = j + axis_w.source_first;
  const TapRange taps_h = tap_range(axis_h, p), taps_w = tap_range(axis_w, q);
  const int64_t group = quotient(channel, params.channels);
  const ColumnStrides columns(params, group, channel - group * params.channels);
  const int64_t step_h =
      axis_h.tap_step * columns.r + axis_h.tap_offset * params.columns_w * columns.pixel;
  const int64_t step_w = axis_w.tap_step * columns.s + axis_w.tap_offset * columns.pixel;
  const int64_t pixel = (n * params.rows + p - params.first_row) * params.columns_w + q;
  const A* const first = static_cast<const A*>(params.columns) + columns.channel +
                         axis_h.tap_first * columns.r + axis_w.tap_first * columns.s +
                         pixel * columns.pixel;
  A sum = 0;
  for (int a = taps_h.first; a < taps_h.first + taps_h.count; ++a) {
#pragma unroll 4
    for (int b = taps_w.first; b < taps_w.first + taps_w.count; ++b) {
      sum += first[a * step_h + b * step_w];
    }
  }
  *params.x.at<T>(params.first_image + n, channel, h, w) = from_accumulator<T>(sum);
}

}  // namespace fastconv::cuda
