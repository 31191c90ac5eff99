// Builds the parameters of the implicit GEMM and starts its kernels: pack the filters if the plan
// says so, multiply, and add the slices of a split gemm_k.
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/kernels/gemm/implicit_gemm_pack_filters.cuh"
#include "cuda/kernels/gemm/pack_source.cuh"
#include "cuda/kernels/gemm/split_k_reduce.cuh"
#include "cuda/launch/gemm_store.h"
#include "cuda/launch/instances/implicit_gemm_instances.h"
#include "plan/pixel_tile_geometry.h"
#include "problem/layout.h"

namespace fastconv::cuda {

#define FASTCONV_COMPILED_ELSEWHERE(mode)                                                          \
  extern template cudaError_t launch_implicit_gemm<mode>(const CudaConvPlan&, unsigned,            \
                                                         const ImplicitGemmParams&, cudaStream_t); \
  extern template cudaError_t launch_wgrad_implicit_gemm<mode>(                                    \
      const CudaConvPlan&, unsigned, const WgradGemmParams&, cudaStream_t);
FASTCONV_COMPILED_ELSEWHERE(CudaMath::fp16)
FASTCONV_COMPILED_ELSEWHERE(CudaMath::bf16)
FASTCONV_COMPILED_ELSEWHERE(CudaMath::tf32)
FASTCONV_COMPILED_ELSEWHERE(CudaMath::tf32x3)
#undef FASTCONV_COMPILED_ELSEWHERE

namespace {

// The kernels that pack filters and add up slices take several elements a thread beyond so many
// blocks, which fill any device.
constexpr int64_t kMaxHelperBlocks = 4096;

template <typename Visitor>
cudaError_t dispatch_math(CudaMath math, const Visitor& visit) {
  switch (math) {
    case CudaMath::fp16:
      return visit(std::integral_constant<CudaMath, CudaMath::fp16>{});
    case CudaMath::bf16:
      return visit(std::integral_constant<CudaMath, CudaMath::bf16>{});
    case CudaMath::tf32:
      return visit(std::integral_constant<CudaMath, CudaMath::tf32>{});
    case CudaMath::tf32x3:
      return visit(std::integral_constant<CudaMath, CudaMath::tf32x3>{});
    case CudaMath::fma:
      break;
  }
  return cudaErrorInvalidValue;
}

dim3 helper_grid(int64_t count, int threads, unsigned y = 1) {
  const int64_t blocks = div_up(count, static_cast<int64_t>(threads));
  return dim3(static_cast<unsigned>(std::min(blocks, kMaxHelperBlocks)), y);
}

// channels, width and height are the sizes of the result's inner axes, whose order is (n, h, w, c).
cudaError_t reduce(const CudaConvArgs& args, SplitKReduceParams& sum, const TensorSize& size) {
  sum.channels = Divider(size.c, sum.count);
  sum.width = divmod(size.w);
  sum.height = divmod(size.h);
  const TensorView& residual = sum.epilogue.residual;
  const int64_t element = element_size(args.dtype);
  const bool vectors = has_vectors(sum.out, size, element, &Strides::c, kReduceVector) &&
                       (residual.data == nullptr ||
                        has_vectors(residual, size, element, &Strides::c, kReduceVector));
  const dim3 grid = helper_grid(vectors ? sum.count / kReduceVector : sum.count, kReduceThreads);
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return vectors
               ? launch(split_k_reduce<T, kReduceVector>, grid, kReduceThreads, 0, args.stream, sum)
               : launch(split_k_reduce<T, 1>, grid, kReduceThreads, 0, args.stream, sum);
  });
}

// Copies a tensor to `place` in channels_last, if the plan says so, and goes on behind it.
cudaError_t pack_source_if_planned(const CudaConvArgs& args, const TensorSize& size,
                                   TensorView& tensor, unsigned char*& place) {
  if (!args.plan.packed_source) return cudaSuccess;
  PackSourceParams params;
  params.from = tensor;
  params.to = place;
  params.C = static_cast<int>(size.c), params.pixels = static_cast<int>(size.h * size.w);
  params.width = divmod(size.w);
  tensor = {place, packed_source_strides(size)};
  place += packed_source_bytes(size, element_size(args.dtype));
  const int64_t tiles = div_up(params.pixels, kPackPixels);
  params.tiles = divmod(tiles);
  const dim3 grid(static_cast<unsigned>(size.n * tiles),
                  static_cast<unsigned>(div_up(params.C, kPackChannels)));
  return element_size(args.dtype) == 4
             ? launch(pack_source<uint32_t>, grid, kPackSourceThreads,
                      sizeof(PackSourceTile<uint32_t>), args.stream, params)
             : launch(pack_source<uint16_t>, grid, kPackSourceThreads,
                      sizeof(PackSourceTile<uint16_t>), args.stream, params);
}

