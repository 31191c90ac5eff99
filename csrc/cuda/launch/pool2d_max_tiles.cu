#include "cuda/kernels/pool/pool2d_max_tiles.cuh"
#include "cuda/launch/pool2d_params.h"

namespace fastconv::cuda {
namespace {

// Sizes stay so far below 2^31 that no position of a tile or window passes it.
constexpr int64_t kLongestAxis = int64_t{1} << 29;

template <typename T, int kVector>
cudaError_t fwd_strip(const PoolArgs& args) {
  PoolParams params = pool_params(args);
  params.grid = ElementGrid(args.N, args.C / kVector, div_up<int64_t>(args.h.out, kPoolStrip),
                            args.w.out, kVector > 1 || channels_adjacent(args.x, args.C));
  const auto kernel = args.h.kernel == 3 ? pool2d_max_fwd_strip<T, kVector, 3>
                                         : pool2d_max_fwd_strip<T, kVector, 2>;
  return launch_pool(kernel, params, 0, args.stream);
}

template <typename T, int kVector>
cudaError_t bwd_tile(const PoolArgs& args) {
  PoolParams params = pool_params(args);
  constexpr int kRows = 2 * kPoolTiles<kVector>;
  params.grid =
      ElementGrid(args.N, args.C / kVector, div_up<int64_t>(args.h.in, kRows),
                  div_up<int64_t>(args.w.in, 2), kVector > 1 || channels_adjacent(args.x, args.C));
  params.paired = kVector == 1 && has_vectors<T, 2>(args.x, x_size(args), &Strides::w);
  const auto kernel = args.h.kernel == 2 ? pool2d_max_bwd_tile<T, kVector, 2, 0>
                      : args.h.pad == 0  ? pool2d_max_bwd_tile<T, kVector, 3, 0>
                                         : pool2d_max_bwd_tile<T, kVector, 3, 1>;
  return launch_pool(kernel, params, 0, args.stream);
}

// float64 goes to the kernels for any window. Calls visit(T, whether channels are vectors).
template <typename Visitor>
cudaError_t dispatch_tiles(const PoolArgs& args, Visitor&& visit) {
  return dispatch_dtype(args.dtype, [&](auto tag) -> cudaError_t {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) < sizeof(double)) {
      return visit(tag, pool_has_vectors<T>(args));
    }
    return cudaErrorNotSupported;
  });
}

}  // namespace

bool has_max_tiles(const PoolArgs& args, bool bwd) {
  const PoolAxisSizes &h = args.h, &w = args.w;
  const auto stepped = [&](const PoolAxisSizes& axis) {
    return !axis.adaptive && axis.stride == kPoolTileStride && axis.dilation == 1 &&
           axis.in <= kLongestAxis && axis.out <= kLongestAxis;
  };
  const bool window = h.kernel == w.kernel && (h.kernel == 2 || h.kernel == 3);
  if (args.dtype == DType::float64 || !window || !stepped(h) || !stepped(w)) return false;
  return !bwd || (args.offsets && h.pad == w.pad && h.pad <= h.kernel - 2);
}

cudaError_t pool2d_max_fwd_strip(const PoolArgs& args) {
  return dispatch_tiles(args, [&](auto tag, bool vectors) {
    using T = typename decltype(tag)::type;
    return vectors ? fwd_strip<T, kVectorSize<T>>(args) : fwd_strip<T, 1>(args);
  });
}

cudaError_t pool2d_max_bwd_tile(const PoolArgs& args) {
  return dispatch_tiles(args, [&](auto tag, bool vectors) {
    using T = typename decltype(tag)::type;
    return vectors ? bwd_tile<T, kVectorSize<T>>(args) : bwd_tile<T, 1>(args);
  });
}

}  // namespace fastconv::cuda
