// The launch of pool2d_reduce, for both reductions.
#pragma once

#include "cuda/kernels/pool/pool2d_reduce.cuh"
#include "cuda/launch/pool2d_params.h"

namespace fastconv::cuda {

// A window over the whole of planes without gaps is a window over rows of H * W elements.
inline PoolArgs join_whole_planes(PoolArgs args) {
  const int64_t H = args.h.in, W = args.w.in;
  const bool join = args.h.is_whole() && args.w.is_whole() && rows_join(args.x, H, W) &&
                    H <= INT32_MAX / W && !args.offsets;
  if (!join) return args;
  if (args.divisor == 0) {
    const auto extent = [&](const PoolAxisSizes& axis) {
      if (axis.adaptive || !args.count_include_pad) return axis.in;
      return min_of(axis.kernel, axis.in + 2 * axis.pad);
    };
    args.divisor = static_cast<double>(extent(args.h)) * static_cast<double>(extent(args.w));
  }
  args.h = {};
  args.w = {};
  args.h.adaptive = args.w.adaptive = true;
  args.w.in = H * W;
  return args;
}

template <typename Reduction, typename T, int kVector>
cudaError_t launch_pool_fwd(const PoolArgs& given) {
  using State = typename Reduction::template State<accumulator_t<T>>;
  const PoolArgs args = join_whole_planes(given);
  PoolParams params = pool_params(args);
  const int64_t pitch = args.w.longest_window();
  if (args.h.longest_window() > INT32_MAX / pitch) {
    throw std::invalid_argument("pooling on CUDA: a window has 2^31 elements or more");
  }
  params.pitch = static_cast<int>(pitch);
  params.by_pitch = Divider(pitch, INT32_MAX);
  const bool across = kVector > 1 || channels_adjacent(args.x, args.C);
  const int64_t channels = args.C / kVector;
  const int64_t threads = args.N * channels * args.h.out * args.w.out;
  params.grid = ElementGrid(args.N, channels, args.h.out, args.w.out, across);
  share_windows(args, params, threads);
  const int lanes = params.lanes_h * params.lanes_w;
  if (lanes == 1) {
    params.rows = pool_rows(threads, args.h.out);
    params.grid =
        ElementGrid(args.N, channels, div_up<int64_t>(args.h.out, params.rows), args.w.out, across);
  }
  const size_t shared = lanes == 1 ? 0 : sizeof(PoolSharedStates<State, kVector>);
  return launch_pool(pool2d_reduce<Reduction, T, kVector>, params, shared, args.stream);
}

// float64 has no vectors: two numbers are not worth a kernel.
template <typename Reduction>
cudaError_t dispatch_pool_fwd(const PoolArgs& args) {
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) < sizeof(double)) {
      if (pool_has_vectors<T>(args)) return launch_pool_fwd<Reduction, T, kVectorSize<T>>(args);
    }
    return launch_pool_fwd<Reduction, T, 1>(args);
  });
}

}  // namespace fastconv::cuda
