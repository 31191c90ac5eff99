// The direct fprop of few channels (a network's stem): from its tile to parameters and grid.
#include <algorithm>

#include "cuda/kernels/direct/conv2d_fprop_stem.cuh"
#include "cuda/launch/conv2d_direct.h"
#include "cuda/launch/launch.h"
#include "plan/cuda_direct_tile.h"
#include "problem/layout.h"

namespace fastconv::cuda {
namespace {

constexpr int64_t kBlocksWanted = 1024;  // before blocks take several tiles of pixels each
constexpr int64_t kMaxChunkTiles = 8;
constexpr int64_t kTermsPerPiece = 32;  // about so many terms of a sum are added up apart

StemParams stem_params(const CudaConvArgs& args, const StemTile& tile, int64_t vector) {
  const ConvProblem& problem = args.problem;
  StemParams params;
  params.problem = problem;
  params.P = problem.P(), params.Q = problem.Q();
  params.channels = problem.channels_per_group(), params.filters = problem.filters_per_group();
  params.x = args.x, params.w = args.w, params.y = args.y;
  params.epilogue = args.epilogue;
  params.filter_groups = static_cast<int>(tile.filter_groups);
  params.halo_rows = static_cast<int>(tile.halo_rows);
  params.halo_columns = static_cast<int>(tile.halo_columns);
  params.phase_columns = static_cast<int>(tile.phase_columns);
  params.pitch = static_cast<int>(tile.pitch);
  params.filter_pitch = static_cast<int>(tile.filter_pitch);
  params.filters_offset = static_cast<int>(tile.filters_offset);
  params.columns_offset = static_cast<int>(tile.columns_offset);
  params.rows_per_piece =
      static_cast<int>(std::max<int64_t>(1, kTermsPerPiece / (problem.S * tile.channels)));
  params.by_columns = FastDivmod(static_cast<uint32_t>(tile.halo_columns));
  params.by_rows = FastDivmod(static_cast<uint32_t>(tile.halo_rows));
  params.by_stride_w = FastDivmod(static_cast<uint32_t>(problem.stride_w));
  params.by_filter_terms = FastDivmod(static_cast<uint32_t>(problem.R * problem.S * tile.channels));
  params.by_S = FastDivmod(static_cast<uint32_t>(problem.S));
  params.column_tiles = div_up(params.Q, StemTile::kColumns);
  params.row_tiles = div_up(params.P, tile.tile_rows());
  params.pixel_tiles = problem.N * params.column_tiles * params.row_tiles;
  params.filter_tiles = div_up(params.filters, tile.tile_filters());
  const int64_t units = params.pixel_tiles * params.filter_tiles * problem.groups;
  params.chunk_tiles = std::clamp<int64_t>(units / kBlocksWanted, 1, kMaxChunkTiles);
  params.chunks = div_up(params.pixel_tiles, params.chunk_tiles);
  params.blocks = params.chunks * params.filter_tiles * problem.groups;
  params.channels_inner = args.x.strides.c < args.x.strides.w;
  const TensorSize y_size = {problem.N, problem.K, params.P, params.Q};
  const int64_t element = element_size(args.dtype);
  params.vector_y =
      args.y.strides.c == 1 && params.filters % vector == 0 &&
      is_aligned(args.y.data, kAccessBytes) &&
      rows_are_aligned(args.y.strides, y_size, element, &Strides::c, vector * element);
  return params;
}

template <typename T, int kRows, int kFilters>
cudaError_t run(const CudaConvArgs& args, const StemTile& tile) {
  const StemParams params = stem_params(args, tile, std::min(kFilters, kVectorSize<T>));
  const auto start = [&](void (*kernel)(StemParams)) {
    return launch(kernel, tile_grid(params.blocks), kStemThreads,
                  static_cast<size_t>(tile.shared_bytes), args.stream, params);
  };
  switch (tile.channels) {
    case 1:
      return start(conv2d_fprop_stem<T, 1, kRows, kFilters>);
    case 3:
      if constexpr (kFilters == 8) return start(conv2d_fprop_stem<T, 3, kRows, kFilters>);
      break;
    case 4:
      return start(conv2d_fprop_stem<T, 4, kRows, kFilters>);
  }
  throw std::invalid_argument("no stem kernel for " + std::to_string(tile.channels) + " channels");
}

}  // namespace

cudaError_t conv2d_fprop_stem(const CudaConvArgs& args) {
  const bool few = args.plan.direct == DirectKernel::stem_few_filters;
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const StemTile tile = stem_tile(args.problem, few, sizeof(accumulator_t<T>));
    return few ? run<T, 8, 4>(args, tile) : run<T, 4, 8>(args, tile);
  });
}

}  // namespace fastconv::cuda
