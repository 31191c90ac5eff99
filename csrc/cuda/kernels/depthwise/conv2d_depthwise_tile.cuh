// What the depthwise kernels for a filter known at compile time share: tensors' tiles in shared
// memory, and which part of the problem a block owns.
//
// A tile is [row][column][channel] where lanes run along channels (channels_last) and
// [channel][row][column] where they run along columns (NCHW). It is filled by copies of 16 bytes
// where strides and address allow, else of 4 bytes or of one element: any strides are right.
//
// Padding is zeros that are multiplied like any element, as in the implicit GEMM: with an infinite
// filter the product is NaN. Whole rows of padding are skipped where no filter is infinite or NaN.
#pragma once

#include "cuda/device/cp_async.cuh"
#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/numeric.cuh"
#include "problem/activation.h"
#include "problem/epilogue.h"
#include "problem/tensor.h"

namespace fastconv::cuda {

// Blocks that must fit onto a multiprocessor at once, which bounds a thread's registers: 80 for
// 3x3 (64 would spill), 128 for 5x5, 168 for 7x7 with its smaller blocks.
template <int kFilter>
constexpr int kDepthwiseMinBlocks = kFilter == 5 ? 2 : 3;

// How far a thread's units lie apart, which are as many as the block has threads: the digits of
// that number along the axes of a tile, and what moves from each unit to the next in the tensor
// (step) and in shared memory (shared_step). The carries are added where an axis passes its end.
struct TileWalk {
  int inner = 0, middle = 0, outer = 0;  // positions
  int64_t step = 0, inner_carry = 0, middle_carry = 0;
  int shared_step = 0, shared_inner_carry = 0, shared_middle_carry = 0;
};

// How a tile lies in shared memory, and the copies (units) that fill it.
struct SharedTile {
  FastDivmod inner, middle;                   // units along the two axes that are counted first
  uint32_t units = 0;                         // copies that fill the tile
  int unit = 1, unit_bytes = 0;               // elements of a copy, adjacent in both memories
  int pitch_c = 0, pitch_h = 0, pitch_w = 0;  // elements from a channel, row, column to the next
  int offset = 0;                             // in bytes, from the begin of shared memory
  bool channels_inner = false;
  TileWalk walk;
};

// Calls visit(offset, at, valid) for each of a thread's units of the tile whose first element is
// (n, c0, h0, w0): where it is in the tensor and in the tile, in elements, and whether it lies in
// the tensor's first C x H x W positions.
template <typename Visitor>
__device__ __forceinline__ void for_each_unit(const SharedTile& tile, const TensorView& tensor,
                                              int64_t n, int c0, int h0, int w0, int C, int H,
                                              int W, const Visitor& visit) {
  const bool channels_inner = tile.channels_inner;
  const int inner_first = channels_inner ? c0 : w0, inner_size = channels_inner ? C : W;
  const int middle_first = channels_inner ? w0 : h0, middle_size = channels_inner ? W : H;
  const int outer_first = channels_inner ? h0 : c0, outer_size = channels_inner ? H : C;
  const int inner_count = static_cast<int>(tile.inner.divisor()) * tile.unit;
  const int middle_count = static_cast<int>(tile.middle.divisor());

  uint32_t inner_digit, middle_digit;
  const uint32_t rest = tile.inner.divmod(threadIdx.x, inner_digit);
  const int outer_digit = static_cast<int>(tile.middle.divmod(rest, middle_digit));
  int inner = inner_first + static_cast<int>(inner_digit) * tile.unit;
  int middle = middle_first + static_cast<int>(middle_digit);
  int outer = outer_first + outer_digit;
  const int c = channels_inner ? inner : outer, h = channels_inner ? outer : middle;
  const int w = channels_inner ? middle : inner;
  int at = (c - c0) * tile.pitch_c + (h - h0) * tile.pitch_h + (w - w0) * tile.pitch_w;
  // Unsigned, because the stride of an axis with one position may be anything.
  const auto product = [](int64_t position, int64_t stride) {
    return static_cast<uint64_t>(position) * static_cast<uint64_t>(stride);
  };
  uint64_t offset = product(n, tensor.strides.n) + product(c, tensor.strides.c) +
                    product(h, tensor.strides.h) + product(w, tensor.strides.w);
  const TileWalk& walk = tile.walk;
  for (uint32_t unit = threadIdx.x; unit < tile.units; unit += blockDim.x) {
    visit(offset, at,
          static_cast<unsigned>(inner) < static_cast<unsigned>(inner_size) &&
              static_cast<unsigned>(middle) < static_cast<unsigned>(middle_size) &&
              static_cast<unsigned>(outer) < static_cast<unsigned>(outer_size));
    inner += walk.inner, middle += walk.middle, outer += walk.outer;
    offset += static_cast<uint64_t>(walk.step), at += walk.shared_step;
    if (inner - inner_first >= inner_count) {
      inner -= inner_count, ++middle;
      offset += static_cast<uint64_t>(walk.inner_carry), at += walk.shared_inner_carry;
    }
    if (middle - middle_first >= middle_count) {
      middle -= middle_count, ++outer;
      offset += static_cast<uint64_t>(walk.middle_carry), at += walk.shared_middle_carry;
    }
  }
}

// The first column of a tile that must hold column w: where copies take several columns they begin
// at a multiple of them.
__device__ __forceinline__ int aligned_column(const SharedTile& tile, int w) {
  return tile.channels_inner ? w : w - ((w % tile.unit) + tile.unit) % tile.unit;
}

// Begins to fill a tile whose first element is (n, c0, h0, w0); elements outside of the tensor are
// zero. cp_async_commit, its wait and a barrier must follow.
template <typename T>
__device__ __forceinline__ void fill_tile(T* shared, const SharedTile& tile,
                                          const TensorView& tensor, int64_t n, int c0, int h0,
                                          int w0, int C, int H, int W) {
  const T* const data = static_cast<const T*>(tensor.data);
  const auto fill = [&](const auto& copy) {
    for_each_unit(tile, tensor, n, c0, h0, w0, C, H, W, [&](uint64_t offset, int at, bool valid) {
      copy(shared + at, valid ? data + offset : data, valid);
    });
  };
  if (tile.unit_bytes == 16) {
    fill([](T* to, const T* from, bool valid) { cp_async_16(to, from, valid); });
  } else if (tile.unit_bytes == 4) {
    fill([](T* to, const T* from, bool valid) { cp_async_4(to, from, valid); });
  } else {
    fill([](T* to, const T* from, bool valid) { *to = valid ? *from : from_accumulator<T>(0); });
  }
}

template <int kRows, int kColumns>
__device__ __forceinline__ bool all_finite(const float (&values)[kRows][kColumns]) {
  bool finite = true;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      finite = finite & (fabsf(values[row][column]) < HUGE_VALF);
    }
  }
  return finite;
}

