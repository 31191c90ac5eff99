// The module fastconv._cuda, for a GPU or for the emulator of the tests: its parts are bound in the
// headers beside it.
#include "bindings/cuda_bindings.h"
#include "bindings/cuda_conv2d.h"
#include "bindings/cuda_epilogue.h"
#include "bindings/cuda_im2col.h"
#include "bindings/cuda_pool2d.h"
#include "bindings/cuda_prepared.h"

namespace py = pybind11;

namespace fastconv {
namespace {

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
  return value;
}

// (sm_count, shared memory per block, L2 bytes, compute capability)
py::tuple device_properties(int device) {
  return py::make_tuple(attribute(cudaDevAttrMultiProcessorCount, device),
                        attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                        attribute(cudaDevAttrL2CacheSize, device),
                        10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                            attribute(cudaDevAttrComputeCapabilityMinor, device));
}

// What the driver says to a program that wants a device: "no error" or the reason.
std::string driver_status() {
#ifndef FASTCONV_EMULATOR
  int version = 0;  // stays 0 without a driver, which cudart would call "insufficient"
  if (cudaDriverGetVersion(&version) == cudaSuccess && version == 0) return "no CUDA driver";
#endif
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) cudaGetLastError();
  return cudaGetErrorString(status);
}

}  // namespace
}  // namespace fastconv

#ifndef FASTCONV_CUDA_ARCHS
#define FASTCONV_CUDA_ARCHS "emulated"
#endif

PYBIND11_MODULE(_cuda, m) {
  using namespace fastconv;
  m.doc() = "fastconv's CUDA kernels. Knows no torch; importing needs no driver and no GPU.";
#ifdef FASTCONV_EMULATOR
  m.attr("is_emulated") = true;
#else
  m.attr("is_emulated") = false;
#endif
  m.attr("archs") = FASTCONV_CUDA_ARCHS;  // what machine code there is (setup.py)
  m.def("device_properties", &device_properties, py::arg("device"));
  m.def("driver_status", &driver_status);
  m.def("set_device", [](int device) { check(cudaSetDevice(device), "cudaSetDevice"); });
  bind_cuda_conv2d(m);
  bind_cuda_epilogue(m);
  bind_cuda_im2col(m);
  bind_cuda_pool2d(m);
  bind_cuda_prepared(m);
}
