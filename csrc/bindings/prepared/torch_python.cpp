#include "bindings/prepared/torch_python.h"

namespace fastconv {

TorchPython torch_python;

namespace {

// Names that are looked up in every call.
struct Names {
  PyObject* shape = PyUnicode_InternFromString("shape");
  PyObject* stride = PyUnicode_InternFromString("stride");
  PyObject* dtype = PyUnicode_InternFromString("dtype");
  PyObject* is_cpu = PyUnicode_InternFromString("is_cpu");
  PyObject* is_neg = PyUnicode_InternFromString("is_neg");
  PyObject* is_zerotensor = PyUnicode_InternFromString("_is_zerotensor");
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
  PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
  PyObject* storage_offset = PyUnicode_InternFromString("storage_offset");
  PyObject* untyped_storage = PyUnicode_InternFromString("untyped_storage");
  PyObject* element_size = PyUnicode_InternFromString("element_size");
  PyObject* nbytes = PyUnicode_InternFromString("nbytes");
  PyObject* current_level = PyUnicode_InternFromString("_current_level");
  PyObject* backend = PyUnicode_InternFromString("backend");
  PyObject* recorder = PyUnicode_InternFromString("recorder");
  PyObject* observer = PyUnicode_InternFromString("observer");
};

const Names& names() {
  static const Names names;
  return names;
}

// The functions below return false and leave Python's error set where an attribute is missing or
// raises; their callers give up and clear it.

bool attribute_is(PyObject* object, PyObject* name, PyObject* expected) {
  const Reference value(PyObject_GetAttr(object, name));
  return value.get() == expected;
}

bool method_is(PyObject* object, PyObject* name, PyObject* expected) {
  const Reference value(PyObject_CallMethodNoArgs(object, name));
  return value.get() == expected;
}

bool read_integer(PyObject* value, int64_t* result) {
  if (value == nullptr || !PyLong_CheckExact(value)) return false;
  *result = PyLong_AsLongLong(value);
  return *result != -1 || PyErr_Occurred() == nullptr;
}

bool read_method(PyObject* object, PyObject* name, int64_t* result) {
  const Reference value(PyObject_CallMethodNoArgs(object, name));
  return read_integer(value.get(), result);
}

bool read_sizes(PyObject* tuple, int64_t* result, int* count) {
  if (tuple == nullptr || !PyTuple_Check(tuple)) return false;
  const Py_ssize_t size = PyTuple_GET_SIZE(tuple);
  if (size > TensorFacts::kMostDimensions) return false;
  for (Py_ssize_t i = 0; i < size; ++i) {
    if (!read_integer(PyTuple_GET_ITEM(tuple, i), &result[i])) return false;
  }
  *count = static_cast<int>(size);
  return true;
}

// Sizes, strides, dtype and address by one call of torch's.
bool exchange(PyObject* tensor, TensorFacts* facts) {
  constexpr int kCpu = 1, kCuda = 2;  // DLPack's numbers
  ExchangedTensor seen;
  if (torch_python.exchange(tensor, &seen) != 0 ||
      (seen.device_type != kCpu && seen.device_type != kCuda) ||
      seen.dimensions > TensorFacts::kMostDimensions) {
    return false;
  }
  facts->device = seen.device_type == kCpu ? TensorFacts::kCpu : seen.device_index;
  facts->dimensions = seen.dimensions;
  for (int i = 0; i < seen.dimensions; ++i) {
    facts->sizes[i] = seen.sizes[i];
    facts->strides[i] = seen.strides[i];
  }
  facts->dtype = seen.dtype_code << 24 | seen.dtype_bits << 16 | seen.dtype_lanes;
  facts->element_size = seen.dtype_bits * seen.dtype_lanes / 8;
  facts->address = static_cast<char*>(seen.data) + seen.byte_offset;
  // A tensor of lazy zeros has no memory.
  return seen.data != nullptr;
}

// The same by the attributes of the Python object.
bool ask(PyObject* tensor, TensorFacts* facts) {
  const Names& n = names();
  int stride_count = 0;
  int64_t address = 0;
  if (!attribute_is(tensor, n.is_cpu, Py_True) ||
      !read_sizes(Reference(PyObject_GetAttr(tensor, n.shape)).get(), facts->sizes,
                  &facts->dimensions) ||
      !read_sizes(Reference(PyObject_CallMethodNoArgs(tensor, n.stride)).get(), facts->strides,
                  &stride_count) ||
      stride_count != facts->dimensions ||
      !read_method(tensor, n.element_size, &facts->element_size) ||
      !read_method(tensor, n.data_ptr, &address)) {
    return false;
  }
  const Reference dtype(PyObject_GetAttr(tensor, n.dtype));  // torch keeps it alive
  facts->dtype = static_cast<int64_t>(reinterpret_cast<uintptr_t>(dtype.get()));
  facts->address = reinterpret_cast<void*>(address);
  return dtype && method_is(tensor, n.is_zerotensor, Py_False);
}

bool try_read_tensor(PyObject* tensor, TensorFacts* facts) {
  const Names& n = names();
  // A sparse tensor, a wrapper and the like have no strides or no storage, and raise.
  const bool is_read =
      torch_python.exchange != nullptr ? exchange(tensor, facts) : ask(tensor, facts);
  if (!is_read || !method_is(tensor, n.is_neg, Py_False)) return false;
  const Reference requires_grad(PyObject_GetAttr(tensor, n.requires_grad));
  facts->requires_grad = requires_grad.get() == Py_True;
  const Reference storage(PyObject_CallMethodNoArgs(tensor, n.untyped_storage));
  return requires_grad && storage && read_method(storage.get(), n.nbytes, &facts->storage_bytes) &&
         read_method(tensor, n.storage_offset, &facts->offset);
}

bool try_torch_is_plain() {
  const Names& n = names();
  const TorchPython& torch = torch_python;
  for (PyObject* const function : torch.active) {
    const Reference result(PyObject_CallNoArgs(function));
    if (!result) return false;
    if (result.get() == Py_False || result.get() == Py_None) continue;
    if (PyObject_IsTrue(result.get()) != 0) return false;
  }
  int64_t level = 0;
  const Reference current(PyObject_GetAttr(torch.forward_ad, n.current_level));
  return read_integer(current.get(), &level) && level < 0 &&
         attribute_is(torch.dispatch, n.backend, Py_None) &&
         attribute_is(torch.dispatch, n.recorder, Py_None) &&
         attribute_is(torch.dispatch, n.observer, Py_None);
}

}  // namespace

namespace {

// The table behind torch.Tensor.__dlpack_c_exchange_api__.
struct ExchangeTable {
  uint32_t major, minor;
  void* older_table;
  void *allocate, *from_python, *to_python;
  ReadTensor read;
};

// The reader of a capsule with that table; null for None, and for a table of another layout.
ReadTensor reader_of(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, "dlpack_exchange_api")) return nullptr;
  const auto* const table =
      static_cast<const ExchangeTable*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  return table->major == 1 ? table->read : nullptr;
}

}  // namespace