struct DepthwiseParams {
  TensorView source, filter, out;  // x w y, or dy w dx
  Epilogue epilogue;               // of fprop
  int C = 0, source_h = 0, source_w = 0, out_h = 0, out_w = 0;
  FastDivmod channel_blocks, row_tiles, col_tiles;
  // Where the source of the first tile begins, and from there to that of the next tile.
  int source_first_h = 0, source_first_w = 0, tile_source_step_h = 0, tile_source_step_w = 0;
  int first_h = 0, first_w = 0;  // of the output: 0 or, for dgrad of stride 2, -1
  int channels = 0, strips = 0, rows = 0, tile_cols = 0;
  FastDivmod threads_inner;  // channels where lanes run along them, else strips
  SharedTile source_tile, out_tile;
  bool channels_inner = false;
  bool stage_out = false;    // results pass shared memory so that stores are of adjacent columns
  bool flip_filter = false;  // dgrad of stride 1 is fprop with the filter turned by 180 degrees
};

// The part of the problem that a block and a thread own.
struct DepthwiseWork {
  int64_t n = 0;
  int c0 = 0, source_first_h = 0, source_first_w = 0, first_h = 0, first_w = 0;
  int channel = 0, strip = 0;  // of the thread, within the block
  bool active = false;         // whether the thread computes

  // A thread owns `vector` adjacent channels.
  __device__ __forceinline__ DepthwiseWork(const DepthwiseParams& params, uint32_t block,
                                           int vector = 1) {
    // Neighbouring blocks share lines of memory: of pixels where channels are adjacent.
    uint32_t channel_block = 0, col_tile = 0, row_tile = 0, rest = block;
    if (params.channels_inner) rest = params.channel_blocks.divmod(rest, channel_block);
    rest = params.col_tiles.divmod(rest, col_tile);
    rest = params.row_tiles.divmod(rest, row_tile);
    if (!params.channels_inner) rest = params.channel_blocks.divmod(rest, channel_block);
    n = rest;
    c0 = static_cast<int>(channel_block) * params.channels;
    source_first_h = params.source_first_h + static_cast<int>(row_tile) * params.tile_source_step_h;
    source_first_w = params.source_first_w + static_cast<int>(col_tile) * params.tile_source_step_w;
    first_h = params.first_h + static_cast<int>(row_tile) * params.rows;
    first_w = params.first_w + static_cast<int>(col_tile) * params.tile_cols;

    uint32_t inner;
    const uint32_t outer = params.threads_inner.divmod(threadIdx.x, inner);
    channel = static_cast<int>(params.channels_inner ? inner : outer) * vector;
    strip = static_cast<int>(params.channels_inner ? outer : inner);
    active = channel < params.channels && strip < params.strips && c0 + channel < params.C;
  }
};

