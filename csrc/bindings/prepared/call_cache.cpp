#include "bindings/prepared/call_cache.h"

#include <structmember.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "bindings/prepared/prepared_call.h"
#include "bindings/prepared/torch_python.h"

namespace fastconv {
namespace {

constexpr int kMostOperands = 8;
constexpr int kMostStrings = 4;
constexpr int kMostWords = 128;      // of a signature
constexpr size_t kMostCalls = 1024;  // of a cache, which begins anew when they are reached

enum class Kind : int64_t { none, boolean, integer, string, sequence, tensor };

// ---- the arguments of a call
// ---------------------------------------------------------------------

class Arguments {
 public:
  // False for a call that has no signature.
  bool read(PyObject* const* arguments, Py_ssize_t count) {
    count_ = kFixedWords;
    bool requires_grad = false;
    for (Py_ssize_t i = 0; i < count; ++i) {
      PyObject* const argument = arguments[i];
      if (torch_python.is_tensor(argument)) {
        if (!add_tensor(argument)) return false;
        requires_grad |= operands_[operand_count_ - 1].requires_grad;
      } else if (!add_value(argument)) {
        return false;
      }
    }
    for (int i = 1; i < operand_count_; ++i) {
      if (operands_[i].device != device()) return false;
    }
    words_[kDifferentiated] = requires_grad && grad_mode();
    words_[kDevice] = device();
    words_[kCudaState] =
        device() != TensorFacts::kCpu || torch_python.cuda_is_emulated ? cuda_state() : 0;
    return true;
  }

  bool differentiated() const { return words_[kDifferentiated] != 0; }
  int device() const { return operand_count_ == 0 ? TensorFacts::kCpu : operands_[0].device; }
  int operand_count() const { return operand_count_; }
  const TensorFacts& operand(int i) const { return operands_[i]; }
  const int64_t* words() const { return words_.data(); }
  int word_count() const { return count_; }
  PyObject* const* strings() const { return strings_.data(); }
  int string_count() const { return string_count_; }

  uint64_t hash() const {
    uint64_t hash = 0;
    for (int i = 0; i < count_; ++i) {
      hash =
          (hash ^ static_cast<uint64_t>(words_[i])) * 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
      hash ^= hash >> 32;
    }
    return hash;
  }

 private:
  enum { kDifferentiated, kDevice, kCudaState, kFixedWords };

  // What CUDA's plans depend on besides sizes: TF32, and which addresses are aligned for the widest
  // loads.
  int64_t cuda_state() const {
    constexpr uintptr_t kWidestLoad = 16;  // bytes
    int64_t state = allows_tf32();
    for (int i = 0; i < operand_count_; ++i) {
      const bool aligned = reinterpret_cast<uintptr_t>(operands_[i].address) % kWidestLoad == 0;
      state = state << 1 | (aligned ? 1 : 0);
    }
    return state;
  }

  bool add(Kind kind, int64_t value) {
    if (count_ + 2 > kMostWords) return false;
    words_[count_++] = static_cast<int64_t>(kind);
    words_[count_++] = value;
    return true;
  }

  bool add_value(PyObject* value) {
    if (value == Py_None) return add(Kind::none, 0);
    if (PyBool_Check(value)) return add(Kind::boolean, value == Py_True);
    if (PyLong_CheckExact(value)) {
      int overflow = 0;
      const int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
      return overflow == 0 && add(Kind::integer, number);
    }
    if (PyUnicode_CheckExact(value)) {
      if (string_count_ == kMostStrings) return false;
      strings_[string_count_++] = value;  // two that differ may have the same hash
      return add(Kind::string, PyObject_Hash(value));
    }
    if (!PyTuple_CheckExact(value) && !PyList_CheckExact(value)) return false;
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(value);
    if (!add(Kind::sequence, size)) return false;
    for (Py_ssize_t i = 0; i < size; ++i) {
      PyObject* const item = PySequence_Fast_GET_ITEM(value, i);
      const bool is_flat = !PyTuple_Check(item) && !PyList_Check(item);
      if (!is_flat || !add_value(item)) return false;
    }
    return true;
  }

