#include <cstdint>

#include "cuda/kernels/gemm/conv2d_im2col.cuh"
#include "cuda/launch/conv2d_direct_gather.h"
#include "cuda/launch/im2col.h"
#include "cuda/launch/launch.h"

namespace fastconv::cuda {
namespace {

Im2colParams im2col_params(const Im2colArgs& args, bool transposed) {
  const ConvProblem& o = args.problem;
  Im2colParams params;
  params.h = gather_axis(transposed, o.H, o.P(), o.R, o.stride_h, o.pad_h, o.dilation_h);
  params.w = gather_axis(transposed, o.W, o.Q(), o.S, o.stride_w, o.pad_w, o.dilation_w);
  params.groups = o.groups, params.channels = o.channels_per_group();
  params.first_image = args.first_image, params.images = args.images;
  params.first_row = args.first_row, params.rows = args.rows, params.columns_w = o.Q();
  params.first_h = args.first_h, params.h_rows = args.h_rows;
  params.x = args.x;
  params.columns = args.columns;
  params.channels_inner = args.channels_inner;
  return params;
}

template <typename Kernel>
cudaError_t start(Kernel kernel, const Im2colParams& params, cudaStream_t stream) {
  return launch(kernel, tile_grid(div_up(params.count, int64_t{kIm2colThreads})), kIm2colThreads, 0,
                stream, params);
}

template <typename T>
cudaError_t copy(const Im2colArgs& args) {
  constexpr int kVector = kVectorSize<T>;
  Im2colParams params = im2col_params(args, false);
  const Strides& x = args.x.strides;
  const auto aligned = [](const void* p) {
    return reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0;
  };
  const bool vectorised = params.channels_inner && x.c == 1 && params.channels % kVector == 0 &&
                          x.n % kVector == 0 && x.h % kVector == 0 && x.w % kVector == 0 &&
                          aligned(args.x.data) && aligned(args.columns);
  params.count = params.images * params.rows * params.columns_w * args.problem.C;
  if (!vectorised) return start(conv2d_im2col<T, 1>, params, args.stream);
  params.count /= kVector;
  return start(conv2d_im2col<T, kVector>, params, args.stream);
}

}  // namespace

cudaError_t im2col(const Im2colArgs& args) {
  switch (args.dtype) {
    case DType::float64:
      return copy<uint64_t>(args);
    case DType::float32:
      return copy<uint32_t>(args);
    case DType::float16:
    case DType::bfloat16:
      return copy<uint16_t>(args);
  }
  throw std::invalid_argument("no im2col for DType " +
                              std::to_string(static_cast<int>(args.dtype)));
}

cudaError_t col2im(const Im2colArgs& args) {
  Im2colParams params = im2col_params(args, true);
  params.count = params.images * params.h_rows * args.problem.W * args.problem.C;
  return dispatch_dtype(args.dtype, [&](auto tag) {
    return start(conv2d_col2im<typename decltype(tag)::type>, params, args.stream);
  });
}

}  // namespace fastconv::cuda