// ---- fprop and dgrad -------------------------------------------------------------------------

// The phases by falling number of taps: blocks start in order, and a long one that starts last
// would run alone.
std::vector<std::pair<GatherAxis, GatherAxis>> longest_first(const GemmAxes& axes) {
  std::vector<std::pair<GatherAxis, GatherAxis>> phases;
  for (const GatherAxis& h : axes.h) {
    for (const GatherAxis& w : axes.w) phases.emplace_back(h, w);
  }
  std::stable_sort(phases.begin(), phases.end(), [](const auto& a, const auto& b) {
    return a.first.taps * a.second.taps > b.first.taps * b.second.taps;
  });
  return phases;
}

// One call, whose kernels run() starts.
class GatherGemm {
 public:
  explicit GatherGemm(const CudaConvArgs& args)
      : args_(args),
        problem_(args.problem),
        dgrad_(args.op == ConvOp::dgrad),
        place_(static_cast<unsigned char*>(args.workspace)),
        axes_(args.op, problem_) {}

  cudaError_t run() {
    source_ = dgrad_ ? args_.y : args_.x;
    const TensorSize size = dgrad_ ? TensorSize{problem_.N, problem_.K, problem_.P(), problem_.Q()}
                                   : TensorSize{problem_.N, problem_.C, problem_.H, problem_.W};
    if (const cudaError_t status = pack_source_if_planned(args_, size, source_, place_);
        status != cudaSuccess) {
      return status;
    }
    source_.strides = without_single_positions(source_.strides, size);
    gather();
    phases();
    workspace();
    if (args_.plan.packed_w) {
      if (const cudaError_t status = pack(); status != cudaSuccess) return status;
    }
    const cudaError_t status = dispatch_math(args_.plan.math, [&](auto math) {
      return launch_implicit_gemm<decltype(math)::value>(args_.plan, blocks_, params_,
                                                         args_.stream);
    });
    if (status != cudaSuccess || params_.output.partial == nullptr) return status;
    SplitKReduceParams sum;
    sum.partial = params_.output.partial;
    sum.count = params_.out_pixels * problem_.groups * params_.gemm_n;
    sum.splits = args_.plan.splits;
    sum.out = params_.output.out;
    sum.epilogue = args_.epilogue;
    return reduce(args_, sum,
                  {problem_.N, problem_.groups * params_.gemm_n, params_.out_h, params_.out_w});
  }

 private:
  void gather() {
    params_.source = source_;
    params_.output.out = dgrad_ ? args_.x : args_.y;
    params_.source_h = static_cast<int>(dgrad_ ? problem_.P() : problem_.H);
    params_.source_w = static_cast<int>(dgrad_ ? problem_.Q() : problem_.W);
    params_.out_h = static_cast<int>(dgrad_ ? problem_.H : problem_.P());
    params_.out_w = static_cast<int>(dgrad_ ? problem_.W : problem_.Q());
    params_.source_step_h = static_cast<int>(axes_.h[0].source_step);
    params_.source_step_w = static_cast<int>(axes_.w[0].source_step);
    params_.step_h = static_cast<int>(axes_.h[0].step);
    params_.step_w = static_cast<int>(axes_.w[0].step);
    params_.out_pixels = problem_.N * params_.out_h * params_.out_w;
    params_.groups = static_cast<int>(problem_.groups);
    params_.splits = args_.plan.splits;
    params_.gemm_n =
        static_cast<int>(dgrad_ ? problem_.channels_per_group() : problem_.filters_per_group());
    channels_ = dgrad_ ? problem_.filters_per_group() : problem_.channels_per_group();
    params_.channels = divmod(channels_);
    params_.output.epilogue = args_.epilogue;
    params_.output.store = params_.splits == 1
                               ? choose_store(args_, params_.output.out,
                                              {problem_.N, params_.groups * params_.gemm_n,
                                               params_.out_h, params_.out_w},
                                              params_.gemm_n)
                           : params_.gemm_n % kReduceVector == 0 ? GemmStore::partial_vectors
                                                                 : GemmStore::partial_sums;
  }

