#include "bindings/bindings.h"
#include "cpu/kernels.h"

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
  bind_problem(m);
  bind_plan(m);
  bind_conv2d(m);
  bind_pool2d(m);
}