  bool add_tensor(PyObject* tensor) {
    if (operand_count_ == kMostOperands) return false;
    TensorFacts& facts = operands_[operand_count_];
    if (!read_tensor(tensor, &facts)) return false;
    ++operand_count_;
    bool fits = add(Kind::tensor, facts.dimensions) && add(Kind::tensor, facts.dtype);
    for (int i = 0; fits && i < facts.dimensions; ++i) {
      fits = count_ + 2 <= kMostWords;
      if (!fits) break;
      words_[count_++] = facts.sizes[i];
      words_[count_++] = facts.strides[i];
    }
    return fits;
  }

  int count_ = 0, operand_count_ = 0, string_count_ = 0;
  std::array<int64_t, kMostWords> words_;
  std::array<TensorFacts, kMostOperands> operands_;
  std::array<PyObject*, kMostStrings> strings_;
};

// ---- what is known of a call
// ---------------------------------------------------------------------

struct ResultTensor {
  Reference size, strides, dtype;
};

struct KnownCall {
  std::vector<int64_t> words;
  std::vector<Reference> strings;
  std::vector<int64_t> extents;  // bytes of each operand
  Reference owner;               // of `call`
  const PreparedCall* call = nullptr;
  std::vector<ResultTensor> results;
  // Numbers of results, kAbsent for None. The others of them are for the call's own use.
  std::vector<int> returned;
  bool returns_tuple = false;
  Reference differentiate;  // null where nobody differentiates

  static constexpr int kAbsent = -1;

  bool is_like(const Arguments& arguments) const {
    if (words.size() != static_cast<size_t>(arguments.word_count()) ||
        std::memcmp(words.data(), arguments.words(), words.size() * sizeof(int64_t)) != 0) {
      return false;
    }
    for (size_t i = 0; i < strings.size(); ++i) {
      PyObject *const known = strings[i].get(), *const given = arguments.strings()[i];
      if (known != given && PyUnicode_Compare(known, given) != 0) return false;
    }
    return true;
  }

  void keep(const Arguments& read) {
    words.assign(read.words(), read.words() + read.word_count());
    for (int i = 0; i < read.string_count(); ++i) {
      strings.push_back(Reference::to(read.strings()[i]));
    }
    for (int i = 0; i < read.operand_count(); ++i) extents.push_back(read.operand(i).extent());
  }

  // False with an error set on failure.
  bool keep_results(PyObject* tensors, PyObject* numbers) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tensors); ++i) {
      PyObject* const tensor = PyTuple_GET_ITEM(tensors, i);
      const Reference size(PyObject_GetAttrString(tensor, "shape"));
      results.push_back({Reference(size ? PySequence_Tuple(size.get()) : nullptr),
                         Reference(PyObject_CallMethod(tensor, "stride", nullptr)),
                         Reference(PyObject_GetAttrString(tensor, "dtype"))});
      const ResultTensor& added = results.back();
      if (!added.size || !added.strides || !added.dtype) return false;
    }
    returns_tuple = PyTuple_Check(numbers);
    if (!returns_tuple) {
      returned.push_back(static_cast<int>(PyLong_AsLong(numbers)));
      return PyErr_Occurred() == nullptr;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(numbers); ++i) {
      PyObject* const number = PyTuple_GET_ITEM(numbers, i);
      returned.push_back(number == Py_None ? kAbsent : static_cast<int>(PyLong_AsLong(number)));
    }
    return PyErr_Occurred() == nullptr;
  }

  bool storages_hold(const Arguments& arguments) const {
    for (size_t i = 0; i < extents.size(); ++i) {
      const TensorFacts& operand = arguments.operand(static_cast<int>(i));
      if (operand.offset * operand.element_size + extents[i] > operand.storage_bytes) return false;
    }
    return true;
  }
};

struct Cache {
  std::unordered_map<uint64_t, std::vector<std::shared_ptr<const KnownCall>>> calls;
  size_t count = 0;

