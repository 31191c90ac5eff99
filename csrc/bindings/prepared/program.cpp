#include "bindings/prepared/program.h"

#include <algorithm>
#include <array>

#include "bindings/prepared/without_lock.h"

namespace fastconv {

bool TensorLike::be_like(PyObject* tensor) {
  if (!torch_python.is_tensor(tensor) || !read_tensor(tensor, &facts_)) return false;
  extent_ = facts_.extent();
  return facts_.device == TensorFacts::kCpu && result_.be_like(tensor);
}

bool TensorLike::is(const TensorFacts& facts) const {
  if (facts.device != facts_.device || facts.dtype != facts_.dtype ||
      facts.dimensions != facts_.dimensions)
    return false;
  const auto same = [&](const int64_t* a, const int64_t* b) {
    return std::equal(a, a + facts.dimensions, b);
  };
  return same(facts.sizes, facts_.sizes) && same(facts.strides, facts_.strides) &&
         facts.offset * facts.element_size + extent_ <= facts.storage_bytes;
}

// ---- one program -----------------------------------------------------------------------------

bool Program::holds() const {
  for (const Guard& guard : guards) {
    PyObject* const dictionary = guard.dictionary.get();
    if (PyDict_Size(dictionary) != guard.size) return false;
    for (const auto& [name, value] : guard.items) {
      if (PyDict_GetItemWithError(dictionary, name.get()) == value.get()) continue;
      PyErr_Clear();
      return false;
    }
  }
  return std::all_of(class_guards.begin(), class_guards.end(), [](const ClassGuard& guard) {
    return Py_TYPE(guard.object.get()) == guard.type;
  });
}

bool Program::takes(const Arguments& read) const {
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!arguments[i]->is(read.operand(static_cast<int>(i)))) return false;
  }
  return true;
}

void Program::take_arguments(const Arguments& read, PyObject* const* given, Py_ssize_t count,
                             Tensors& tensors) const {
  int next = 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!torch_python.is_tensor(given[i])) continue;
    tensors.objects[next] = Reference::to(given[i]);
    tensors.addresses[next] = static_cast<std::byte*>(read.operand(next).address);
    ++next;
  }
}

bool Program::take_parameters(Tensors& tensors) const {
  size_t next = arguments.size();
  for (const Parameter& parameter : parameters) {
    PyObject* const tensor =
        PyDict_GetItemWithError(parameter.dictionary.get(), parameter.name.get());
    PyErr_Clear();
    TensorFacts facts;
    if (tensor == nullptr || !torch_python.is_tensor(tensor) || !read_tensor(tensor, &facts) ||
        !parameter.like->is(facts)) {
      return false;
    }
    tensors.objects[next] = Reference::to(tensor);
    tensors.addresses[next] = static_cast<std::byte*>(facts.address);
    ++next;
  }
  return true;
}

Program::Outcome Program::run_step(const Step& step, Tensors& tensors, std::byte* arena,
                                   const RunContext& context) const {
  for (const Allocation& allocation : step.allocations) {
    Reference& object = tensors.objects[allocation.tensor];
    object = allocation.like->allocate();
    if (!object) return Outcome::failed;
    void* const data = address(object.get());
    if (data == nullptr) return Outcome::failed;
    tensors.addresses[allocation.tensor] = static_cast<std::byte*>(data);
  }
  const bool computed = step.calls.empty() || without_lock([&] {
                          std::array<void*, Arguments::kMostOperands> operands, results;
                          for (const Call& call : step.calls) {
                            for (size_t i = 0; i < call.operands.size(); ++i) {
                              operands[i] = tensors.at(call.operands[i], arena);
                            }
                            for (size_t i = 0; i < call.results.size(); ++i) {
                              results[i] = tensors.at(call.results[i], arena);
                            }
                            call.call->run(operands.data(), results.data(), context);
                          }
                        });
  if (!computed) return Outcome::failed;
  if (step.function) {
    std::vector<PyObject*> inputs;
    for (const int input : step.inputs) inputs.push_back(tensors.objects[input].get());
    Reference result(
        PyObject_Vectorcall(step.function.get(), inputs.data(), inputs.size(), nullptr));
    if (!result) return Outcome::failed;
    if (step.expected) {
      TensorFacts facts;
      if (!torch_python.is_tensor(result.get()) || !read_tensor(result.get(), &facts) ||
          !step.expected->is(facts)) {
        return Outcome::changed;
      }
      tensors.addresses[step.output] = static_cast<std::byte*>(facts.address);
    }
    tensors.objects[step.output] = std::move(result);
  }
  for (const int tensor : step.released) tensors.objects[tensor] = Reference();
  return Outcome::done;
}

