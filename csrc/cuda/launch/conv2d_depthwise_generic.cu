#include <algorithm>

#include "cuda/kernels/depthwise/conv2d_depthwise_generic.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_reduce.cuh"
#include "cuda/launch/conv2d_depthwise.h"

namespace fastconv::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kReduceElements = 32;
constexpr int kReduceGroups = 8;

DepthwiseGenericParams common_params(const ConvArgs& args) {
  const ConvProblem& o = args.problem;
  DepthwiseGenericParams params;
  params.N = o.N;
  params.K = static_cast<int>(o.K);
  params.R = static_cast<int>(o.R);
  params.S = static_cast<int>(o.S);
  params.stride_h = static_cast<int>(o.stride_h);
  params.stride_w = static_cast<int>(o.stride_w);
  params.pad_h = static_cast<int>(o.pad_h);
  params.pad_w = static_cast<int>(o.pad_w);
  params.dilation_h = static_cast<int>(o.dilation_h);
  params.dilation_w = static_cast<int>(o.dilation_w);
  params.multiplier = FastDivmod(static_cast<uint32_t>(o.filters_per_group()));
  params.stride_w_div = FastDivmod(static_cast<uint32_t>(o.stride_w));
  params.filter = args.w;
  return params;
}

// Blocks of one row of `result`, of which there are `count` channels.
bool tile_rows(DepthwiseGenericParams& params, const ConvArgs& args, const TensorView& in,
               const TensorView& out, int64_t count, dim3& grid) {
  const bool dgrad = args.op == ConvOp::dgrad;
  const ConvProblem& o = args.problem;
  params.in = in;
  params.out = out;
  params.in_h = static_cast<int>(dgrad ? o.P() : o.H);
  params.in_w = static_cast<int>(dgrad ? o.Q() : o.W);
  params.out_h = static_cast<int>(dgrad ? o.H : o.P());
  params.out_w = static_cast<int>(dgrad ? o.W : o.Q());
  params.channels_inner = depthwise_channels_inner(o, in.strides);
  const int strips = div_up(params.out_w, kGenericStrip);
  if (params.channels_inner) {
    params.channels = static_cast<int>(std::min<int64_t>(count, strips == 1 ? kThreads : 32));
    params.strips = std::min(strips, kThreads / params.channels);
  } else {
    params.strips = std::min(strips, 32);
    params.channels = static_cast<int>(std::min<int64_t>(count, kThreads / params.strips));
  }
  const int64_t blocks = ceil_div(count, params.channels);
  const int col_tiles = div_up(strips, params.strips);
  params.blocks = FastDivmod(static_cast<uint32_t>(blocks));
  params.col_tiles = FastDivmod(static_cast<uint32_t>(col_tiles));
  params.rows = FastDivmod(static_cast<uint32_t>(params.out_h));
  params.threads_inner =
      FastDivmod(static_cast<uint32_t>(params.channels_inner ? params.channels : params.strips));
  return grid_of(checked_product("blocks", o.N, blocks, int64_t{col_tiles}, int64_t{params.out_h}),
                 grid);
}

template <typename T>
size_t piece_bytes(const DepthwiseGenericParams& params) {
  return sizeof(accumulator_t<T>) * kGenericPitch * static_cast<size_t>(params.channels);
}

template <typename T>
cudaError_t fprop(const ConvArgs& args) {
  DepthwiseGenericParams params = common_params(args);
  dim3 grid;
  if (args.op == ConvOp::dgrad) {
    // Of stride 1: dx is dy convolved with the turned filter.
    params.flip_filter = true;
    params.pad_h = params.dilation_h * (params.R - 1) - params.pad_h;
    params.pad_w = params.dilation_w * (params.S - 1) - params.pad_w;
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
cudaError_t dgrad(const ConvArgs& args) {
  DepthwiseGenericParams params = common_params(args);
  dim3 grid;
  if (!tile_rows(params, args, args.y, args.x, args.problem.C, grid)) return cudaErrorNotSupported;
  return launch(conv2d_dgrad_depthwise_generic<T, kThreads>, grid, kThreads, piece_bytes<T>(params),
                args.stream, params);
}

template <typename T>
cudaError_t wgrad(const ConvArgs& args) {
  const ConvProblem& o = args.problem;
  DepthwiseGenericParams params = common_params(args);
  params.in = args.x;
  params.out = args.y;
  params.in_h = static_cast<int>(o.H);
  params.in_w = static_cast<int>(o.W);
  params.out_h = static_cast<int>(o.P());
  params.out_w = static_cast<int>(o.Q());
  params.sums = args.workspace;
  const int64_t pieces = depthwise_generic_wgrad_pieces(o);
  const int64_t channel_blocks = ceil_div(o.K, kDepthwiseWgradLanes);
  params.pieces = static_cast<int>(pieces);
  params.pieces_per_row = FastDivmod(static_cast<uint32_t>(pieces / o.R));
  params.piece_blocks = FastDivmod(static_cast<uint32_t>(ceil_div(pieces, kDepthwiseWgradRows)));
  params.blocks = FastDivmod(static_cast<uint32_t>(channel_blocks));
  params.slices = args.plan.splits;
  params.slice_rows = ceil_div(o.N * o.P(), args.plan.splits);
  dim3 grid;
  if (!grid_of(depthwise_generic_wgrad_blocks(o) * args.plan.splits, grid)) {
    return cudaErrorNotSupported;
  }
  const cudaError_t status =
      launch(conv2d_wgrad_depthwise_generic<T, kDepthwiseTapsPerThread, kDepthwiseWgradLanes,
                                            kDepthwiseWgradRows>,
             grid, kDepthwiseWgradLanes * kDepthwiseWgradRows, 0, args.stream, params);
  return status == cudaSuccess ? depthwise_reduce(args, args.plan.splits) : status;
}

}  // namespace

cudaError_t depthwise_reduce(const ConvArgs& args, int slices) {
  const ConvProblem& o = args.problem;
  DepthwiseReduceParams params;
  params.sums = args.workspace;
  params.out = args.w;
  params.elements = o.K * o.R * o.S;
  params.slices = slices;
  params.taps = FastDivmod(static_cast<uint32_t>(o.R * o.S));
  params.filter_width = FastDivmod(static_cast<uint32_t>(o.S));
  dim3 grid;
  if (!grid_of(ceil_div(params.elements, kReduceElements), grid)) return cudaErrorNotSupported;
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return launch(conv2d_depthwise_reduce<T, kReduceElements, kReduceGroups>, grid,
                  kReduceElements * kReduceGroups,
                  sizeof(ReduceStorage<accumulator_t<T>, kReduceElements, kReduceGroups>),
                  args.stream, params);
  });
}

cudaError_t conv2d_depthwise_generic(const ConvArgs& args) {
  const ConvProblem& o = args.problem;
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (args.op == ConvOp::wgrad) return wgrad<T>(args);
    const bool gathers = o.stride_h != 1 || o.stride_w != 1 || o.K != o.C;
    return args.op == ConvOp::dgrad && gathers ? dgrad<T>(args) : fprop<T>(args);
  });
}

}  // namespace fastconv::cuda
