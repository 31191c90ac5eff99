// The module fastconv._core, which is always built: its parts are bound in the headers beside it.
#include "bindings/bindings.h"
#include "bindings/conv2d.h"
#include "bindings/plan.h"
#include "bindings/pool2d.h"
#include "bindings/prepared/bind_prepared.h"
#include "bindings/prepared/bind_program.h"
#include "bindings/problem.h"
#include "cpu/runtime/kernels.h"

PYBIND11_MODULE(_core, m) {
  using namespace fastconv;
  m.doc() = "fastconv's native core: problems, plans and CPU kernels. Knows no torch.";
  pybind11::enum_<DType>(m, "DType")
      .value("float64", DType::float64)
      .value("float32", DType::float32)
      .value("float16", DType::float16)
      .value("bfloat16", DType::bfloat16);
  m.attr("cuda_status") = FASTCONV_CUDA_STATUS;  // why there is no fastconv._cuda (setup.py)
  m.def("instruction_set", [] { return cpu_kernels().instruction_set; });
  m.def(
      "register_tile",
      [](DType dtype) {
        return pybind11::make_tuple(cpu_kernels().micro_rows,
                                    cpu_kernels().micro_bytes / accumulator_size(dtype));
      },
      pybind11::arg("dtype"), "(rows, columns) of sums that implicit GEMM keeps in registers.");
  bind_problem(m);
  bind_plan(m);
  bind_conv2d(m);
  bind_pool2d(m);
  bind_prepared(m);
  bind_program(m);
}
