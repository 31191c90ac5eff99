#include <cstdint>

#include "cuda/launch/conv2d_depthwise.h"

namespace fastconv::cuda {
namespace {

constexpr int kBanksBytes = 128;

bool aligned(const void* address, int bytes) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0;
}

int round_up(int value, int multiple) { return div_up(value, multiple) * multiple; }

int tile_elements(const SharedTile& tile, int channels, int rows) {
  return tile.channels_inner ? rows * tile.pitch_h : channels * tile.pitch_c;
}

}  // namespace

SharedTile shared_tile(const ConvArgs& args, const TensorView& tensor, const DepthwiseTile& tile,
                       int64_t C, int64_t H, int64_t W, int rows, int cols, bool any_column) {
  const int element = static_cast<int>(dtype_bytes(args.dtype));
  SharedTile shared;
  shared.channels_inner = tile.channels_inner;
  shared.unit_bytes =
      depthwise_copy_bytes(tensor.strides, tile.channels_inner, args.problem.N, C, H, W, args.dtype,
                           aligned(tensor.data, 16), aligned(tensor.data, 4));
  shared.unit = shared.unit_bytes / element;
  if (tile.channels_inner) {
    const int units = div_up(tile.channels, shared.unit);
    shared.pitch_c = 1;
    shared.pitch_w = units * shared.unit;
    shared.pitch_h = shared.pitch_w * cols;
    shared.inner = FastDivmod(static_cast<uint32_t>(units));
    shared.middle = FastDivmod(static_cast<uint32_t>(cols));
    shared.units = static_cast<uint32_t>(units * cols * rows);
  } else {
    // The first copy may begin up to unit - 1 columns before the tile.
    const int width = round_up(any_column ? cols + shared.unit - 1 : cols, shared.unit);
    shared.pitch_w = 1;
    shared.pitch_h = width;
    shared.pitch_c = width * rows;
    // Channels must not begin in the same bank.
    if (shared.pitch_c * element % kBanksBytes == 0) {
      shared.pitch_c += max_of(shared.unit, 4 / element);
    }
    shared.inner = FastDivmod(static_cast<uint32_t>(width / shared.unit));
    shared.middle = FastDivmod(static_cast<uint32_t>(rows));
    shared.units = static_cast<uint32_t>(width / shared.unit * rows * tile.channels);
  }
  return shared;
}

DepthwiseParams depthwise_params(const ConvArgs& args, const DepthwiseTile& tile,
                                 const TensorView& gathered, const TensorView& result) {
  const ConvProblem& o = args.problem;
  const int P = static_cast<int>(o.P()), Q = static_cast<int>(o.Q());
  const bool dgrad = args.op == ConvOp::dgrad, pairs = dgrad && o.stride_h == 2;
  const int stride = static_cast<int>(o.stride_h), filter = static_cast<int>(o.R);
  const int pad_h = static_cast<int>(o.pad_h), pad_w = static_cast<int>(o.pad_w);

  DepthwiseParams params;
  params.in = gathered;
  params.filter = args.w;
  params.out = result;
  params.C = static_cast<int>(o.C);
  params.in_h = dgrad ? P : static_cast<int>(o.H);
  params.in_w = dgrad ? Q : static_cast<int>(o.W);
  params.out_h = dgrad ? static_cast<int>(o.H) : P;
  params.out_w = dgrad ? static_cast<int>(o.W) : Q;
  params.channel_blocks = FastDivmod(static_cast<uint32_t>(tile.channel_blocks));
  params.row_tiles = FastDivmod(static_cast<uint32_t>(tile.row_tiles));
  params.col_tiles = FastDivmod(static_cast<uint32_t>(tile.col_tiles));
  params.channels = tile.channels;
  params.strips = tile.strips;
  params.rows = tile.rows;
  params.tile_cols = tile.tile_cols();
  params.threads_inner =
      FastDivmod(static_cast<uint32_t>(tile.channels_inner ? tile.channels : tile.strips));
  params.channels_inner = tile.channels_inner;
  if (pairs) {
    // Padded positions o = h + pad are counted from the even one at or before o = pad.
    const auto origin = [&](int pad) { return (pad - pad % 2) / 2 - (filter - 1) / 2; };
    params.in_origin_h = origin(pad_h);
    params.in_origin_w = origin(pad_w);
    params.in_step_h = params.rows / 2;
    params.in_step_w = params.tile_cols / 2;
    params.out_origin_h = -(pad_h % 2);
    params.out_origin_w = -(pad_w % 2);
  } else {
    params.in_origin_h = dgrad ? pad_h - (filter - 1) : -pad_h;
    params.in_origin_w = dgrad ? pad_w - (filter - 1) : -pad_w;
    params.in_step_h = params.rows * (dgrad ? 1 : stride);
    params.in_step_w = params.tile_cols * (dgrad ? 1 : stride);
    params.flip_filter = dgrad;
  }

  const int element = static_cast<int>(dtype_bytes(args.dtype));
  params.in_tile = shared_tile(args, gathered, tile, o.C, params.in_h, params.in_w, tile.in_rows,
                               tile.in_cols, true);
  const bool wgrad = args.op == ConvOp::wgrad;
  if (!wgrad) params.in_tile.offset = round_up(filter * filter * tile.channels * element, 16);
  params.out_tile = shared_tile(args, result, tile, o.C, params.out_h, params.out_w, tile.rows,
                                tile.tile_cols(), wgrad);
  params.out_tile.offset = round_up(
      params.in_tile.offset + tile_elements(params.in_tile, tile.channels, tile.in_rows) * element,
      16);
  // Vectors of results must begin at the tile's first column in every tile.
  const bool one_tile = tile.col_tiles == 1;
  if (!wgrad && !tile.channels_inner && !one_tile &&
      (params.out_origin_w != 0 || tile.tile_cols() % params.out_tile.unit != 0)) {
    SharedTile& out = params.out_tile;
    out.inner = FastDivmod(static_cast<uint32_t>(out.pitch_h));
    out.units = static_cast<uint32_t>(out.pitch_h * tile.rows * tile.channels);
    out.unit = 1;
    out.unit_bytes = element;
  }
  // Threads along columns hold adjacent columns: without staging their stores would be scattered.
  params.stage_out = !wgrad && !tile.channels_inner;
  return params;
}

size_t depthwise_shared_bytes(const DepthwiseParams& params, const ConvArgs& args) {
  // Where the tile of x ends, and beside it that of dy or of staged results.
  const size_t out = static_cast<size_t>(params.out_tile.offset);
  if (args.op != ConvOp::wgrad && !params.stage_out) return out;
  return out + static_cast<size_t>(tile_elements(params.out_tile, params.channels, params.rows)) *
                   static_cast<size_t>(dtype_bytes(args.dtype));
}

cudaError_t conv2d_depthwise(const ConvArgs& args) {
  if (args.plan.tile == 0) return conv2d_depthwise_generic(args);
  switch (args.op) {
    case ConvOp::fprop:
      return conv2d_fprop_depthwise(args);
    case ConvOp::dgrad:
      return kDepthwiseConfigs[args.plan.tile].stride == 1 ? conv2d_fprop_depthwise(args)
                                                           : conv2d_dgrad_depthwise(args);
    case ConvOp::wgrad:
      return conv2d_wgrad_depthwise(args);
  }
  return cudaErrorInvalidValue;
}

}  // namespace fastconv::cuda
