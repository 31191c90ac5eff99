// Builds the parameters of the implicit GEMM and starts its kernels: pack the filters if the plan
// says so, multiply, and add the slices of a split gemm_k.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/gemm/implicit_gemm_pack_filters.cuh"
#include "cuda/kernels/gemm/split_k_reduce.cuh"
#include "cuda/launch/instances/implicit_gemm_instances.h"

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

// Blocks of the element-wise helpers, which loop; enough to fill any device.
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

FastDivmod divmod(int64_t divisor) { return FastDivmod(static_cast<uint32_t>(divisor)); }

// The stride of an axis of one position says nothing.
bool is_vector_aligned(const TensorView& view, const int64_t (&size)[3], int64_t vector,
                       int64_t element) {
  const Strides& s = view.strides;
  const auto whole = [&](int64_t positions, int64_t stride) {
    return positions == 1 || stride % vector == 0;
  };
  return reinterpret_cast<uintptr_t>(view.data) % (vector * element) == 0 && s.c == 1 &&
         whole(size[0], s.n) && whole(size[1], s.h) && whole(size[2], s.w);
}

GemmStore choose_store(const ConvArgs& args, const ImplicitGemmParams& params) {
  const TensorView& out = params.out;
  const int64_t size[] = {args.problem.N, params.out_height, params.out_width};
  const int64_t element = element_size(args.dtype), vector = kGemmVectorBytes / element;
  if (params.splits > 1) return GemmStore::channels;
  const TensorView& residual = args.epilogue.residual;
  if (params.gemm_n % vector == 0 && is_vector_aligned(out, size, vector, element) &&
      (residual.data == nullptr || is_vector_aligned(residual, size, vector, element))) {
    return GemmStore::vectors;
  }
  return out.strides.c == 1 ? GemmStore::channels : GemmStore::pixels;
}

cudaError_t reduce(const ConvArgs& args, const SplitKReduceParams& params) {
  const dim3 grid = helper_grid(params.count, kReduceThreads);
  return dispatch_dtype(args.dtype, [&](auto tag) {
    return launch(split_k_reduce<typename decltype(tag)::type>, grid, kReduceThreads, 0,
                  args.stream, params);
  });
}

// ---- fprop and dgrad
// -----------------------------------------------------------------------------

class ForwardGemm {
 public:
  explicit ForwardGemm(const ConvArgs& args)
      : args_(args), o_(args.problem), dgrad_(args.op == ConvOp::dgrad), axes_(args.op, o_) {
    gather();
    classes();
    workspace();
  }

  cudaError_t run() {
    if (args_.plan.packed_w) {
      if (const cudaError_t status = pack(); status != cudaSuccess) return status;
    }
    const cudaError_t status = dispatch_math(args_.plan.math, [&](auto math) {
      return launch_implicit_gemm<decltype(math)::value>(args_.plan, blocks_, params_,
                                                         args_.stream);
    });
    if (status != cudaSuccess || params_.partial == nullptr) return status;
    SplitKReduceParams sum;
    sum.partial = params_.partial;
    sum.count = params_.out_pixels * o_.groups * params_.gemm_n;
    sum.splits = args_.plan.splits;
    sum.out = params_.out;
    sum.epilogue = args_.epilogue;
    sum.channels = divmod(o_.groups * params_.gemm_n);
    sum.width = divmod(params_.out_width);
    sum.height = divmod(params_.out_height);
    return reduce(args_, sum);
  }

 private:
  void gather() {
    params_.in = dgrad_ ? args_.y : args_.x;
    params_.out = dgrad_ ? args_.x : args_.y;
    params_.in_h = static_cast<int>(dgrad_ ? o_.P() : o_.H);
    params_.in_w = static_cast<int>(dgrad_ ? o_.Q() : o_.W);
    params_.out_height = static_cast<int>(dgrad_ ? o_.H : o_.P());
    params_.out_width = static_cast<int>(dgrad_ ? o_.W : o_.Q());
    params_.in_h_step = static_cast<int>(axes_.h[0].in_step);
    params_.in_w_step = static_cast<int>(axes_.w[0].in_step);
    params_.out_h_step = static_cast<int>(axes_.h[0].out_step);
    params_.out_w_step = static_cast<int>(axes_.w[0].out_step);
    params_.out_pixels = o_.N * params_.out_height * params_.out_width;
    params_.groups = static_cast<int>(o_.groups);
    params_.splits = args_.plan.splits;
    params_.gemm_n = static_cast<int>(dgrad_ ? o_.channels_per_group() : o_.filters_per_group());
    channels_ = dgrad_ ? o_.filters_per_group() : o_.channels_per_group();
    params_.channels = divmod(channels_);
    params_.epilogue = args_.epilogue;
    params_.store = choose_store(args_, params_);
  }

