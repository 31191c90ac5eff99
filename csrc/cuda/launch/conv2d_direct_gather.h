// The launch of conv2d_gather_direct with one kind of tile, for fprop and dgrad.
#pragma once

#include <type_traits>
#include <utility>

#include "cuda/kernels/direct/conv2d_gather_direct.cuh"
#include "cuda/launch/conv2d_direct.h"
#include "cuda/launch/launch.h"

namespace fastconv::cuda {

inline PhasedAxis phased_axis(bool dgrad, const ConvAxis& conv) {
  if (!dgrad) return {fprop_axis(conv), conv, 1, false};
  return {dgrad_axis(conv, 0), conv, dgrad_phases(conv), true};
}

inline GatherParams gather_params(const CudaConvArgs& args) {
  const ConvProblem& problem = args.problem;
  const bool dgrad = args.op == ConvOp::dgrad;
  GatherParams params;
  params.h = phased_axis(dgrad, h_axis(problem));
  params.w = phased_axis(dgrad, w_axis(problem));
  params.N = problem.N, params.groups = problem.groups;
  params.channels = dgrad ? problem.filters_per_group() : problem.channels_per_group();
  params.filters = dgrad ? problem.channels_per_group() : problem.filters_per_group();
  params.source = dgrad ? args.y : args.x;
  params.out = dgrad ? args.x : args.y;
  params.filter = args.w;
  if (dgrad) std::swap(params.filter.strides.n, params.filter.strides.c);
  params.filter_group = problem.filters_per_group() * args.w.strides.n;
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
cudaError_t launch_gather(const CudaConvArgs& args) {
  GatherParams params = gather_params(args);
  // Phase 0 has the most pixels.
  params.pixel_tiles =
      div_up(params.N * params.h.phase0.positions * params.w.phase0.positions, Tile::kTileM);
  params.filter_tiles = div_up(params.filters, Tile::kTileN);
  params.tiles =
      params.filter_tiles * params.pixel_tiles * params.w.phases * params.h.phases * params.groups;
  const auto kernel =
      args.plan.vectorised ? conv2d_gather_direct<Tile, true> : conv2d_gather_direct<Tile, false>;
  return launch(kernel, tile_grid(params.tiles), Tile::kThreads, sizeof(GatherStorage<Tile>),
                args.stream, params);
}

}  // namespace fastconv::cuda