  void phases() {
    const GemmTile tile = tile_of(args_.plan.gemm);
    int count = 0, tiles_m = 0;
    int64_t filters = 0;
    for (const auto& [h, w] : longest_first(axes_)) {
      GemmPhase& phase = params_.phases[count];
      const int64_t taps = h.taps * w.taps;
      phase.image = divmod(h.positions * w.positions);
      phase.width = divmod(w.positions);
      phase.taps_w = divmod(std::max<int64_t>(w.taps, 1));
      phase.first_h = static_cast<int>(h.first), phase.first_w = static_cast<int>(w.first);
      phase.source_first_h = static_cast<int>(h.source_first);
      phase.source_first_w = static_cast<int>(w.source_first);
      phase.tap_offset_h = static_cast<int>(h.tap_offset);
      phase.tap_offset_w = static_cast<int>(w.tap_offset);
      phase.gemm_m = static_cast<int>(problem_.N * h.positions * w.positions);
      phase.gemm_k = static_cast<int>(taps * channels_);
      phase.first_tile = tiles_m;
      const int64_t row = packed_row(phase.gemm_k, element_size(args_.dtype));
      phase.filter_row = static_cast<int>(row);
      phase.filters = filters;
      phase.steps = tap_steps(h, w);
      tiles_m += div_up(phase.gemm_m, tile.m);
      filters += problem_.groups * params_.gemm_n * row;

      PackedPhase& packed = pack_.phases[count++];
      packed.begin = phase.filters;
      packed.filter_row =
          Divider(std::max<int64_t>(row, 1), problem_.groups * params_.gemm_n * row);
      packed.row_elements = phase.filter_row;
      packed.taps_w = phase.taps_w;
      packed.tap_first_h = static_cast<int>(h.tap_first);
      packed.tap_first_w = static_cast<int>(w.tap_first);
      packed.tap_step_h = static_cast<int>(h.tap_step);
      packed.tap_step_w = static_cast<int>(w.tap_step);
      packed.gemm_k = phase.gemm_k;
      longest_row_ = std::max(longest_row_, row);
    }
    packed_bytes_ = filters * element_size(args_.dtype);
    params_.num_phases = count;
    const int tiles_n = div_up(params_.gemm_n, tile.n);
    params_.tiles_n = divmod(tiles_n);
    params_.tiles_m = divmod(tiles_m);
    blocks_ = static_cast<unsigned>(static_cast<int64_t>(tiles_m) * tiles_n * problem_.groups);
  }

  TapSteps tap_steps(const GatherAxis& h, const GatherAxis& w) const {
    const int64_t slab = kGemmSlabBytes / element_size(args_.dtype);
    const Strides& strides = params_.source.strides;
    const int64_t offset_w = w.tap_offset * strides.w, offset_h = h.tap_offset * strides.h;
    const int64_t taps_w = std::max<int64_t>(w.taps, 1);
    TapSteps steps;
    steps.channel = static_cast<int>(slab % channels_);
    steps.tap_w = static_cast<int>(slab / channels_ % taps_w);
    steps.tap_h = static_cast<int>(slab / channels_ / taps_w);
    steps.offset = static_cast<int>(steps.channel * strides.c + steps.tap_w * offset_w +
                                    steps.tap_h * offset_h);
    steps.carry_w = static_cast<int>(offset_w - channels_ * strides.c);
    steps.carry_h = static_cast<int>(offset_h - taps_w * offset_w);
    steps.taps_w = static_cast<int>(taps_w);
    steps.taps_h = static_cast<int>(h.taps);
    return steps;
  }

  void workspace() {
    params_.filters = args_.w.data;
    if (args_.plan.packed_w) {
      params_.filters = place_;
      pack_.packed = place_;
      place_ += workspace_part(packed_bytes_);
    }
    if (args_.plan.splits > 1) params_.output.partial = reinterpret_cast<float*>(place_);
  }

  cudaError_t pack() {
    pack_.w = args_.w;
    pack_.dgrad = dgrad_;
    pack_.rows = problem_.groups * params_.gemm_n;
    pack_.columns = divmod(params_.gemm_n);
    pack_.channels = params_.channels;
    const dim3 grid = helper_grid(pack_.rows * longest_row_, kPackThreads,
                                  static_cast<unsigned>(params_.num_phases));
    return element_size(args_.dtype) == 4 ? launch(implicit_gemm_pack_filters<uint32_t>, grid,
                                                   kPackThreads, 0, args_.stream, pack_)
                                          : launch(implicit_gemm_pack_filters<uint16_t>, grid,
                                                   kPackThreads, 0, args_.stream, pack_);
  }

