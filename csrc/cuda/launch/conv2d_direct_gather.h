// The launch of conv2d_gather_direct with one tile: arguments -> parameters -> grid.
#pragma once

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <utility>

#include "cuda/kernels/direct/conv2d_gather_direct.cuh"
#include "cuda/launch/conv2d_direct.h"
#include "cuda/launch/launch.h"

namespace fastconv::cuda {

inline GatherAxis gather_axis(bool transposed, int64_t in, int64_t out, int64_t kernel,
                              int64_t stride, int64_t pad, int64_t dilation) {
  GatherAxis axis;
  axis.kernel = kernel, axis.pad = pad, axis.dilation = dilation, axis.transposed = transposed;
  if (transposed) {
    const int64_t common = std::gcd(stride, dilation);
    axis.source = out, axis.out = in;
    axis.phases = stride;
    axis.tap_step = -dilation / common;
    axis.tap_period = stride / common;
  } else {
    axis.source = in, axis.out = out;
    axis.step = stride;
    axis.tap_step = dilation;
  }
  return axis;
}

inline GatherParams gather_params(const ConvArgs& args) {
  const ConvProblem& o = args.problem;
  const bool dgrad = args.op == ConvOp::dgrad;
  GatherParams params;
  params.h = gather_axis(dgrad, o.H, o.P(), o.R, o.stride_h, o.pad_h, o.dilation_h);
  params.w = gather_axis(dgrad, o.W, o.Q(), o.S, o.stride_w, o.pad_w, o.dilation_w);
  params.N = o.N, params.groups = o.groups;
  params.channels = dgrad ? o.filters_per_group() : o.channels_per_group();
  params.filters = dgrad ? o.channels_per_group() : o.filters_per_group();
  params.source = dgrad ? args.y : args.x;
  params.out = dgrad ? args.x : args.y;
  params.filter = args.w;
  if (dgrad) std::swap(params.filter.strides.n, params.filter.strides.c);
  params.filter_group = o.filters_per_group() * args.w.strides.n;
  params.taps_inner = !args.plan.vectorised && params.source.strides.c > params.source.strides.w;
  params.out_along_filters = params.out.strides.c < params.out.strides.w;
  params.epilogue = args.epilogue;
  return params;
}

// float64 sums take twice the registers.
template <typename T>
using WideTile = std::conditional_t<std::is_same_v<T, double>, DirectTile<T, 64, 64, 4>,
                                    DirectTile<T, 128, 64, 8>>;

template <typename Tile>
cudaError_t launch_gather(const ConvArgs& args) {
  GatherParams params = gather_params(args);
  const auto phases = [](const GatherAxis& axis) { return std::min(axis.phases, axis.out); };
  // Phase 0 has the most pixels.
  params.pixel_tiles = div_up(
      params.N * div_up(params.h.out, params.h.phases) * div_up(params.w.out, params.w.phases),
      int64_t{Tile::kTileM});
  params.filter_tiles = div_up(params.filters, int64_t{Tile::kTileN});
  params.tiles = params.filter_tiles * params.pixel_tiles * phases(params.w) * phases(params.h) *
                 params.groups;
  const auto kernel =
      args.plan.vectorised ? conv2d_gather_direct<Tile, true> : conv2d_gather_direct<Tile, false>;
  return launch(kernel, tile_grid(params.tiles), Tile::kThreads, sizeof(GatherStorage<Tile>),
                args.stream, params);
}

}  // namespace fastconv::cuda
