// torch as Python shows it: tensors and the states of the process are read through Python's C API,
// by functions that Python hands over once. No header and no library of torch takes part.
#pragma once

#include <Python.h>

#include <cstdint>
#include <vector>

namespace fastconv {

// Releases a reference at the end of its scope.
class Reference {
 public:
  explicit Reference(PyObject* object = nullptr) : object_(object) {}
  Reference(Reference&& other) noexcept : object_(other.release()) {}
  Reference& operator=(Reference&& other) noexcept {
    PyObject* const before = object_;
    object_ = other.release();
    Py_XDECREF(before);
    return *this;
  }
  ~Reference() { Py_XDECREF(object_); }

  static Reference to(PyObject* object) { return Reference(Py_NewRef(object)); }
  PyObject* get() const { return object_; }
  PyObject* release() {
    PyObject* const object = object_;
    object_ = nullptr;
    return object;
  }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_;
};

// What tensors of every library say of themselves to native code, as the DLPack specification (1.3,
// "C Exchange API") lays it out.
struct ExchangedTensor {
  void* data;
  int32_t device_type, device_index;
  int32_t dimensions;
  uint8_t dtype_code, dtype_bits;
  uint16_t dtype_lanes;
  const int64_t *sizes, *strides;  // the tensor's own
  uint64_t byte_offset;
};
// 0, or -1 with an error set.
using ReadTensor = int (*)(void* tensor, ExchangedTensor* result);

// What prepared calls use of torch; filled in by connect_torch, which fastconv/prepared.py calls.
struct TorchPython {
  PyTypeObject* tensor = nullptr;     // torch.Tensor
  PyTypeObject* parameter = nullptr;  // torch.nn.Parameter
  // (size, strides, dtype) -> a tensor on the CPU, or on the current CUDA device; the latter is
  // None where torch has no such function.
  PyObject *empty_strided = nullptr, *empty_strided_cuda = nullptr;
  PyObject* cuda_device = nullptr;  // () -> the number of the current device
  PyObject* cuda_stream = nullptr;  // (number of a device) -> address of its current stream
  PyObject* allows_tf32 = nullptr;  // () -> bool
  bool cuda_is_emulated = false;    // CUDA's kernels take tensors on the CPU
  PyObject* grad_mode = nullptr;    // () -> bool
  PyObject* num_threads = nullptr;  // () -> int
  PyObject* forward_ad = nullptr;   // the module whose _current_level is -1 without forward AD
  PyObject* dispatch = nullptr;     // fastconv.dispatch.state
  // Each returns something true while calls mean more than computing: a mode, a transform, a tracer
  // or a profiler is active.
  std::vector<PyObject*> active;
  // From torch 2.10 on tensors tell most about themselves in one call; else null.
  ReadTensor exchange = nullptr;

  bool is_tensor(PyObject* object) const {
    return Py_TYPE(object) == tensor || Py_TYPE(object) == parameter;
  }
};

extern TorchPython torch_python;

// Keeps what the dictionary holds under the names of TorchPython's members. False with an error set
// where one is missing.
bool connect_torch(PyObject* functions);

// Whether a call with plain tensors now only computes. False without an error set where not, and
// where torch does not tell.
bool torch_is_plain();

// Whether torch records derivatives; whether float32 may be rounded to TF32.
bool grad_mode();
bool allows_tf32();

// False, without an error set, where a GPU is not the current one, or torch does not tell.
bool find_stream(int device, void** stream);

int num_threads();

// A dense or strided tensor of at most four dimensions, in the memory of the CPU or of a GPU.
struct TensorFacts {
  static constexpr int kMostDimensions = 4;
  static constexpr int kCpu = -1;
  int device = kCpu;  // or the number of a GPU
  int dimensions = 0;
  int64_t sizes[kMostDimensions], strides[kMostDimensions];
  int64_t dtype = 0;         // another number for each dtype, the same as long as the process runs
  int64_t element_size = 0;  // in bytes
  bool requires_grad = false;
  void* address = nullptr;
  int64_t offset = 0;         // of the first element in the storage, in elements
  int64_t storage_bytes = 0;  // storages can be resized under their tensors

  // Bytes from the first element's to the end of the last one's; 0 for an empty tensor.
  int64_t extent() const;
};

// False, without an error set, for any other tensor: on another device, of another layout, negated
// lazily or without memory of its own.
bool read_tensor(PyObject* tensor, TensorFacts* facts);

// The tensors that are allocated for a result.
struct ResultTensor {
  Reference size, strides, dtype;

  // False with an error set on failure.
  bool be_like(PyObject* tensor);
  // On TensorFacts::kCpu or the current GPU. Null with an error set on failure.
  Reference allocate(int device) const;
};

// Of a tensor that was just allocated. Null with an error set on failure.
void* address(PyObject* tensor);

}  // namespace fastconv