bool connect_torch(PyObject* functions) {
  TorchPython& torch = torch_python;
  const auto find = [&](const char* name) {
    PyObject* const value = PyDict_GetItemString(functions, name);
    if (value == nullptr) PyErr_Format(PyExc_KeyError, "connect_torch: no %s", name);
    return Py_XNewRef(value);
  };
  torch.tensor = reinterpret_cast<PyTypeObject*>(find("tensor"));
  torch.parameter = reinterpret_cast<PyTypeObject*>(find("parameter"));
  torch.empty_strided = find("empty_strided");
  torch.empty_strided_cuda = find("empty_strided_cuda");
  torch.cuda_device = find("cuda_device");
  torch.cuda_stream = find("cuda_stream");
  torch.allows_tf32 = find("allows_tf32");
  torch.cuda_is_emulated = Reference(find("cuda_is_emulated")).get() == Py_True;
  torch.grad_mode = find("grad_mode");
  torch.num_threads = find("num_threads");
  torch.forward_ad = find("forward_ad");
  torch.dispatch = find("dispatch");
  const Reference active(find("active")), capsule(find("exchange"));
  if (PyErr_Occurred() != nullptr) return false;
  const Reference items(PySequence_Fast(active.get(), "connect_torch: active is a sequence"));
  if (!items) return false;
  torch.exchange = reader_of(capsule.get());
  torch.active.clear();
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.get()); ++i) {
    torch.active.push_back(Py_NewRef(PySequence_Fast_GET_ITEM(items.get(), i)));
  }
  return true;
}

bool torch_is_plain() {
  if (try_torch_is_plain()) return true;
  PyErr_Clear();
  return false;
}

bool grad_mode() {
  const Reference result(PyObject_CallNoArgs(torch_python.grad_mode));
  PyErr_Clear();
  return result.get() != Py_False;
}

bool allows_tf32() {
  const Reference result(PyObject_CallNoArgs(torch_python.allows_tf32));
  PyErr_Clear();
  return result.get() == Py_True;
}

bool find_stream(int device, void** stream) {
  int64_t current = 0, address = 0;
  const Reference number(PyObject_CallNoArgs(torch_python.cuda_device));
  if (read_integer(number.get(), &current) && current == device) {
    const Reference found(PyObject_CallOneArg(torch_python.cuda_stream, number.get()));
    if (read_integer(found.get(), &address)) {
      *stream = reinterpret_cast<void*>(address);
      return true;
    }
  }
  PyErr_Clear();
  return false;
}

int num_threads() {
  int64_t result = 1;
  const Reference value(PyObject_CallNoArgs(torch_python.num_threads));
  if (!read_integer(value.get(), &result)) PyErr_Clear();
  return static_cast<int>(result);
}

int64_t TensorFacts::extent() const {
  int64_t last = 0;
  for (int i = 0; i < dimensions; ++i) {
    if (sizes[i] == 0) return 0;
    last += (sizes[i] - 1) * strides[i];
  }
  return (last + 1) * element_size;
}

bool read_tensor(PyObject* tensor, TensorFacts* facts) {
  if (try_read_tensor(tensor, facts)) return true;
  PyErr_Clear();
  return false;
}

bool ResultTensor::be_like(PyObject* tensor) {
  const Reference shape(PyObject_GetAttr(tensor, names().shape));
  size = Reference(shape ? PySequence_Tuple(shape.get()) : nullptr);
  strides = Reference(PyObject_CallMethodNoArgs(tensor, names().stride));
  dtype = Reference(PyObject_GetAttr(tensor, names().dtype));
  return size && strides && dtype;
}

Reference ResultTensor::allocate(int device) const {
  PyObject* const arguments[] = {size.get(), strides.get(), dtype.get()};
  PyObject* const function =
      device == TensorFacts::kCpu ? torch_python.empty_strided : torch_python.empty_strided_cuda;
  return Reference(PyObject_Vectorcall(function, arguments, 3, nullptr));
}

void* address(PyObject* tensor) {
  ExchangedTensor seen;
  if (torch_python.exchange != nullptr) {
    return torch_python.exchange(tensor, &seen) == 0 ? seen.data : nullptr;
  }
  int64_t result = 0;
  if (!read_method(tensor, names().data_ptr, &result)) return nullptr;
  return reinterpret_cast<void*>(result);
}

}  // namespace fastconv
