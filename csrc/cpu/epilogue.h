// The epilogue of every CPU convolution: z = conv + bias + residual, y = activation(z).
#pragma once

#include "cpu/vectors.h"
#include "problem/epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Stores n results z[0..n) of one sample to y, going along pixels of one filter (bias_step 0) or
// along filters of one pixel (bias_step 1). Positions are given by the tensors' own strides.
template <typename T>
static inline void store_epilogue(accumulator_t<T>* __restrict z, int64_t n,
                                  const Epilogue& epilogue, const T* bias, int64_t bias_step,
                                  const T* residual, int64_t residual_step, T* __restrict y,
                                  int64_t y_step) {
  using A = accumulator_t<T>;
  if (bias != nullptr) {
    if (bias_step == 0) {
      const A b = to_accumulator(*bias);
      for (int64_t i = 0; i < n; ++i) z[i] += b;
    } else {
      for (int64_t i = 0; i < n; ++i) z[i] += to_accumulator(bias[i]);
    }
  }
  if (residual != nullptr) {
    for (int64_t i = 0; i < n; ++i) z[i] += to_accumulator(residual[i * residual_step]);
  }
  // The switch stands outside the loop so that the cheap activations vectorise.
  switch (epilogue.activation) {
    case Activation::none:
      break;
    case Activation::relu:
      for (int64_t i = 0; i < n; ++i) z[i] = activate(z[i], Activation::relu);
      break;
    case Activation::relu6:
      for (int64_t i = 0; i < n; ++i) z[i] = activate(z[i], Activation::relu6);
      break;
    default:
      for (int64_t i = 0; i < n; ++i) z[i] = activate(z[i], epilogue.activation);
  }
  if (y_step == 1) {
    for (int64_t i = 0; i < n; ++i) y[i] = from_accumulator<T>(z[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i * y_step] = from_accumulator<T>(z[i]);
  }
}

// The same for n pixels of one filter: vectors where pixels are adjacent. z is left as it is.
template <typename T>
static inline void store_pixels(accumulator_t<T>* z, int64_t n, const Epilogue& epilogue,
                                const T* bias, const T* residual, int64_t residual_step, T* y,
                                int64_t y_step) {
  using A = accumulator_t<T>;
  constexpr bool kHasShort = std::is_same_v<T, A>;  // rows shorter than a vector can be stored
  const bool adjacent = y_step == 1 && (residual == nullptr || residual_step == 1);
  const bool is_short = n < kLanes<A>;
  if (!adjacent || !Clamp<A>::is(epilogue.activation) ||
      (is_short && (!kHasShort || residual != nullptr))) {
    return store_epilogue<T>(z, n, epilogue, bias, 0, residual, residual_step, y, y_step);
  }
  const Clamp<A> clamp(epilogue.activation);
  const auto sums = [&](int64_t i) {
    vector_t<A> sum = load_vector(z + i);
    if (bias != nullptr) sum += to_accumulator(*bias);
    if (residual != nullptr) sum += load_vector(residual + i);
    return clamp(sum);
  };
  if constexpr (kHasShort) {
    if (is_short) return store_lanes<A>(y, sums(0), n);
  }
  // The last vector ends with the row and stores some pixels twice.
  for (int64_t i = 0; i < n; i += kLanes<A>) {
    const int64_t at = min64(i, n - kLanes<A>);
    store_vector(y + at, sums(at));
  }
}

// The same for `count` adjacent filters of one pixel: z and y unit steps, vectors where all are
// whole.
template <typename T>
static inline void store_channels(const accumulator_t<T>* z, int64_t count,
                                  const Epilogue& epilogue, const T* bias, const T* residual,
                                  int64_t residual_step, T* y) {
  using A = accumulator_t<T>;
  int64_t k = 0;
  if (residual == nullptr || residual_step == 1) {
    for (; k + kLanes<A> <= count; k += kLanes<A>) {
      vector_t<A> sums = load_vector(z + k);
      if (bias != nullptr) sums += load_vector(bias + k);
      if (residual != nullptr) sums += load_vector(residual + k);
      store_vector(y + k, activate_vector<A>(sums, epilogue.activation));
    }
  }
  for (; k < count; ++k) {
    A sum = z[k];
    store_epilogue<T>(&sum, 1, epilogue, bias == nullptr ? nullptr : bias + k, 0,
                      residual == nullptr ? nullptr : residual + k * residual_step, 0, y + k, 1);
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
