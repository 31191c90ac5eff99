// im2col and col2im, between which fastconv/backends/cuda/im2col.py calls a library's GEMM.
#pragma once

#include "bindings/cuda_bindings.h"
#include "cuda/launch/im2col.h"

namespace py = pybind11;

namespace fastconv {
namespace {

using FirstAndCount = std::array<int64_t, 2>;

// `rows` are those of y whose columns are in memory.
cuda::Im2colArgs im2col_args(const ConvSizes& sizes, int dtype, Address x,
                             const StrideTuple& x_strides, Address columns, bool channels_inner,
                             const FirstAndCount& images, const FirstAndCount& rows,
                             Address stream) {
  cuda::Im2colArgs args;
  args.problem = conv_problem(sizes);
  args.dtype = static_cast<DType>(dtype);
  args.x = view(x, x_strides);
  args.columns = reinterpret_cast<void*>(columns);
  args.channels_inner = channels_inner;
  args.first_image = images[0], args.images = images[1];
  args.first_row = rows[0], args.rows = rows[1];
  args.stream = stream_of(stream);
  return args;
}

}  // namespace

inline void bind_cuda_im2col(py::module_& m) {
  using release_gil = py::call_guard<py::gil_scoped_release>;
  m.def(
      "im2col",
      [](const ConvSizes& sizes, int dtype, Address x, const StrideTuple& x_strides,
         Address columns, bool channels_inner, const FirstAndCount& images,
         const FirstAndCount& rows, Address stream) {
        check(cuda::im2col(im2col_args(sizes, dtype, x, x_strides, columns, channels_inner, images,
                                       rows, stream)),
              "im2col");
      },
      release_gil());
  // Sums the columns of `rows` of y and writes rows h_rows of dx.
  m.def(
      "col2im",
      [](const ConvSizes& sizes, int dtype, Address dx, const StrideTuple& dx_strides,
         Address columns, bool channels_inner, const FirstAndCount& images,
         const FirstAndCount& rows, const FirstAndCount& h_rows, Address stream) {
        cuda::Im2colArgs args = im2col_args(sizes, dtype, dx, dx_strides, columns, channels_inner,
                                            images, rows, stream);
        args.first_h = h_rows[0], args.h_rows = h_rows[1];
        check(cuda::col2im(args), "col2im");
      },
      release_gil());
}

}  // namespace fastconv
