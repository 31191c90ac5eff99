// How fprop and dgrad become the same implicit GEMM, and the tiles it is cut into. Host code,
// shared by the plan and the launcher.
//
// Both passes are sums over taps and channels of a gathered tensor:
//   out(first + step*i) = sum over taps t of in(i*in_step + in_first + t*tap_offset) * w(tap t)
// fprop is one such sum. dgrad is one for each residue class of the output position modulo the
// stride: a class has the taps that reach it, so none is wasted on zeros between dy's pixels.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "problem/conv_problem.h"

namespace fastconv {

struct GemmAxis {
  int64_t out_first = 0, out_step = 1, positions = 0;  // output positions of this class
  int64_t in_first = 0, in_step = 1, tap_offset = 0;   // where its taps read
  int64_t taps = 0, tap_first = 0, tap_step = 1;       // which taps of the filter they are
};

inline std::vector<GemmAxis> fprop_axis(int64_t out, int64_t kernel, int64_t stride, int64_t pad,
                                        int64_t dilation) {
  return {{0, 1, out, -pad, stride, dilation, kernel, 0, 1}};
}

inline std::vector<GemmAxis> dgrad_axis(int64_t in, int64_t kernel, int64_t stride, int64_t pad,
                                        int64_t dilation) {
  std::vector<GemmAxis> classes;
  const int64_t tap_step = stride / std::gcd(stride, dilation);
  for (int64_t first = 0; first < stride && first < in; ++first) {
    GemmAxis axis;
    axis.out_first = first;
    axis.out_step = stride;
    axis.positions = ceil_div(in - first, stride);
    axis.tap_step = tap_step;
    for (int64_t tap = 0; tap < tap_step && tap < kernel; ++tap) {
      const int64_t distance = first + pad - tap * dilation;
      if (distance % stride != 0) continue;
      axis.tap_first = tap;
      axis.taps = ceil_div(kernel - tap, tap_step);
      axis.in_first = distance / stride;
      axis.tap_offset = -(tap_step * dilation / stride);
      break;
    }
    classes.push_back(axis);
  }
  return classes;
}

struct GemmAxes {
  std::vector<GemmAxis> h, w;

  GemmAxes(ConvOp op, const ConvProblem& o)
      : h(op == ConvOp::dgrad ? dgrad_axis(o.H, o.R, o.stride_h, o.pad_h, o.dilation_h)
                              : fprop_axis(o.P(), o.R, o.stride_h, o.pad_h, o.dilation_h)),
        w(op == ConvOp::dgrad ? dgrad_axis(o.W, o.S, o.stride_w, o.pad_w, o.dilation_w)
                              : fprop_axis(o.Q(), o.S, o.stride_w, o.pad_w, o.dilation_w)) {}
};

// Every class has its parameters in the kernel's argument, whose size is limited.
constexpr int64_t kMaxGemmClasses = 16;

struct GemmTile {
  int m, n, warps_m, warps_n;
};

// A warp's part must leave room for its accumulators: at most 64 x 32, and 32 x 32 where tf32x3
// splits its operands or where the gather goes through registers.
constexpr GemmTile kGemmTiles[] = {
    {128, 128, 2, 4}, {128, 64, 2, 2}, {64, 64, 2, 2}, {128, 32, 4, 1}, {128, 64, 4, 2},
};
constexpr int kTile128x128 = 0, kTile128x64 = 1, kTile64x64 = 2, kTile128x32 = 3;
constexpr int kTile128x64Small = 4;  // twice the warps, 32 x 32 each

// Bytes of a row of either operand that one step of the main loop covers.
constexpr int kGemmSlabBytes = 64;
constexpr int64_t kGemmVectorBytes = 16;

// Row length, in elements, of the packed filters: whole 16-byte vectors.
constexpr int64_t packed_row(int64_t gemm_k, int64_t element_size) {
  const int64_t vector = kGemmVectorBytes / element_size;
  return (gemm_k + vector - 1) / vector * vector;
}

// Workspace parts begin at multiples of this.
constexpr int64_t kWorkspaceAlignment = 256;
constexpr int64_t workspace_part(int64_t bytes) {
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

// Elements of the packed filters of all classes and groups.
inline int64_t packed_elements(ConvOp op, const ConvProblem& o, int64_t element_size) {
  const int64_t channels = op == ConvOp::dgrad ? o.filters_per_group() : o.channels_per_group();
  const int64_t columns = op == ConvOp::dgrad ? o.C : o.K;
  const GemmAxes axes(op, o);
  int64_t total = 0;
  for (const GemmAxis& h : axes.h) {
    for (const GemmAxis& w : axes.w) {
      total += columns * packed_row(h.taps * w.taps * channels, element_size);
    }
  }
  return total;
}

}  // namespace fastconv
