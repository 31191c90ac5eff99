// Which depthwise kernel a call starts, and the parameters that all kernels for a known filter
// share.
#include <cstdint>

#include "cuda/launch/conv2d_depthwise.h"
#include "problem/layout.h"

namespace fastconv::cuda {
namespace {

constexpr int kBanksBytes = 128;  // of shared memory, one word from each bank

int tile_elements(const SharedTile& tile, int channels, int rows) {
  return tile.channels_inner ? rows * tile.pitch_h : channels * tile.pitch_c;
}

// Where the first tile of an axis begins: at which output position, and at which source position,
// the lowest that one of its taps meets.
struct TileOrigin {
  int first, source_first;
};

TileOrigin tile_origin(ConvOp op, const ConvAxis& axis) {
  if (op != ConvOp::dgrad) return {0, static_cast<int>(fprop_axis(axis).source_first)};
  // Tiles of dgrad begin where h + pad is a multiple of the stride, so that the phases of their
  // columns are known at compile time. With an odd padding and stride 2 that is h = -1, one step
  // before the first position of its phase.
  const int64_t phase = axis.pad % axis.stride;
  const GatherAxis gather = with_taps_reversed(dgrad_axis(axis, phase));
  const int64_t before = phase == 0 ? 0 : 1;
  return {static_cast<int>(phase - before * gather.step),
          static_cast<int>(gather.source_first - before * gather.source_step)};
}

TileWalk tile_walk(const SharedTile& tile, const Strides& strides, int threads) {
  TileWalk walk;
  const int inner_units = static_cast<int>(tile.inner.divisor());
  const int middle_units = static_cast<int>(tile.middle.divisor());
  const int inner = threads % inner_units, rest = threads / inner_units;
  walk.inner = inner * tile.unit;
  walk.middle = rest % middle_units;
  walk.outer = rest / middle_units;
  // From one unit to the next along each axis, and what that makes of a step and of carries.
  const auto moves = [&](auto along_inner, auto along_middle, auto along_outer, auto& step,
                         auto& inner_carry, auto& middle_carry) {
    step = along_inner * inner + along_middle * walk.middle + along_outer * walk.outer;
    inner_carry = along_middle - along_inner * inner_units;
    middle_carry = along_outer - along_middle * middle_units;
  };
  const bool channels_inner = tile.channels_inner;
  moves((channels_inner ? tile.pitch_c : tile.pitch_w) * tile.unit,
        channels_inner ? tile.pitch_w : tile.pitch_h, channels_inner ? tile.pitch_h : tile.pitch_c,
        walk.shared_step, walk.shared_inner_carry, walk.shared_middle_carry);
  // Unsigned, because the stride of an axis with one position may be anything.
  uint64_t step, inner_carry, middle_carry;
  const auto stride = [](int64_t elements) { return static_cast<uint64_t>(elements); };
  moves(stride(channels_inner ? strides.c : strides.w) * static_cast<uint64_t>(tile.unit),
        stride(channels_inner ? strides.w : strides.h),
        stride(channels_inner ? strides.h : strides.c), step, inner_carry, middle_carry);
  walk.step = static_cast<int64_t>(step);
  walk.inner_carry = static_cast<int64_t>(inner_carry);
  walk.middle_carry = static_cast<int64_t>(middle_carry);
  return walk;
}

}  // namespace

SharedTile shared_tile(const CudaConvArgs& args, const TensorView& tensor,
                       const DepthwiseTile& tile, int64_t C, int64_t H, int64_t W, int rows,
                       int cols, bool any_column) {
  const int element = static_cast<int>(element_size(args.dtype));
  SharedTile shared;
  shared.channels_inner = tile.channels_inner;
  shared.unit_bytes =
      depthwise_copy_bytes(tensor.strides, tile.channels_inner, args.problem.N, C, H, W, args.dtype,
                           is_aligned(tensor.data, 16), is_aligned(tensor.data, 4));
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

DepthwiseParams depthwise_params(const CudaConvArgs& args, const DepthwiseTile& tile,
                                 const TensorView& source, const TensorView& result) {
  const ConvProblem& problem = args.problem;
  const int P = static_cast<int>(problem.P()), Q = static_cast<int>(problem.Q());
  const bool dgrad = args.op == ConvOp::dgrad;
  const int stride = static_cast<int>(problem.stride_h), filter = static_cast<int>(problem.R);

  DepthwiseParams params;
  params.source = source;
  params.filter = args.w;
  params.out = result;
  params.C = static_cast<int>(problem.C);
  params.source_h = dgrad ? P : static_cast<int>(problem.H);
  params.source_w = dgrad ? Q : static_cast<int>(problem.W);
  params.out_h = dgrad ? static_cast<int>(problem.H) : P;
  params.out_w = dgrad ? static_cast<int>(problem.W) : Q;
  params.channel_blocks = FastDivmod(static_cast<uint32_t>(tile.channel_blocks));
  params.row_tiles = FastDivmod(static_cast<uint32_t>(tile.row_tiles));
  params.col_tiles = FastDivmod(static_cast<uint32_t>(tile.col_tiles));
  params.channels = tile.channels;
  params.strips = tile.strips;
  params.rows = tile.rows;
  params.tile_cols = tile.tile_cols();
  params.threads_inner = FastDivmod(
      static_cast<uint32_t>(tile.channels_inner ? tile.channels / tile.vector : tile.strips));
  params.channels_inner = tile.channels_inner;
  const TileOrigin h = tile_origin(args.op, h_axis(problem)),
                   w = tile_origin(args.op, w_axis(problem));
  params.first_h = h.first, params.first_w = w.first;
  params.source_first_h = h.source_first, params.source_first_w = w.source_first;
  // Source positions per output position: 1/2 for dgrad of stride 2.
  params.tile_source_step_h = dgrad ? params.rows / stride : params.rows * stride;
  params.tile_source_step_w = dgrad ? params.tile_cols / stride : params.tile_cols * stride;
  params.flip_filter = dgrad && stride == 1;
  if (tile.vector > 1) return params;  // which needs no tiles in shared memory

  const int element = static_cast<int>(element_size(args.dtype));
  params.source_tile = shared_tile(args, source, tile, problem.C, params.source_h, params.source_w,
                                   tile.source_rows, tile.source_cols, true);
  const bool wgrad = args.op == ConvOp::wgrad;
  if (!wgrad) params.source_tile.offset = round_up(filter * filter * tile.channels * element, 16);
  params.out_tile = shared_tile(args, result, tile, problem.C, params.out_h, params.out_w,
                                tile.rows, tile.tile_cols(), wgrad);
  params.out_tile.offset =
      round_up(params.source_tile.offset +
                   tile_elements(params.source_tile, tile.channels, tile.source_rows) * element,
               16);
  // Vectors of results must begin at the tile's first column in every tile.
  const bool one_tile = tile.col_tiles == 1;
  if (!wgrad && !tile.channels_inner && !one_tile &&
      (params.first_w != 0 || tile.tile_cols() % params.out_tile.unit != 0)) {
    SharedTile& out = params.out_tile;
    out.inner = FastDivmod(static_cast<uint32_t>(out.pitch_h));
    out.units = static_cast<uint32_t>(out.pitch_h * tile.rows * tile.channels);
    out.unit = 1;
    out.unit_bytes = element;
  }
  params.source_tile.walk = tile_walk(params.source_tile, source.strides, tile.threads());
  params.out_tile.walk = tile_walk(params.out_tile, result.strides, tile.threads());
  // Threads along columns hold adjacent columns: without staging their stores would be scattered.
  params.stage_out = !wgrad && !tile.channels_inner;
  return params;
}

size_t depthwise_shared_bytes(const DepthwiseParams& params, const CudaConvArgs& args) {
  // Where the tile of x ends, and beside it that of dy or of staged results.
  const size_t out = static_cast<size_t>(params.out_tile.offset);
  if (args.op != ConvOp::wgrad && !params.stage_out) return out;
  return out + static_cast<size_t>(tile_elements(params.out_tile, params.channels, params.rows)) *
                   static_cast<size_t>(element_size(args.dtype));
}

cudaError_t conv2d_depthwise(const CudaConvArgs& args) {
  const DepthwiseKernel kernel = args.plan.depthwise;
  if (kernel == DepthwiseKernel::any_geometry) return conv2d_depthwise_generic(args);
  switch (args.op) {
    case ConvOp::fprop:
      return conv2d_fprop_depthwise(args);
    case ConvOp::dgrad:
      return config_of(kernel).stride == 1 ? conv2d_fprop_depthwise(args)
                                           : conv2d_dgrad_depthwise(args);
    case ConvOp::wgrad:
      return conv2d_wgrad_depthwise(args);
  }
  return cudaErrorInvalidValue;
}

}  // namespace fastconv::cuda
