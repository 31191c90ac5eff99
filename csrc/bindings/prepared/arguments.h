// The arguments of a call, and the signature by which a like call is found again: sizes, strides
// and dtypes of tensors, the values of all else, the device, and whether somebody differentiates.
#pragma once

#include <array>
#include <cstring>
#include <vector>

#include "bindings/prepared/torch_python.h"

namespace fastconv {

class Arguments {
 public:
  static constexpr int kMostOperands = 8;

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
  enum class Kind : int64_t { none, boolean, integer, string, sequence, tensor };
  static constexpr int kMostStrings = 4;
  static constexpr int kMostWords = 128;
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

// What Arguments have to equal.
class Signature {
 public:
  Signature() = default;
  explicit Signature(const Arguments& arguments)
      : words_(arguments.words(), arguments.words() + arguments.word_count()) {
    for (int i = 0; i < arguments.string_count(); ++i) {
      strings_.push_back(Reference::to(arguments.strings()[i]));
    }
  }

  bool is(const Arguments& arguments) const {
    if (words_.size() != static_cast<size_t>(arguments.word_count()) ||
        std::memcmp(words_.data(), arguments.words(), words_.size() * sizeof(int64_t)) != 0) {
      return false;
    }
    for (size_t i = 0; i < strings_.size(); ++i) {
      PyObject *const known = strings_[i].get(), *const given = arguments.strings()[i];
      if (known != given && PyUnicode_Compare(known, given) != 0) return false;
    }
    return true;
  }

 private:
  std::vector<int64_t> words_;
  std::vector<Reference> strings_;
};

}  // namespace fastconv
