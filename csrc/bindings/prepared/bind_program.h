// Programs in Python: fastconv/fusion/program.py builds them step by step.
#pragma once

#include <memory>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/prepared/program.h"

namespace fastconv {
namespace {

using PlaceTuple = std::pair<int, int64_t>;

inline Reference reference_to(const py::handle& object) { return Reference::to(object.ptr()); }

inline std::vector<Program::Place> places(const std::vector<PlaceTuple>& tuples) {
  std::vector<Program::Place> result;
  for (const auto& [tensor, offset] : tuples) result.push_back({tensor, offset});
  return result;
}

inline void bind_steps(py::class_<Program, std::shared_ptr<Program>>& program) {
  using namespace py::literals;
  program
      .def(
          "add_step", [](Program& self) { self.steps.emplace_back(); },
          "Begins a step; what follows is added to it.")
      .def(
          "allocate",
          [](Program& self, int tensor, const std::shared_ptr<TensorLike>& like) {
            self.steps.back().allocations.push_back({tensor, like});
          },
          "tensor"_a, "like"_a)
      .def(
          "add_call",
          [](Program& self, const py::object& call, const std::vector<PlaceTuple>& operands,
             const std::vector<PlaceTuple>& results) {
            if (operands.size() > Arguments::kMostOperands ||
                results.size() > Arguments::kMostOperands) {
              throw std::invalid_argument("a prepared call has not so many tensors");
            }
            self.steps.back().calls.push_back({reference_to(call), call.cast<const PreparedCall*>(),
                                               places(operands), places(results)});
          },
          "call"_a, "operands"_a, "results"_a)
      .def(
          "set_function",
          [](Program& self, const py::object& function, std::vector<int> inputs, int output,
             const std::shared_ptr<TensorLike>& expected) {
            Program::Step& step = self.steps.back();
            step.function = reference_to(function);
            step.inputs = std::move(inputs);
            step.output = output;
            step.expected = expected;
          },
          "function"_a, "inputs"_a, "output"_a, "expected"_a)
      .def(
          "release",
          [](Program& self, int tensor) { self.steps.back().released.push_back(tensor); },
          "tensor"_a);
}

}  // namespace

inline void bind_program(py::module_& m) {
  using namespace py::literals;
  py::class_<TensorLike, std::shared_ptr<TensorLike>>(m, "TensorLike",
                                                      "What a tensor is like, without its memory.")
      .def(py::init([](const py::object& tensor) {
             auto like = std::make_shared<TensorLike>();
             if (like->be_like(tensor.ptr())) return like;
             if (PyErr_Occurred() != nullptr) throw py::error_already_set();
             throw std::invalid_argument("expected a strided tensor in the CPU's memory");
           }),
           "tensor"_a)
      .def_property_readonly("extent", &TensorLike::extent);
  py::class_<Program, std::shared_ptr<Program>> program(
      m, "Program", "A network's calls for inputs of one signature, with a plan of their memory.");
  program.def(py::init<>())
      .def_readwrite("arena_bytes", &Program::arena_bytes)
      .def_readwrite("tensor_count", &Program::tensor_count)
      .def_property_readonly("step_count", [](const Program& self) { return self.steps.size(); })
      .def(
          "guard",
          [](Program& self, const py::dict& dictionary, const py::dict& items) {
            Program::Guard guard{reference_to(dictionary), PyDict_Size(dictionary.ptr()), {}};
            for (const auto& [name, value] : items) {
              guard.items.emplace_back(reference_to(name), reference_to(value));
            }
            self.guards.push_back(std::move(guard));
          },
          "dictionary"_a, "items"_a,
          "The program is for a dictionary of as many entries, with these among them.")
      .def(
          "guard_class",
          [](Program& self, const py::object& object) {
            self.class_guards.push_back({reference_to(object), Py_TYPE(object.ptr())});
          },
          "object"_a, "The program is for an object of this class.")
      .def(
          "add_argument",
          [](Program& self, const std::shared_ptr<TensorLike>& like) {
            self.arguments.push_back(like);
          },
          "like"_a)
      .def(
          "add_parameter",
          [](Program& self, const py::dict& dictionary, const py::str& name,
             const std::shared_ptr<TensorLike>& like) {
            self.parameters.push_back({reference_to(dictionary), reference_to(name), like});
          },
          "dictionary"_a, "name"_a, "like"_a)
      .def(
          "set_result",
          [](Program& self, std::vector<int> tensors, const py::object& arrange) {
            self.returned = std::move(tensors);
            if (!arrange.is_none()) self.arrange = reference_to(arrange);
          },
          "tensors"_a, "arrange"_a);
  bind_steps(program);
  py::class_<Programs>(m, "Programs", "The programs of one network, by signature.")
      .def(py::init<>())
      .def(
          "run",
          [](Programs& self, const py::tuple& arguments) {
            PyObject* const result = self.run(arguments.ptr());
            if (result == nullptr) throw py::error_already_set();
            return py::reinterpret_steal<py::object>(result);
          },
          "arguments"_a)
      .def(
          "is_met",
          [](Programs& self, const py::tuple& arguments) { return self.is_met(arguments.ptr()); },
          "arguments"_a)
      .def(
          "meet", [](Programs& self, const py::tuple& arguments) { self.meet(arguments.ptr()); },
          "arguments"_a)
      .def(
          "add",
          [](Programs& self, const py::tuple& arguments, const std::shared_ptr<Program>& program) {
            self.add(arguments.ptr(), program);
          },
          "arguments"_a, "program"_a)
      .def("clear", &Programs::clear)
      .def_property_readonly("free_bytes",
                             [](const Programs& self) { return self.arenas().free_bytes(); });
  m.def("empty_arenas", &ArenaPool::empty_all);
}

}  // namespace fastconv
