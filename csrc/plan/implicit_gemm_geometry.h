// How fprop and dgrad become the same implicit GEMM of the CUDA kernels, and the tiles that it is
// cut into. Host code, shared by the plan and the launcher.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "plan/cuda_plan.h"
#include "problem/gather_axis.h"
#include "problem/layout.h"
#include "problem/tensor.h"

namespace fastconv {

// The phases of an axis: fprop has one, dgrad one for each remainder modulo the stride.
inline std::vector<GatherAxis> gather_axes(ConvOp op, const ConvAxis& axis) {
  if (op != ConvOp::dgrad) return {fprop_axis(axis)};
  std::vector<GatherAxis> phases;
  for (int64_t phase = 0; phase < dgrad_phases(axis); ++phase) {
    phases.push_back(dgrad_axis(axis, phase));
  }
  return phases;
}

struct GemmAxes {
  std::vector<GatherAxis> h, w;

  GemmAxes(ConvOp op, const ConvProblem& problem)
      : h(gather_axes(op, h_axis(problem))), w(gather_axes(op, w_axis(problem))) {}
};

// Every phase has its parameters in the kernel's argument, whose size is limited.
constexpr int64_t kMaxGemmPhases = 16;

struct GemmTile {
  int m, n;              // pixels (of wgrad: filters) x filters (of wgrad: (tap, channel))
  int warps_m, warps_n;  // that share the tile
};

// A warp reads its parts of both operands from shared memory, 64 x 64 sums twice as seldom as
// 32 x 32. It must leave room for its accumulators: 32 x 32 where tf32x3 splits its operands or
// where the gather goes through registers.
constexpr GemmTile tile_of(GemmKernel kernel) {
  switch (kernel) {
    case GemmKernel::tile128x128:
      return {128, 128, 2, 2};
    case GemmKernel::tile256x64:
      return {256, 64, 4, 1};
    case GemmKernel::tile64x128:
      return {64, 128, 1, 2};
    case GemmKernel::tile128x64:
      return {128, 64, 2, 2};
    case GemmKernel::tile64x64:
      return {64, 64, 2, 2};
    case GemmKernel::tile128x32:
      return {128, 32, 4, 1};
    case GemmKernel::tile128x64_small_warps:
      return {128, 64, 4, 2};
    case GemmKernel::stem:
    case GemmKernel::stem_few_filters:
    case GemmKernel::grouped4:
    case GemmKernel::grouped8:
    case GemmKernel::grouped16:
      break;
  }
  throw std::invalid_argument("a GemmKernel without a tile of the implicit GEMM");
}

// Bytes of a row of either operand that one step of the main loop covers, and how many such slabs
// are in shared memory where cp.async brings them.
constexpr int kGemmSlabBytes = 64;
constexpr int kGemmStages = 4;

// Warps that shall run on a multiprocessor at a time, in whole blocks; bounds the registers of a
// thread. Eight warps have all registers that a thread can have.
constexpr int warps_per_sm(const GemmTile& tile) {
  const int warps = tile.warps_m * tile.warps_n;
  return tile.m / tile.warps_m * (tile.n / tile.warps_n) >= 64 * 64 ? 8 : warps >= 8 ? 16 : 12;
}

// Taps that the masks of the vectorised main loops have bits for: those of both axes together.
constexpr int64_t kMaxMaskedTaps = 31;

// Workspace parts begin at multiples of this.
constexpr int64_t kWorkspaceAlignment = 256;
constexpr int64_t workspace_part(int64_t bytes) { return round_up(bytes, kWorkspaceAlignment); }

// Bytes, in the workspace, of a tensor that is copied to channels_last, and its strides there.
constexpr int64_t packed_source_bytes(const TensorSize& size, int64_t element_size) {
  return workspace_part(size.n * size.c * size.h * size.w * element_size);
}
constexpr Strides packed_source_strides(const TensorSize& size) {
  return {size.h * size.w * size.c, 1, size.w * size.c, size.c};
}

// The stride from pixel to pixel of y, in the order (n, p, q), if there is one for all of them.
inline int64_t pixel_stride(const Strides& y, const ConvProblem& problem) {
  return problem.Q() > 1 ? y.w : problem.P() > 1 ? y.h : y.n;
}
inline bool pixels_equally_spaced(const Strides& y, const ConvProblem& problem) {
  const int64_t stride = pixel_stride(y, problem);
  return (problem.P() == 1 || y.h == problem.Q() * stride) &&
         (problem.N == 1 || y.n == problem.P() * problem.Q() * stride);
}

// Row length, in elements, of the packed filters: whole 16-byte vectors.
constexpr int64_t packed_row(int64_t gemm_k, int64_t element_size) {
  return round_up(gemm_k, kAccessBytes / element_size);
}

// Elements of the packed filters of all phases and groups.
inline int64_t packed_elements(ConvOp op, const ConvProblem& problem, int64_t element_size) {
  const int64_t channels =
      op == ConvOp::dgrad ? problem.filters_per_group() : problem.channels_per_group();
  const int64_t columns = op == ConvOp::dgrad ? problem.C : problem.K;
  const GemmAxes axes(op, problem);
  int64_t total = 0;
  for (const GatherAxis& h : axes.h) {
    for (const GatherAxis& w : axes.w) {
      total += columns * packed_row(h.taps * w.taps * channels, element_size);
    }
  }
  return total;
}

}  // namespace fastconv