  const CudaConvArgs& args_;
  const ConvProblem& problem_;
  const bool dgrad_;
  unsigned char* place_;  // of what comes next in the workspace
  const GemmAxes axes_;
  TensorView source_;
  ImplicitGemmParams params_;
  PackFiltersParams pack_;
  int64_t channels_ = 0, longest_row_ = 0, packed_bytes_ = 0;
  unsigned blocks_ = 0;
};

// ---- wgrad -----------------------------------------------------------------------------------

// Writes the sums of slices to `partial`.
cudaError_t multiply_wgrad(const CudaConvArgs& args, const TensorView& x, const TensorView& dy,
                           float* partial) {
  const ConvProblem& problem = args.problem;
  const GemmShape shape = problem.gemm_shape(ConvOp::wgrad);
  const GemmTile tile = tile_of(args.plan.gemm);
  WgradGemmParams params;
  params.x = x;
  params.dy = dy;
  params.partial = partial;
  params.slice_elements = problem.w_elements();
  params.dy_pixel = pixel_stride(dy.strides, problem);
  const GatherAxis h = fprop_axis(h_axis(problem)), w = fprop_axis(w_axis(problem));
  params.source_h = static_cast<int>(h.source_size);
  params.source_w = static_cast<int>(w.source_size);
  params.source_first_h = static_cast<int>(h.source_first);
  params.source_first_w = static_cast<int>(w.source_first);
  params.source_step_h = static_cast<int>(h.source_step);
  params.source_step_w = static_cast<int>(w.source_step);
  params.tap_offset_h = static_cast<int>(h.tap_offset);
  params.tap_offset_w = static_cast<int>(w.tap_offset);
  params.taps_h = static_cast<int>(problem.R);
  params.gemm_m = static_cast<int>(shape.gemm_m), params.gemm_n = static_cast<int>(shape.gemm_n);
  params.gemm_k = static_cast<int>(shape.gemm_k);
  params.splits = args.plan.splits;
  params.channels = divmod(problem.channels_per_group());
  params.taps_w = divmod(problem.S);
  params.image = divmod(problem.P() * problem.Q());
  params.width = divmod(problem.Q());
  const int tiles_m = div_up(params.gemm_m, tile.m), tiles_n = div_up(params.gemm_n, tile.n);
  params.tiles_m = divmod(tiles_m);
  params.tiles_n = divmod(tiles_n);
  const auto blocks = static_cast<unsigned>(problem.groups * tiles_m * tiles_n);
  return dispatch_math(args.plan.math, [&](auto math) {
    return launch_wgrad_implicit_gemm<decltype(math)::value>(args.plan, blocks, params,
                                                             args.stream);
  });
}

cudaError_t run_wgrad(const CudaConvArgs& args) {
  const ConvProblem& problem = args.problem;
  unsigned char* place = static_cast<unsigned char*>(args.workspace);
  const TensorSize x_size = {problem.N, problem.C, problem.H, problem.W};
  const TensorSize dy_size = {problem.N, problem.K, problem.P(), problem.Q()};
  TensorView x = args.x, dy = args.y;
  cudaError_t status = pack_source_if_planned(args, x_size, x, place);
  if (status != cudaSuccess) return status;
  status = pack_source_if_planned(args, dy_size, dy, place);
  if (status != cudaSuccess) return status;
  x.strides = without_single_positions(x.strides, x_size);
  dy.strides = without_single_positions(dy.strides, dy_size);
  float* const partial = reinterpret_cast<float*>(place);
  status = is_grouped_kernel(args.plan.gemm) ? conv2d_grouped_gemm(args)
                                             : multiply_wgrad(args, x, dy, partial);
  if (status != cudaSuccess) return status;
  SplitKReduceParams sum;
  sum.partial = partial;
  sum.count = problem.w_elements();
  sum.splits = args.plan.splits;
  sum.out = args.w;
  return reduce(args, sum, {problem.K, problem.channels_per_group(), problem.R, problem.S});
}

}  // namespace

cudaError_t conv2d_implicit_gemm(const CudaConvArgs& call) {
  CudaConvArgs args = call;
  // Dilation says nothing of a single tap, but kernels compute where the next ones would lie.
  if (args.problem.R == 1) args.problem.dilation_h = 1;
  if (args.problem.S == 1) args.problem.dilation_w = 1;
  if (args.op == ConvOp::wgrad) return run_wgrad(args);
  if (args.plan.gemm == GemmKernel::stem || args.plan.gemm == GemmKernel::stem_few_filters) {
    return conv2d_fprop_stem_gemm(args);
  }
  if (is_grouped_kernel(args.plan.gemm)) return conv2d_grouped_gemm(args);
  return GatherGemm(args).run();
}

}  // namespace fastconv::cuda