  std::shared_ptr<const KnownCall> find(const Arguments& arguments) const {
    const auto same_hash = calls.find(arguments.hash());
    if (same_hash == calls.end()) return nullptr;
    for (const auto& known : same_hash->second) {
      if (known->is_like(arguments)) return known;
    }
    return nullptr;
  }

  void insert(const Arguments& arguments, std::shared_ptr<const KnownCall> known) {
    if (count == kMostCalls) {
      // Taken out first: what they refer to may call back when it is released.
      const auto before = std::move(calls);
      calls = {};
      count = 0;
    }
    calls[arguments.hash()].push_back(std::move(known));
    ++count;
  }
};

// ---- a call ----------------------------------------------------------------------------------

Reference allocate(const ResultTensor& result, int device) {
  PyObject* const arguments[] = {result.size.get(), result.strides.get(), result.dtype.get()};
  PyObject* const function =
      device == TensorFacts::kCpu ? torch_python.empty_strided : torch_python.empty_strided_cuda;
  return Reference(PyObject_Vectorcall(function, arguments, 3, nullptr));
}

// False, without an error set, where the call must take the long road.
bool find_context(int device, RunContext* context) {
  if (device == TensorFacts::kCpu) {
    context->num_threads = num_threads();
    return true;
  }
  context->device = device;
  return torch_python.empty_strided_cuda != Py_None && find_stream(device, &context->stream);
}

// Runs the kernels without Python's lock. False with an error set where they throw.
bool run(const PreparedCall& call, void* const* operands, void* const* results,
         const RunContext& context) {
  std::exception_ptr error;
  PyThreadState* const state = PyEval_SaveThread();
  try {
    call.run(operands, results, context);
  } catch (...) {
    error = std::current_exception();
  }
  PyEval_RestoreThread(state);
  if (error == nullptr) return true;
  try {
    std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::invalid_argument& invalid) {
    PyErr_SetString(PyExc_ValueError, invalid.what());
  } catch (const std::exception& other) {
    PyErr_SetString(PyExc_RuntimeError, other.what());
  }
  return false;
}

PyObject* differentiated(const KnownCall& known, PyObject* const* arguments, Py_ssize_t count,
                         std::vector<Reference>& results) {
  const Reference computed(PyTuple_New(static_cast<Py_ssize_t>(results.size())));
  if (!computed) return nullptr;
  for (size_t i = 0; i < results.size(); ++i) {
    PyTuple_SET_ITEM(computed.get(), static_cast<Py_ssize_t>(i), results[i].release());
  }
  std::vector<PyObject*> all(arguments, arguments + count);
  all.push_back(computed.get());
  return PyObject_Vectorcall(known.differentiate.get(), all.data(), all.size(), nullptr);
}

PyObject* returned(const KnownCall& known, std::vector<Reference>& results) {
  if (!known.returns_tuple) return results[known.returned[0]].release();
  PyObject* const tuple = PyTuple_New(static_cast<Py_ssize_t>(known.returned.size()));
  if (tuple == nullptr) return nullptr;
  for (size_t i = 0; i < known.returned.size(); ++i) {
    const int number = known.returned[i];
    PyObject* const item =
        number == KnownCall::kAbsent ? Py_NewRef(Py_None) : Py_NewRef(results[number].get());
    PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), item);
  }
  return tuple;
}

PyObject* call(const Cache& cache, PyObject* const* arguments, Py_ssize_t count) {
  Arguments read;
  if (!torch_is_plain() || !read.read(arguments, count)) Py_RETURN_NONE;
  const std::shared_ptr<const KnownCall> known = cache.find(read);
  RunContext context;
  if (known == nullptr || !known->storages_hold(read) || !find_context(read.device(), &context)) {
    Py_RETURN_NONE;
  }

  std::vector<Reference> results;
  std::array<void*, kMostOperands> operands, addresses;
  for (int i = 0; i < read.operand_count(); ++i) operands[i] = read.operand(i).address;
  for (size_t i = 0; i < known->results.size(); ++i) {
    results.push_back(allocate(known->results[i], read.device()));
    if (!results[i]) return nullptr;
    addresses[i] = address(results[i].get());
    if (addresses[i] == nullptr) return nullptr;
  }
  if (!run(*known->call, operands.data(), addresses.data(), context)) return nullptr;
  if (known->differentiate) return differentiated(*known, arguments, count, results);
  return returned(*known, results);
}

