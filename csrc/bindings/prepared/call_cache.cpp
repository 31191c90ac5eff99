#include "bindings/prepared/call_cache.h"

#include <structmember.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <unordered_map>
#include <vector>

#include "bindings/prepared/arguments.h"
#include "bindings/prepared/prepared_call.h"
#include "bindings/prepared/torch_python.h"
#include "bindings/prepared/without_lock.h"

namespace fastconv {
namespace {

constexpr size_t kMostCalls = 1024;  // of a cache, which begins anew when they are reached

// ---- what is known of a call -----------------------------------------------------------------

struct KnownCall {
  Signature signature;
  std::vector<int64_t> extents;  // bytes of each operand
  Reference owner;               // of `call`
  const PreparedCall* call = nullptr;
  std::vector<ResultTensor> results;
  // Numbers of results, kAbsent for None. The others of them are for the call's own use.
  std::vector<int> returned;
  bool returns_tuple = false;
  Reference differentiate;  // null where nobody differentiates

  static constexpr int kAbsent = -1;

  void keep(const Arguments& read) {
    signature = Signature(read);
    for (int i = 0; i < read.operand_count(); ++i) extents.push_back(read.operand(i).extent());
  }

  // False with an error set on failure.
  bool keep_results(PyObject* tensors, PyObject* numbers) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tensors); ++i) {
      PyObject* const tensor = PyTuple_GET_ITEM(tensors, i);
      results.emplace_back();
      if (!results.back().be_like(tensor)) return false;
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
      if (known->signature.is(arguments)) return known;
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

// False, without an error set, where the call must take the long road.
bool find_context(int device, RunContext* context) {
  if (device == TensorFacts::kCpu) {
    context->num_threads = num_threads();
    return true;
  }
  context->device = device;
  return torch_python.empty_strided_cuda != Py_None && find_stream(device, &context->stream);
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
  std::array<void*, Arguments::kMostOperands> operands, addresses;
  for (int i = 0; i < read.operand_count(); ++i) operands[i] = read.operand(i).address;
  for (size_t i = 0; i < known->results.size(); ++i) {
    results.push_back(known->results[i].allocate(read.device()));
    if (!results[i]) return nullptr;
    addresses[i] = address(results[i].get());
    if (addresses[i] == nullptr) return nullptr;
  }
  if (!without_lock([&] { known->call->run(operands.data(), addresses.data(), context); })) {
    return nullptr;
  }
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
  if (PyTuple_GET_SIZE(results) > Arguments::kMostOperands ||
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

PyObject* find_call(PyObject* cache, PyObject* arguments) {
  if (Py_TYPE(cache) != call_cache_type || !PyTuple_Check(arguments)) {
    PyErr_SetString(PyExc_TypeError, "find_call: expected a CallCache and a tuple");
    return nullptr;
  }
  Arguments read;
  if (!read.read(PySequence_Fast_ITEMS(arguments), PyTuple_GET_SIZE(arguments))) Py_RETURN_NONE;
  const auto known = reinterpret_cast<CallCacheObject*>(cache)->cache->find(read);
  const bool is_one = known != nullptr && known->results.size() == 1 && !known->returns_tuple;
  if (!is_one || known->differentiate) Py_RETURN_NONE;
  return Py_NewRef(known->owner.get());
}

}  // namespace fastconv