  void classes() {
    const GemmTile tile = kGemmTiles[args_.plan.tile];
    int count = 0, tiles_m = 0;
    int64_t filters = 0;
    for (const GemmAxis& h : axes_.h) {
      for (const GemmAxis& w : axes_.w) {
        GemmClass& cls = params_.classes[count];
        const int64_t taps = h.taps * w.taps;
        cls.image = divmod(h.positions * w.positions);
        cls.width = divmod(w.positions);
        cls.taps_w = divmod(std::max<int64_t>(w.taps, 1));
        cls.out_h = static_cast<int>(h.out_first), cls.out_w = static_cast<int>(w.out_first);
        cls.in_h = static_cast<int>(h.in_first), cls.in_w = static_cast<int>(w.in_first);
        cls.tap_h_step = static_cast<int>(h.tap_offset);
        cls.tap_w_step = static_cast<int>(w.tap_offset);
        cls.gemm_m = static_cast<int>(o_.N * h.positions * w.positions);
        cls.gemm_k = static_cast<int>(taps * channels_);
        cls.first_tile = tiles_m;
        const int64_t row = packed_row(cls.gemm_k, element_size(args_.dtype));
        cls.filter_row = static_cast<int>(row);
        cls.filters = filters;
        tiles_m += div_up(cls.gemm_m, tile.m);
        filters += o_.groups * params_.gemm_n * row;

        PackedClass& packed = pack_.classes[count++];
        packed.begin = cls.filters;
        packed.filter_row = divmod(std::max<int64_t>(row, 1));
        packed.taps_w = cls.taps_w;
        packed.tap_h_first = static_cast<int>(h.tap_first);
        packed.tap_w_first = static_cast<int>(w.tap_first);
        packed.tap_h_step = static_cast<int>(h.tap_step);
        packed.tap_w_step = static_cast<int>(w.tap_step);
        packed.gemm_k = cls.gemm_k;
        longest_row_ = std::max(longest_row_, row);
      }
    }
    packed_bytes_ = filters * element_size(args_.dtype);
    params_.num_classes = count;
    const int tiles_n = div_up(params_.gemm_n, tile.n);
    params_.tiles_n = divmod(tiles_n);
    params_.tiles_m = divmod(tiles_m);
    blocks_ = static_cast<unsigned>(static_cast<int64_t>(tiles_m) * tiles_n * o_.groups);
  }

  void workspace() {
    unsigned char* place = static_cast<unsigned char*>(args_.workspace);
    params_.filters = args_.w.data;
    if (args_.plan.packed_w) {
      params_.filters = place;
      pack_.packed = place;
      place += workspace_part(packed_bytes_);
    }
    if (args_.plan.splits > 1) params_.partial = reinterpret_cast<float*>(place);
  }

  cudaError_t pack() {
    pack_.w = args_.w;
    pack_.dgrad = dgrad_;
    pack_.rows = o_.groups * params_.gemm_n;
    pack_.columns = divmod(params_.gemm_n);
    pack_.channels = params_.channels;
    const dim3 grid = helper_grid(pack_.rows * longest_row_, kPackThreads,
                                  static_cast<unsigned>(params_.num_classes));
    return element_size(args_.dtype) == 4 ? launch(implicit_gemm_pack_filters<uint32_t>, grid,
                                                   kPackThreads, 0, args_.stream, pack_)
                                          : launch(implicit_gemm_pack_filters<uint16_t>, grid,
                                                   kPackThreads, 0, args_.stream, pack_);
  }

  const ConvArgs& args_;
  const ConvProblem& o_;
  const bool dgrad_;
  const GemmAxes axes_;
  ImplicitGemmParams params_;
  PackFiltersParams pack_;
  int64_t channels_ = 0, longest_row_ = 0, packed_bytes_ = 0;
  unsigned blocks_ = 0;
};

// ---- wgrad
// ---------------------------------------------------------------------------------------

cudaError_t run_wgrad(const ConvArgs& args) {
  const ConvProblem& o = args.problem;
  const GemmShape shape = o.gemm_shape(ConvOp::wgrad);
  const GemmTile tile = kGemmTiles[args.plan.tile];
  WgradGemmParams params;
  params.x = args.x;
  params.dy = args.y;
  params.partial = static_cast<float*>(args.workspace);
  params.slice = o.w_elements();
  params.in_h = static_cast<int>(o.H), params.in_w = static_cast<int>(o.W);
  params.stride_h = static_cast<int>(o.stride_h), params.stride_w = static_cast<int>(o.stride_w);
  params.pad_h = static_cast<int>(o.pad_h), params.pad_w = static_cast<int>(o.pad_w);
  params.dilation_h = static_cast<int>(o.dilation_h);
  params.dilation_w = static_cast<int>(o.dilation_w);
  params.gemm_m = static_cast<int>(shape.gemm_m), params.gemm_n = static_cast<int>(shape.gemm_n);
  params.gemm_k = static_cast<int>(shape.gemm_k);
  params.splits = args.plan.splits;
  params.channels = divmod(o.channels_per_group());
  params.taps_w = divmod(o.S);
  params.image = divmod(o.P() * o.Q());
  params.width = divmod(o.Q());
  const int tiles_m = div_up(params.gemm_m, tile.m), tiles_n = div_up(params.gemm_n, tile.n);
  params.tiles_m = divmod(tiles_m);
  params.tiles_n = divmod(tiles_n);
  const auto blocks = static_cast<unsigned>(o.groups * tiles_m * tiles_n);
  const cudaError_t status = dispatch_math(args.plan.math, [&](auto math) {
    return launch_wgrad_implicit_gemm<decltype(math)::value>(args.plan, blocks, params,
                                                             args.stream);
  });
  if (status != cudaSuccess) return status;
  SplitKReduceParams sum;
  sum.partial = params.partial;
  sum.count = params.slice;
  sum.splits = params.splits;
  sum.out = args.w;
  sum.channels = params.channels;
  sum.width = divmod(o.S);
  sum.height = divmod(o.R);
  return reduce(args, sum);
}

}  // namespace

cudaError_t conv2d_implicit_gemm(const ConvArgs& args) {
  return args.op == ConvOp::wgrad ? run_wgrad(args) : ForwardGemm(args).run();
}

}  // namespace fastconv::cuda