// The block's filters as [channel][tap]. The number of taps is odd, so that lanes along channels
// meet no bank twice.
template <typename T, int kFilter>
__device__ __forceinline__ void fill_filters(T* shared, const DepthwiseParams& params, int c0) {
  constexpr int kTaps = kFilter * kFilter;
  const int count = min_of(params.channels, params.C - c0) * kTaps;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int channel = i / kTaps, tap = i % kTaps;
    const int from = params.flip_filter ? kTaps - 1 - tap : tap;
    shared[i] = *params.filter.at<T>(c0 + channel, 0, from / kFilter, from % kFilter);
  }
}

// The bias of a channel; without one -0, to which adding changes nothing.
template <typename T>
__device__ __forceinline__ float bias_of(const Epilogue& epilogue, int c) {
  return epilogue.bias == nullptr ? -0.0f : to_accumulator(static_cast<const T*>(epilogue.bias)[c]);
}

// bias, residual and activation of a strip. Branches stand outside of the loops over columns.
template <typename T, int kStrip>
__device__ __forceinline__ void apply_epilogue(float (&z)[kStrip], float bias,
                                               const Epilogue& epilogue, int64_t n, int c, int h,
                                               int w0, int width) {
#pragma unroll
  for (int e = 0; e < kStrip; ++e) z[e] += bias;
  if (epilogue.residual.data != nullptr) {
    const T* const residual = epilogue.residual.at<T>(n, c, h, w0);
#pragma unroll
    for (int e = 0; e < kStrip; ++e) {
      if (w0 + e < width) z[e] += to_accumulator(residual[e * epilogue.residual.strides.w]);
    }
  }
  if (epilogue.activation.kind == ActivationKind::none) return;
  if (epilogue.activation.kind == ActivationKind::relu) {
#pragma unroll
    for (int e = 0; e < kStrip; ++e) z[e] = activate(z[e], Activation{ActivationKind::relu});
    return;
  }
  // The others are long: one copy of the code, past which the strip is turned round in registers.
#pragma unroll 1
  for (int turn = 0; turn < kStrip; ++turn) {
    const float y = activate(z[0], epilogue.activation);
#pragma unroll
    for (int e = 0; e + 1 < kStrip; ++e) z[e] = z[e + 1];
    z[kStrip - 1] = y;
  }
}

// Stores row `row` of a thread's strip: to shared memory, or straight to memory.
template <typename T, int kStrip>
__device__ __forceinline__ void store_strip(const float (&z)[kStrip], T* staged,
                                            const DepthwiseParams& params,
                                            const DepthwiseWork& work, int row) {
  const int w0 = work.first_w + work.strip * kStrip;
  const auto inside = [&](int e) { return w0 + e >= 0 && w0 + e < params.out_w; };
  if (params.stage_out) {
    T* const shared = staged + work.channel * params.out_tile.pitch_c +
                      row * params.out_tile.pitch_h + w0 - max_of(work.first_w, 0);
#pragma unroll
    for (int e = 0; e < kStrip; ++e) {
      // The tile has room for whole strips; dgrad of stride 2 may begin one column before it.
      if (e > 0 || w0 >= 0) shared[e] = from_accumulator<T>(z[e]);
    }
  } else {
    T* const out = params.out.at<T>(work.n, work.c0 + work.channel, work.first_h + row, w0);
#pragma unroll
    for (int e = 0; e < kStrip; ++e) {
      if (inside(e)) out[e * params.out.strides.w] = from_accumulator<T>(z[e]);
    }
  }
}

// Stores the tile of results that store_strip has staged; a barrier stands before.
template <typename T>
__device__ __forceinline__ void drain_tile(const T* staged, const DepthwiseParams& params,
                                           const DepthwiseWork& work) {
  const SharedTile& tile = params.out_tile;
  const int w_end = min_of(work.first_w + params.tile_cols, params.out_w);
  T* const data = static_cast<T*>(params.out.data);
  for_each_unit(tile, params.out, work.n, work.c0, work.first_h, max_of(work.first_w, 0), params.C,
                params.out_h, w_end, [&](uint64_t offset, int at, bool valid) {
                  if (!valid) return;
                  const T* const from = staged + at;
                  T* const to = data + offset;
                  if (tile.unit_bytes == 16) {
                    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
                  } else if (tile.unit_bytes == 4) {
                    *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<const uint32_t*>(from);
                  } else {
                    *to = *from;
                  }
                });
}

}  // namespace fastconv::cuda
