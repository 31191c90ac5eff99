// From a pooling call to kernel parameters: shared by the launchers of pool2d_*.cu.
#pragma once

#include <stdexcept>

#include "cuda/kernels/pool/pool2d_windows.cuh"
#include "cuda/launch/launch.h"
#include "cuda/launch/layout.h"
#include "cuda/launch/pool2d.h"

namespace fastconv::cuda {

// Threads beyond this number no longer help to hide latency.
constexpr int64_t kEnoughPoolThreads = 1 << 18;

inline PoolAxis pool_axis(const PoolAxisSizes& sizes, bool count_include_pad) {
  if (sizes.in > INT32_MAX || sizes.out > INT32_MAX) {
    throw std::invalid_argument("pooling on CUDA: an axis has 2^31 positions or more");
  }
  PoolAxis axis;
  axis.in = sizes.in;
  axis.out = sizes.out;
  axis.kernel = sizes.kernel;
  axis.stride = sizes.stride;
  axis.pad = sizes.pad;
  axis.dilation = sizes.dilation;
  axis.adaptive = sizes.adaptive;
  axis.count_include_pad = count_include_pad;
  if (sizes.adaptive) {
    axis.by_in = Divider(sizes.in, sizes.in * sizes.out);
    axis.by_out = Divider(sizes.out, (sizes.out + 1) * sizes.in + sizes.out);
  } else {
    const int64_t largest = sizes.in + sizes.pad;
    axis.by_stride = Divider(sizes.stride, largest + sizes.stride);
    axis.by_dilation = Divider(sizes.dilation, largest + sizes.dilation);
  }
  return axis;
}

inline TensorSize x_size(const PoolArgs& args) { return {args.N, args.C, args.h.in, args.w.in}; }
inline TensorSize y_size(const PoolArgs& args) { return {args.N, args.C, args.h.out, args.w.out}; }

// Whether kVectorSize<T> channels can be moved at once.
template <typename T>
bool pool_has_vectors(const PoolArgs& args) {
  constexpr int kVector = kVectorSize<T>;
  constexpr auto kAlong = &Strides::c;
  if (!has_vectors<T, kVector>(args.x, x_size(args), kAlong) ||
      !has_vectors<T, kVector>(args.y, y_size(args), kAlong)) {
    return false;
  }
  if (args.places.data == nullptr) return true;
  return args.offsets ? has_vectors<int8_t, kVector>(args.places, y_size(args), kAlong)
                      : has_vectors<int64_t, kVector>(args.places, y_size(args), kAlong);
}

// All but the grid.
inline PoolParams pool_params(const PoolArgs& args) {
  PoolParams params;
  params.h = pool_axis(args.h, args.count_include_pad);
  params.w = pool_axis(args.w, args.count_include_pad);
  params.x = args.x;
  params.y = args.y;
  params.places = args.places;
  params.offsets = args.offsets;
  params.divisor = args.divisor;
  params.index_w = args.w.in;
  return params;
}

inline cudaError_t launch_pool(void (*kernel)(PoolParams), const PoolParams& params,
                               size_t shared_memory, cudaStream_t stream) {
  const int64_t owners = kPoolThreads / (params.lanes_h * params.lanes_w);
  const int64_t blocks = div_up(params.grid.size(), owners);
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), kPoolThreads, shared_memory, stream,
                params);
}

// Rows for each thread: more share the cost of finding a position, fewer leave nobody idle.
inline int pool_rows(int64_t elements, int64_t height) {
  int rows = 1;
  while (rows < 4 && rows < height && elements / (2 * rows) >= kEnoughPoolThreads) rows *= 2;
  return rows;
}

// fwd by pool2d_reduce: how many threads share a window.
inline void share_windows(const PoolArgs& args, PoolParams& params, int64_t threads) {
  constexpr int64_t kTapsOfLane = 8, kMostTapsOfLane = 64, kFarApart = 8;
  const int64_t taps_h = args.h.longest_window(), taps_w = args.w.longest_window();
  const int64_t step_w = args.w.adaptive ? args.w.in / args.w.out : args.w.stride;
  // Neighbours that read far from each other would each fetch sectors for themselves.
  const bool apart = !params.grid.channels_fastest() && (args.w.out == 1 || step_w >= kFarApart) &&
                     taps_w >= kFarApart;
  int lanes = 1;
  while (2 * lanes <= kPoolThreads && taps_h * taps_w >= 2 * lanes * kTapsOfLane &&
         (apart || threads * lanes < kEnoughPoolThreads ||
          taps_h * taps_w > lanes * kMostTapsOfLane)) {
    const bool along_w = 2 * params.lanes_w <= taps_w;
    (along_w ? params.lanes_w : params.lanes_h) *= 2;
    lanes *= 2;
  }
}

}  // namespace fastconv::cuda