PyObject* Program::run(const Arguments& read, PyObject* const* given, Py_ssize_t count,
                       ArenaPool& pool) const {
  Tensors tensors{std::vector<Reference>(tensor_count), std::vector<std::byte*>(tensor_count)};
  take_arguments(read, given, count, tensors);
  if (!take_parameters(tensors)) Py_RETURN_NONE;
  RunContext context;
  context.num_threads = num_threads();
  {
    const ArenaPool::Loan arena(pool, arena_bytes);
    for (const Step& step : steps) {
      const Outcome outcome = run_step(step, tensors, arena.data(), context);
      if (outcome == Outcome::failed) return nullptr;
      if (outcome == Outcome::changed) Py_RETURN_NONE;
    }
  }
  if (!arrange) return tensors.objects[returned[0]].release();
  std::vector<PyObject*> results;
  for (const int tensor : returned) results.push_back(tensors.objects[tensor].get());
  return PyObject_Vectorcall(arrange.get(), results.data(), results.size(), nullptr);
}

// ---- a network's programs --------------------------------------------------------------------

bool Programs::read(PyObject* arguments, Arguments& read) {
  return torch_is_plain() && !grad_mode() && PyTuple_Check(arguments) &&
         read.read(PySequence_Fast_ITEMS(arguments), PyTuple_GET_SIZE(arguments));
}

Programs::Entry* Programs::find(const Arguments& read) {
  for (Entry& entry : entries_) {
    if (entry.signature.is(read)) return &entry;
  }
  return nullptr;
}

Programs::Entry& Programs::insert(const Arguments& read) {
  if (Entry* const entry = find(read)) return *entry;
  if (entries_.size() == kMostEntries) {
    // Taken out first: what they refer to may call back when it is released.
    std::vector<Entry> before;
    before.swap(entries_);
  }
  entries_.push_back({Signature(read), nullptr});
  return entries_.back();
}

PyObject* Programs::run(PyObject* arguments) {
  if (entries_.empty()) Py_RETURN_NONE;
  Arguments read;
  if (!Programs::read(arguments, read)) Py_RETURN_NONE;
  Entry* const entry = find(read);
  if (entry == nullptr || entry->program == nullptr) Py_RETURN_NONE;
  const auto program = entry->program;  // another thread may drop the entry
  if (program->holds()) {
    if (program->steps.empty() || !program->takes(read)) Py_RETURN_NONE;
    PyObject* const result =
        program->run(read, PySequence_Fast_ITEMS(arguments), PyTuple_GET_SIZE(arguments), arenas_);
    if (result != Py_None) return result;
    Py_DECREF(result);
  }
  const auto stale = [&](const Entry& other) { return other.program == program; };
  entries_.erase(std::remove_if(entries_.begin(), entries_.end(), stale), entries_.end());
  Py_RETURN_NONE;
}

bool Programs::is_met(PyObject* arguments) {
  Arguments read;
  if (!Programs::read(arguments, read)) return false;
  const Entry* const entry = find(read);
  return entry != nullptr && entry->program == nullptr;
}

void Programs::meet(PyObject* arguments) {
  Arguments read;
  if (Programs::read(arguments, read)) insert(read);
}

void Programs::add(PyObject* arguments, std::shared_ptr<const Program> program) {
  Arguments read;
  if (!Programs::read(arguments, read)) return;
  program.swap(insert(read).program);  // the one before is released here, when all is in place
}

}  // namespace fastconv
