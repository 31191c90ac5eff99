// im2col, which copies elements of any type by their size, and col2im.
#include <cstdint>

#include "cuda/kernels/gemm/conv2d_im2col.cuh"
#include "cuda/launch/conv2d_direct.h"
#include "cuda/launch/im2col.h"
#include "cuda/launch/launch.h"
#include "problem/layout.h"

namespace fastconv::cuda {
namespace {

Im2colParams im2col_params(const Im2colArgs& args) {
  const ConvProblem& problem = args.problem;
  Im2colParams params;
  params.h = h_axis(problem), params.w = w_axis(problem);
  params.groups = problem.groups, params.channels = problem.channels_per_group();
  params.first_image = args.first_image, params.images = args.images;
  params.first_row = args.first_row, params.rows = args.rows, params.columns_w = problem.Q();
  params.first_h = args.first_h, params.h_rows = args.h_rows;
  params.x = args.x;
  params.columns = args.columns;
  params.channels_inner = args.channels_inner;
  return params;
}

template <typename Kernel>
cudaError_t start(Kernel kernel, const Im2colParams& params, cudaStream_t stream) {
  return launch(kernel, tile_grid(div_up(params.count, kIm2colThreads)), kIm2colThreads, 0, stream,
                params);
}

template <typename T>
cudaError_t copy(const Im2colArgs& args) {
  constexpr int kVector = kVectorSize<T>;
  Im2colParams params = im2col_params(args);
  const ConvProblem& problem = args.problem;
  const TensorSize x_size = {problem.N, problem.C, problem.H, problem.W};
  const bool vectorised = params.channels_inner && args.x.strides.c == 1 &&
                          params.channels % kVector == 0 &&
                          is_aligned(args.x, x_size, sizeof(T), &Strides::c, kAccessBytes) &&
                          is_aligned(args.columns, kAccessBytes);
  params.count = params.images * params.rows * params.columns_w * problem.C;
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
  Im2colParams params = im2col_params(args);
  params.count = params.images * params.h_rows * args.problem.W * args.problem.C;
  return dispatch_dtype(args.dtype, [&](auto tag) {
    return start(conv2d_col2im<typename decltype(tag)::type>, params, args.stream);
  });
}

}  // namespace fastconv::cuda
