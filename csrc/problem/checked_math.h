// 64-bit sizes whose sums and products are checked: an overflow is an error, never a wrapped size.
// `what` names the quantity in the error's message.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace fastconv {

inline int64_t checked_mul(int64_t a, int64_t b, const char* what) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result)) {
    throw std::runtime_error(std::string(what) + ": the product " + std::to_string(a) + " * " +
                             std::to_string(b) + " does not fit into 64 bits");
  }
  return result;
}

inline int64_t checked_add(int64_t a, int64_t b, const char* what) {
  int64_t result;
  if (__builtin_add_overflow(a, b, &result)) {
    throw std::runtime_error(std::string(what) + ": the sum " + std::to_string(a) + " + " +
                             std::to_string(b) + " does not fit into 64 bits");
  }
  return result;
}

template <typename... Rest>
int64_t checked_product(const char* what, int64_t first, Rest... rest) {
  ((first = checked_mul(first, rest, what)), ...);
  return first;
}

}  // namespace fastconv
