// The kernels on the tensor cores whose blocks take rectangles of output pixels and keep the part
// of x that these need in shared memory: what lies where. Host code, shared by the plan and the
// launchers; constants are the kernels' too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan/cuda_plan.h"
#include "problem/device.h"
#include "problem/math.h"

namespace fastconv {

// Output pixels of a block.
constexpr int kPixelTileRows = 8, kPixelTileColumns = 16;

// Blocks side by side along channels: a grid takes no more along its second axis.
constexpr int64_t kMaxChannelBlocks = 65535;

// Positions of x along an axis that so many output positions read. Beyond what any shared memory
// has room for, the answer is a bound whose products fit 64 bits, whatever the stride.
constexpr int64_t pixel_tile_extent(int64_t outputs, int64_t stride, int64_t reach) {
  return std::min((outputs - 1) * stride + reach + 1, int64_t{1} << 20);
}

// Bytes of a block's results in shared memory: float32 with room beside them, and their places.
constexpr int64_t staged_pixel_tile_bytes(int64_t columns) {
  const int64_t pixels = kPixelTileRows * kPixelTileColumns;
  return std::max(pixels * (columns + 8), columns * (pixels + 4)) * 4 + pixels * 16;
}

// fprop of few channels (conv2d_fprop_stem_gemm.cuh): to what channels are padded, taps of a filter
// row in one step, and the filters of a block.
constexpr int kStemChannels = 4, kStemStepTaps = 4;
constexpr int stem_filters(GemmKernel kernel) {
  return kernel == GemmKernel::stem_few_filters ? 32 : 64;
}

// What the stem's kernel reads for a tile, and its shared memory.
struct StemGeometry {
  int64_t row_steps = 0;              // steps of a filter row
  int64_t filter_pitch = 0;           // taps from filter to filter
  int64_t x_rows = 0, x_columns = 0;  // pixels
  int64_t x_offset = 0, shared_bytes = 0;

  StemGeometry(const ConvProblem& problem, GemmKernel kernel) {
    constexpr int64_t kTapBytes = 2 * kStemChannels;
    // Filters this far apart, modulo 16 taps, meet no bank twice.
    constexpr int64_t kPitchUnit = 16, kPitchRest = 4;
    row_steps = div_up(problem.S, kStemStepTaps);
    const int64_t taps = problem.R * row_steps * kStemStepTaps;
    filter_pitch = round_up(taps - kPitchRest, kPitchUnit) + kPitchRest;
    x_rows =
        pixel_tile_extent(kPixelTileRows, problem.stride_h, (problem.R - 1) * problem.dilation_h);
    x_columns = pixel_tile_extent(kPixelTileColumns, problem.stride_w,
                                  (row_steps * kStemStepTaps - 1) * problem.dilation_w);
    x_offset = stem_filters(kernel) * filter_pitch * kTapBytes;
    shared_bytes = x_offset + std::max(x_rows * x_columns * kTapBytes,
                                       staged_pixel_tile_bytes(stem_filters(kernel)));
  }
};

// Groups of few channels (conv2d_grouped_gemm.cuh): channels of a block, elements from pixel to
// pixel of x in shared memory, and terms of a step.
constexpr int kGroupedChannels = 32, kGroupedPixelPitch = 40, kGroupedStepTerms = 16;
constexpr bool is_grouped_kernel(GemmKernel kernel) {
  return kernel == GemmKernel::grouped4 || kernel == GemmKernel::grouped8 ||
         kernel == GemmKernel::grouped16;
}
// Elements from filter to filter in shared memory: lanes that read 8 bytes of the same step of four
// filters in a row meet no bank twice.
FASTCONV_LOCAL constexpr int grouped_filter_row(int steps) {
  return (steps | 1) * kGroupedStepTerms;
}

// wgrad of such groups: taps of a block, which its registers hold, and slices that a block writes.
constexpr int kWgradGroupedTaps = 9, kWgradGroupedSlices = 2;

// What the grouped kernels read of x (of dy for dgrad, which is fprop with another padding) for a
// tile, and their shared memory: filters, x, results; or for wgrad x, dy.
struct GroupedGeometry {
  int64_t pad_h = 0, pad_w = 0;
  int64_t steps = 0;
  int64_t x_rows = 0, x_columns = 0;  // pixels
  int64_t filter_bytes = 0, x_bytes = 0, shared_bytes = 0;

  GroupedGeometry(ConvOp op, const ConvProblem& problem) {
    constexpr int64_t kElementBytes = 2, kPixelBytes = kGroupedPixelPitch * kElementBytes;
    const bool dgrad = op == ConvOp::dgrad;
    const int64_t reach_h = (problem.R - 1) * problem.dilation_h,
                  reach_w = (problem.S - 1) * problem.dilation_w;
    pad_h = dgrad ? reach_h - problem.pad_h : problem.pad_h;
    pad_w = dgrad ? reach_w - problem.pad_w : problem.pad_w;
    steps = div_up(problem.R * problem.S * problem.channels_per_group(), kGroupedStepTerms);
    x_rows = pixel_tile_extent(kPixelTileRows, problem.stride_h, reach_h);
    x_columns = pixel_tile_extent(kPixelTileColumns, problem.stride_w, reach_w);
    x_bytes = x_rows * x_columns * kPixelBytes;
    if (op == ConvOp::wgrad) {
      shared_bytes = x_bytes + kPixelTileRows * kPixelTileColumns * kPixelBytes;
    } else {
      filter_bytes = kGroupedChannels * grouped_filter_row(static_cast<int>(steps)) * kElementBytes;
      shared_bytes = filter_bytes + x_bytes + staged_pixel_tile_bytes(kGroupedChannels);
    }
  }
};

}  // namespace fastconv
