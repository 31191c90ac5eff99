// The depthwise kernels of any geometry, and the sum over slices that all depthwise wgrads need.
#include <algorithm>

#include "cuda/kernels/depthwise/conv2d_depthwise_generic.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_reduce.cuh"
#include "cuda/launch/conv2d_depthwise.h"

namespace fastconv::cuda {
namespace {

constexpr int kThreads = 128;
// Of a block of conv2d_depthwise_reduce.
constexpr int kReduceElements = 32;
constexpr int kReduceGroups = 8;

DepthwiseGenericParams common_params(const CudaConvArgs& args) {
  const ConvProblem& problem = args.problem;
  DepthwiseGenericParams params;
  params.N = problem.N;
  params.K = static_cast<int>(problem.K);
  params.R = static_cast<int>(problem.R);
  params.S = static_cast<int>(problem.S);
  params.stride_h = static_cast<int>(problem.stride_h);
  params.stride_w = static_cast<int>(problem.stride_w);
  params.pad_h = static_cast<int>(problem.pad_h);
  params.pad_w = static_cast<int>(problem.pad_w);
  params.dilation_h = static_cast<int>(problem.dilation_h);
  params.dilation_w = static_cast<int>(problem.dilation_w);
  params.multiplier = FastDivmod(static_cast<uint32_t>(problem.filters_per_group()));
  params.by_stride_w = FastDivmod(static_cast<uint32_t>(problem.stride_w));
  params.filter = args.w;
  return params;
}

// Cuts `out`, which has `count` channels, into blocks of some channels and columns of a row; false
// where these are too many for a grid.
bool tile_rows(DepthwiseGenericParams& params, const CudaConvArgs& args, const TensorView& source,
               const TensorView& out, int64_t count, dim3& grid) {
  const bool dgrad = args.op == ConvOp::dgrad;
  const ConvProblem& problem = args.problem;
  params.source = source;
  params.out = out;
  params.source_h = static_cast<int>(dgrad ? problem.P() : problem.H);
  params.source_w = static_cast<int>(dgrad ? problem.Q() : problem.W);
  params.out_h = static_cast<int>(dgrad ? problem.H : problem.P());
  params.out_w = static_cast<int>(dgrad ? problem.W : problem.Q());
  params.channels_inner = depthwise_channels_inner(problem, source.strides);
  const int strips = div_up(params.out_w, kGenericStrip);
  if (params.channels_inner) {
    params.channels = static_cast<int>(std::min<int64_t>(count, strips == 1 ? kThreads : 32));
    params.strips = std::min(strips, kThreads / params.channels);
  } else {
    params.strips = std::min(strips, 32);
    params.channels = static_cast<int>(std::min<int64_t>(count, kThreads / params.strips));
  }
  const int64_t blocks = div_up(count, params.channels);
  const int col_tiles = div_up(strips, params.strips);
  params.blocks = FastDivmod(static_cast<uint32_t>(blocks));
  params.col_tiles = FastDivmod(static_cast<uint32_t>(col_tiles));
  params.rows = FastDivmod(static_cast<uint32_t>(params.out_h));
  params.threads_inner =
      FastDivmod(static_cast<uint32_t>(params.channels_inner ? params.channels : params.strips));
  return grid_of(
      checked_product("blocks", problem.N, blocks, int64_t{col_tiles}, int64_t{params.out_h}),
      grid);
}

template <typename T>
size_t piece_bytes(const DepthwiseGenericParams& params) {
  return sizeof(accumulator_t<T>) * kGenericPitch * static_cast<size_t>(params.channels);
}

template <typename T>
cudaError_t fprop(const CudaConvArgs& args) {
  DepthwiseGenericParams params = common_params(args);
  dim3 grid;
  if (args.op == ConvOp::dgrad) {
    // Of stride 1: dx is dy convolved with the turned filter, and begins where its last tap meets
    // dy.
    const auto pad = [](const ConvAxis& axis) {
      return static_cast<int>(-with_taps_reversed(dgrad_axis(axis, 0)).source_first);
    };
    params.flip_filter = true;
    params.pad_h = pad(h_axis(args.problem));
    params.pad_w = pad(w_axis(args.problem));
    if (!tile_rows(params, args, args.y, args.x, args.problem.C, grid)) {
      return cudaErrorNotSupported;
    }
  } else {
    params.epilogue = args.epilogue;
    if (!tile_rows(params, args, args.x, args.y, args.problem.K, grid)) {
      return cudaErrorNotSupported;
    }
  }
  return launch(conv2d_fprop_depthwise_generic<T, kThreads>, grid, kThreads, piece_bytes<T>(params),
                args.stream, params);
}

template <typename T>
cudaError_t dgrad(const CudaConvArgs& args) {
  DepthwiseGenericParams params = common_params(args);
  dim3 grid;
  if (!tile_rows(params, args, args.y, args.x, args.problem.C, grid)) return cudaErrorNotSupported;
  return launch(conv2d_dgrad_depthwise_generic<T, kThreads>, grid, kThreads, piece_bytes<T>(params),
                args.stream, params);
}

template <typename T>
cudaError_t wgrad(const CudaConvArgs& args) {
  const ConvProblem& problem = args.problem;
  DepthwiseGenericParams params = common_params(args);
  params.source = args.x;
  params.out = args.y;
  params.source_h = static_cast<int>(problem.H);
  params.source_w = static_cast<int>(problem.W);
  params.out_h = static_cast<int>(problem.P());
  params.out_w = static_cast<int>(problem.Q());
  params.sums = args.workspace;
  const int64_t pieces = depthwise_generic_wgrad_pieces(problem);
  const int64_t channel_blocks = div_up(problem.K, kDepthwiseWgradLanes);
  params.pieces = static_cast<int>(pieces);
  params.pieces_per_row = FastDivmod(static_cast<uint32_t>(pieces / problem.R));
  params.piece_blocks = FastDivmod(static_cast<uint32_t>(div_up(pieces, kDepthwiseWgradRows)));
  params.blocks = FastDivmod(static_cast<uint32_t>(channel_blocks));
  params.slice_rows = div_up(problem.N * problem.P(), args.plan.splits);
  dim3 grid;
  if (!grid_of(depthwise_generic_wgrad_blocks(problem) * args.plan.splits, grid)) {
    return cudaErrorNotSupported;
  }
  const cudaError_t status =
      launch(conv2d_wgrad_depthwise_generic<T, kDepthwiseTapsPerThread, kDepthwiseWgradLanes,
                                            kDepthwiseWgradRows>,
             grid, kDepthwiseWgradLanes * kDepthwiseWgradRows, 0, args.stream, params);
  return status == cudaSuccess ? depthwise_reduce(args, args.plan.splits) : status;
}

}  // namespace

cudaError_t depthwise_reduce(const CudaConvArgs& args, int parts) {
  const ConvProblem& problem = args.problem;
  DepthwiseReduceParams params;
  params.sums = args.workspace;
  params.out = args.w;
  params.elements = problem.K * problem.R * problem.S;
  params.splits = parts;
  params.taps = FastDivmod(static_cast<uint32_t>(problem.R * problem.S));
  params.filter_width = FastDivmod(static_cast<uint32_t>(problem.S));
  dim3 grid;
  if (!grid_of(div_up(params.elements, kReduceElements), grid)) return cudaErrorNotSupported;
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return launch(conv2d_depthwise_reduce<T, kReduceElements, kReduceGroups>, grid,
                  kReduceElements * kReduceGroups,
                  sizeof(ReduceStorage<accumulator_t<T>, kReduceElements, kReduceGroups>),
                  args.stream, params);
  });
}

cudaError_t conv2d_depthwise_generic(const CudaConvArgs& args) {
  const ConvProblem& problem = args.problem;
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (args.op == ConvOp::wgrad) return wgrad<T>(args);
    const bool gathers = problem.stride_h != 1 || problem.stride_w != 1 || problem.K != problem.C;
    return args.op == ConvOp::dgrad && gathers ? dgrad<T>(args) : fprop<T>(args);
  });
}

}  // namespace fastconv::cuda
