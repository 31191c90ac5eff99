// Chooses vectors, threads and slices for the epilogue's kernels, and starts them.
#include "cuda/kernels/epilogue.cuh"
#include "cuda/launch/epilogue.h"
#include "cuda/launch/launch.h"
#include "problem/layout.h"

namespace fastconv::cuda {
namespace {

// Enough blocks of backward to fill any GPU; more would only make more partial sums.
constexpr int64_t kBackwardBlocks = 1024;
constexpr int64_t kMostSplits = 512;
constexpr int64_t kMostPartials = 1 << 18;  // of all channels and slices
constexpr int64_t kMostLanes = 32;          // threads on adjacent channels

// The most slices that the sums of db are computed in: each has K partial sums.
int64_t most_splits(int64_t K) {
  return max_of<int64_t>(1, min_of(kMostSplits, kMostPartials / K));
}

// The axis along which all tensors can be moved in vectors: channels, columns, or none (nullptr).
template <typename T, typename... Views>
int64_t Strides::* vector_axis(const TensorSize& size, const Views&... views) {
  if constexpr (sizeof(T) < sizeof(double)) {
    constexpr int kVector = kVectorSize<T>;
    for (const auto axis : {&Strides::c, &Strides::w}) {
      const auto fits = [&](const TensorView& view) {
        return view.data == nullptr || has_vectors(view, size, sizeof(T), axis, kVector);
      };
      if ((fits(views) && ...)) return axis;
    }
  }
  return nullptr;
}

// The size with each plane as one row, where no tensor has gaps within planes.
template <typename... Views>
TensorSize joined_size(const TensorSize& size, const Views&... views) {
  const auto joins = [&](const TensorView& view) {
    return view.data == nullptr || rows_join(view, size.h, size.w);
  };
  return (joins(views) && ...) ? TensorSize{size.n, size.c, 1, size.h * size.w} : size;
}

template <typename T, int kVector>
cudaError_t forward(const EpilogueForwardArgs& args, const TensorSize& size,
                    int64_t Strides::* axis) {
  EpilogueForwardParams params;
  params.z = args.z;
  params.y = args.y;
  params.epilogue = args.epilogue;
  if (axis == &Strides::c) params.channel_step = kVector;
  if (axis == &Strides::w) params.column_step = kVector;
  const bool across =
      axis != nullptr ? axis == &Strides::c : channels_adjacent(args.y.strides, size.c);
  params.grid = ElementGrid(size.n, size.c / params.channel_step, size.h,
                            size.w / params.column_step, across);
  const int64_t blocks = div_up<int64_t>(params.grid.size(), kEpilogueThreads);
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  return launch(epilogue_forward_kernel<T, kVector>, dim3(static_cast<unsigned>(blocks)),
                kEpilogueThreads, 0, args.stream, params);
}

// How many adjacent threads take adjacent channels: many, but more than 4 only where the threads
// left without a channel are at most an eighth of the channels.
int channel_lanes(int64_t channels) {
  int64_t lanes = kMostLanes;
  while (lanes > 1 &&
         (lanes > channels ||
          (lanes > 4 && 8 * (div_up(channels, lanes) * lanes - channels) > channels))) {
    lanes /= 2;
  }
  return static_cast<int>(lanes);
}

template <typename T, int kVector>
cudaError_t backward(const EpilogueBackwardArgs& args, const TensorSize& size,
                     int64_t Strides::* axis) {
  using A = accumulator_t<T>;
  EpilogueBackwardParams params;
  params.dy = args.dy;
  params.saved = args.saved;
  params.dz = args.dz;
  params.activation = args.activation;
  if (axis == &Strides::c) params.channel_step = kVector;
  if (axis == &Strides::w) params.column_step = kVector;
  params.K = size.c;
  params.channels = size.c / params.channel_step;
  const int64_t row = size.w / params.column_step;
  params.positions = size.n * size.h * row;
  params.by_plane = Divider(size.h * row, params.positions);
  params.by_row = Divider(row, size.h * row);
  const bool across =
      axis != nullptr ? axis == &Strides::c : channels_adjacent(args.dy.strides, size.c);
  params.lanes = across ? channel_lanes(params.channels) : 1;

  const int64_t channel_blocks = div_up<int64_t>(params.channels, params.lanes);
  if (channel_blocks > INT32_MAX / 2) return cudaErrorInvalidConfiguration;
  params.by_channel_blocks = FastDivmod(static_cast<uint32_t>(channel_blocks));
  const int64_t rows = kEpilogueThreads / params.lanes;
  int64_t splits = min_of(most_splits(size.c), div_up(kBackwardBlocks, channel_blocks));
  splits = min_of(splits, div_up(params.positions, rows));
  params.slice_positions = div_up(params.positions, splits);
  splits = div_up(params.positions, params.slice_positions);
  params.partials = args.db == nullptr ? nullptr : args.workspace;
  const size_t shared = args.db == nullptr ? 0 : sizeof(EpilogueSharedSums<A, kVector>);
  const dim3 grid(static_cast<unsigned>(splits * channel_blocks));
  const cudaError_t status = launch(epilogue_backward_kernel<T, kVector>, grid, kEpilogueThreads,
                                    shared, args.stream, params);
  if (status != cudaSuccess || args.db == nullptr) return status;

  EpilogueReduceParams reduce;
  reduce.partials = args.workspace;
  reduce.db = args.db;
  reduce.K = size.c;
  reduce.splits = splits;
  return launch(epilogue_bias_reduce<T>,
                dim3(static_cast<unsigned>(div_up<int64_t>(size.c, kReduceChannels))),
                kEpilogueThreads, sizeof(EpilogueSharedSums<A, 1>), args.stream, reduce);
}

// Calls run(TypeTag<T>, std::integral_constant<int, kVector>) for vectors along axis, or nullptr.
template <typename T, typename Run>
cudaError_t with_vector(int64_t Strides::* axis, Run&& run) {
  if constexpr (sizeof(T) < sizeof(double)) {
    if (axis != nullptr) return run(std::integral_constant<int, kVectorSize<T>>{});
  }
  return run(std::integral_constant<int, 1>{});
}

}  // namespace

int64_t epilogue_backward_workspace(const EpilogueBackwardArgs& args) {
  const int64_t sum = args.dtype == DType::float64 ? sizeof(double) : sizeof(float);
  return args.K == 0 ? 0 : args.K * most_splits(args.K) * sum;
}

cudaError_t epilogue_backward(const EpilogueBackwardArgs& args) {
  const TensorSize size =
      joined_size({args.N, args.K, args.P, args.Q}, args.dy, args.saved, args.dz);
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto axis = vector_axis<T>(size, args.dy, args.saved, args.dz);
    return with_vector<T>(
        axis, [&](auto vector) { return backward<T, decltype(vector)::value>(args, size, axis); });
  });
}

cudaError_t epilogue_forward(const EpilogueForwardArgs& args) {
  const TensorView& residual = args.epilogue.residual;
  const TensorSize size = joined_size({args.N, args.K, args.P, args.Q}, args.z, args.y, residual);
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto axis = vector_axis<T>(size, args.z, args.y, residual);
    return with_vector<T>(
        axis, [&](auto vector) { return forward<T, decltype(vector)::value>(args, size, axis); });
  });
}

}  // namespace fastconv::cuda
