#include "bindings/cuda_bindings.h"

namespace fastconv {

void bind_cuda_pool2d(pybind11::module_&) {}

}  // namespace fastconv
