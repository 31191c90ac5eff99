// The epilogue on its own, forward and backward, on CUDA. `size` is (N, K, P, Q) of all its
// tensors.
#pragma once

#include "bindings/cuda_bindings.h"
#include "cuda/launch/epilogue.h"

namespace py = pybind11;

namespace fastconv {

inline void bind_cuda_epilogue(py::module_& m) {
  using release_gil = py::call_guard<py::gil_scoped_release>;
  m.def("epilogue_backward_workspace", [](const StrideTuple& size, int dtype) {
    cuda::EpilogueBackwardArgs args;
    args.N = size[0], args.K = size[1], args.P = size[2], args.Q = size[3];
    args.dtype = static_cast<DType>(dtype);
    return cuda::epilogue_backward_workspace(args);
  });
  m.def(
      "epilogue_backward",
      [](const StrideTuple& size, int dtype, const ActivationNumbers& activation, Address dy,
         const StrideTuple& dy_strides, Address saved, const StrideTuple& saved_strides, Address dz,
         const StrideTuple& dz_strides, Address db, Address workspace, Address stream) {
        check(cuda::epilogue_backward({size[0], size[1], size[2], size[3],
                                       static_cast<DType>(dtype), activation_of(activation),
                                       view(dy, dy_strides), view(saved, saved_strides),
                                       view(dz, dz_strides), reinterpret_cast<void*>(db),
                                       reinterpret_cast<void*>(workspace), stream_of(stream)}),
              "epilogue_backward");
      },
      release_gil());
  m.def(
      "epilogue_forward",
      [](const StrideTuple& size, int dtype, Address z, const StrideTuple& z_strides, Address y,
         const StrideTuple& y_strides, Address bias, Address residual,
         const StrideTuple& residual_strides, const ActivationNumbers& activation, Address stream) {
        check(cuda::epilogue_forward(
                  {size[0], size[1], size[2], size[3], static_cast<DType>(dtype),
                   view(z, z_strides), view(y, y_strides),
                   Epilogue{reinterpret_cast<void*>(bias), view(residual, residual_strides),
                            activation_of(activation)},
                   stream_of(stream)}),
              "epilogue_forward");
      },
      release_gil());
}

}  // namespace fastconv