// ---- the Python type -------------------------------------------------------------------------

struct CallCacheObject {
  PyObject base;
  vectorcallfunc vectorcall;
  Cache* cache;
};

PyTypeObject* call_cache_type = nullptr;

PyObject* call_cache(PyObject* self, PyObject* const* arguments, size_t flags, PyObject* names) {
  if (names != nullptr && PyTuple_GET_SIZE(names) > 0) {
    PyErr_SetString(PyExc_TypeError, "a CallCache takes no keyword arguments");
    return nullptr;
  }
  const Cache& cache = *reinterpret_cast<CallCacheObject*>(self)->cache;
  return call(cache, arguments, PyVectorcall_NARGS(flags));
}

PyObject* new_call_cache(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* const self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  auto* const object = reinterpret_cast<CallCacheObject*>(self);
  object->vectorcall = call_cache;
  object->cache = new (std::nothrow) Cache;
  if (object->cache != nullptr) return self;
  Py_DECREF(self);
  return PyErr_NoMemory();
}

void delete_call_cache(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  delete reinterpret_cast<CallCacheObject*>(self)->cache;
  type->tp_free(self);
  Py_DECREF(type);
}

}  // namespace

bool add_call_cache(PyObject* module) {
  static PyMemberDef members[] = {{"__vectorcalloffset__", T_PYSSIZET,
                                   offsetof(CallCacheObject, vectorcall), READONLY, nullptr},
                                  {nullptr, 0, 0, 0, nullptr}};
  static PyType_Slot slots[] = {
      {Py_tp_doc, const_cast<char*>("The calls of an operator that were met before. Gives None for "
                                    "one that was not, or where torch does more than compute.")},
      {Py_tp_new, reinterpret_cast<void*>(new_call_cache)},
      {Py_tp_dealloc, reinterpret_cast<void*>(delete_call_cache)},
      {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
      {Py_tp_members, members},
      {0, nullptr}};
  static PyType_Spec spec = {"fastconv._core.CallCache", sizeof(CallCacheObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, slots};
  call_cache_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  return call_cache_type != nullptr &&
         PyModule_AddObjectRef(module, "CallCache", reinterpret_cast<PyObject*>(call_cache_type)) ==
             0;
}

bool remember_call(PyObject* cache, PyObject* arguments, PyObject* prepare,
                   const PreparedCall* (*prepared_call)(PyObject*)) {
  if (Py_TYPE(cache) != call_cache_type || !PyTuple_Check(arguments)) {
    PyErr_SetString(PyExc_TypeError, "remember_call: expected a CallCache and a tuple");
    return false;
  }
  Cache& calls = *reinterpret_cast<CallCacheObject*>(cache)->cache;
  Arguments read;
  if (!torch_is_plain() ||
      !read.read(PySequence_Fast_ITEMS(arguments), PyTuple_GET_SIZE(arguments)) ||
      calls.find(read) != nullptr) {
    return true;
  }
  const Reference prepared(PyObject_CallNoArgs(prepare));
  if (prepared.get() == Py_None) return true;
  PyObject *owner, *results, *returned, *differentiate;
  if (!prepared || !PyArg_ParseTuple(prepared.get(), "OO!OO", &owner, &PyTuple_Type, &results,
                                     &returned, &differentiate)) {
    return false;
  }
  if (PyTuple_GET_SIZE(results) > kMostOperands ||
      read.differentiated() != (differentiate != Py_None)) {
    PyErr_SetString(PyExc_ValueError, "remember_call: not what these arguments ask for");
    return false;
  }
  const auto known = std::make_shared<KnownCall>();
  known->call = prepared_call(owner);
  known->owner = Reference::to(owner);
  if (known->call == nullptr || !known->keep_results(results, returned)) return false;
  known->keep(read);
  if (differentiate != Py_None) known->differentiate = Reference::to(differentiate);
  calls.insert(read, known);
  return true;
}

}  // namespace fastconv
