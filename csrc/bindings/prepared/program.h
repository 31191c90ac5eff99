// A network's calls for inputs of one signature: a list of steps with a plan of their memory.
//
// A step runs prepared calls, without Python's lock, and then may call one function of Python, such
// as a layer that has no prepared call. Tensors that only prepared calls touch lie in an arena; all
// others are fresh ones, in every run.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "bindings/prepared/arena.h"
#include "bindings/prepared/arguments.h"
#include "bindings/prepared/prepared_call.h"
#include "bindings/prepared/torch_python.h"

namespace fastconv {

// What a tensor was like when a call was recorded. Prepared calls take the address of one that is
// like it, and a fresh one is allocated like it.
class TensorLike {
 public:
  // False where `tensor` has no address to take; an error may be set.
  bool be_like(PyObject* tensor);
  bool is(const TensorFacts& facts) const;
  Reference allocate() const { return result_.allocate(TensorFacts::kCpu); }
  int64_t extent() const { return extent_; }  // in bytes, from the first element on

 private:
  TensorFacts facts_;
  ResultTensor result_;
  int64_t extent_ = 0;
};

using SharedLike = std::shared_ptr<const TensorLike>;

class Program {
 public:
  Program() = default;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Where a tensor begins: bytes from the beginning of a tensor of the program, or of the arena.
  struct Place {
    static constexpr int kArena = -1;
    int tensor = kArena;
    int64_t offset = 0;
  };
  struct Allocation {
    int tensor;
    SharedLike like;
  };
  struct Call {
    Reference owner;  // of `call`
    const PreparedCall* call;
    std::vector<Place> operands, results;
  };
  struct Step {
    std::vector<Allocation> allocations;
    std::vector<Call> calls;
    Reference function;         // of Python, after the calls; or null
    std::vector<int> inputs;    // its arguments
    int output = 0;             // its result
    SharedLike expected;        // null: anything
    std::vector<int> released;  // tensors that no later step reads
  };

  // Tensors are numbered: those among the arguments first, in order, then the parameters, then the
  // results of steps.
  std::vector<SharedLike> arguments;
  struct Parameter {
    Reference dictionary, name;
    SharedLike like;
  };
  std::vector<Parameter> parameters;
  int tensor_count = 0;
  std::vector<Step> steps;  // none: the network's calls have to be made one by one
  int64_t arena_bytes = 0;
  std::vector<int> returned;
  Reference arrange;  // of the returned tensors, the network's result; null: the only one of them

  // Whether a dictionary still has as many entries, and these among them; and an object its class.
  struct Guard {
    Reference dictionary;
    Py_ssize_t size;
    std::vector<std::pair<Reference, Reference>> items;
  };
  std::vector<Guard> guards;
  struct ClassGuard {
    Reference object;
    PyTypeObject* type;
  };
  std::vector<ClassGuard> class_guards;

  // Whether the network still is what it was when the program was made.
  bool holds() const;

  // Whether the arguments' storages hold all their elements.
  bool takes(const Arguments& read) const;

  // What the network returns for arguments that it takes; None where a tensor is not as it was;
  // null with an error set. Throws std::bad_alloc.
  PyObject* run(const Arguments& read, PyObject* const* given, Py_ssize_t count,
                ArenaPool& pool) const;

 private:
  struct Tensors {
    std::vector<Reference> objects;
    std::vector<std::byte*> addresses;
    std::byte* at(const Place& place, std::byte* arena) const {
      return (place.tensor == Place::kArena ? arena : addresses[place.tensor]) + place.offset;
    }
  };
  enum class Outcome { done, changed, failed };
  void take_arguments(const Arguments& read, PyObject* const* given, Py_ssize_t count,
                      Tensors& tensors) const;
  bool take_parameters(Tensors& tensors) const;
  Outcome run_step(const Step& step, Tensors& tensors, std::byte* arena,
                   const RunContext& context) const;
};

// The programs of one network, by signature.
class Programs {
 public:
  // What the network returns for these arguments (a tuple); None where no program may run: there is
  // none, the network has changed, or torch does more than compute (torch_python.h). Null with an
  // error set on failure.
  PyObject* run(PyObject* arguments);

  // Whether a call with these arguments was noted down, and no program is known for it. The first
  // call is only noted down: a program is not worth while for inputs that never come again.
  bool is_met(PyObject* arguments);
  void meet(PyObject* arguments);

  void add(PyObject* arguments, std::shared_ptr<const Program> program);
  void clear() { entries_.clear(); }

  const ArenaPool& arenas() const { return arenas_; }

 private:
  struct Entry {
    Signature signature;
    std::shared_ptr<const Program> program;  // null: met once
  };
  static constexpr size_t kMostEntries = 64;  // they begin anew when there are so many

  static bool read(PyObject* arguments, Arguments& read);
  Entry* find(const Arguments& read);
  Entry& insert(const Arguments& read);

  std::vector<Entry> entries_;
  ArenaPool arenas_;
};

}  // namespace fastconv
