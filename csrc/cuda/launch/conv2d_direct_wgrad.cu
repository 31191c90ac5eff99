// The direct wgrad: its slices, then their sum where there is more than one.
#include "cuda/kernels/direct/conv2d_wgrad_direct.cuh"
#include "cuda/launch/conv2d_direct_gather.h"

namespace fastconv::cuda {
namespace {

WgradParams wgrad_params(const CudaConvArgs& args) {
  const ConvProblem& problem = args.problem;
  WgradParams params;
  params.h = fprop_axis(h_axis(problem));
  params.w = fprop_axis(w_axis(problem));
  params.N = problem.N, params.groups = problem.groups;
  params.channels = problem.channels_per_group(), params.filters = problem.filters_per_group();
  params.rows = problem.R * problem.S * params.channels;
  params.x = args.x, params.dy = args.y, params.dw = args.w;
  params.taps_inner = !args.plan.vectorised && args.x.strides.w < args.x.strides.c;
  params.splits = args.plan.splits;
  params.workspace = args.workspace;
  return params;
}

template <typename Tile>
cudaError_t run(const CudaConvArgs& args) {
  WgradParams params = wgrad_params(args);
  params.row_tiles = div_up(params.rows, Tile::kTileM);
  params.filter_tiles = div_up(params.filters, Tile::kTileN);
  params.tiles = params.row_tiles * params.filter_tiles * params.splits * params.groups;
  params.slice_slabs = div_up(
      div_up(params.N * params.h.positions * params.w.positions, Tile::kSlab), params.splits);
  const auto kernel =
      args.plan.vectorised ? conv2d_wgrad_direct<Tile, true> : conv2d_wgrad_direct<Tile, false>;
  const cudaError_t status = launch(kernel, tile_grid(params.tiles), Tile::kThreads,
                                    sizeof(WgradStorage<Tile>), args.stream, params);
  if (status != cudaSuccess || params.splits == 1) return status;
  using T = typename Tile::T;
  const int64_t elements = params.groups * params.filters * params.rows;
  return launch(conv2d_wgrad_reduce<T>, tile_grid(div_up(elements, kReduceElements)),
                kReduceElements * kReduceLanes, sizeof(ReduceStorage<typename Tile::A>),
                args.stream, params);
}

}  // namespace

cudaError_t conv2d_wgrad_direct(const CudaConvArgs& args) {
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (args.plan.direct == DirectKernel::wide) {
      return run<WideTile<T>>(args);
    }
    return run<DirectTile<T, 64, 16, 4>>(args);
  });
}

}  // namespace fastconv::cuda
