// The epilogue of every CPU convolution: z = conv + bias + residual, y = activation(z).
#pragma once

#include "cpu/vectors/activation_vectors.h"
#include "cpu/vectors/rows.h"
#include "problem/epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA {

// z[i] += bias[i * bias_step] + residual[i * residual_step], each where there is one. A row goes
// along pixels of one filter (bias_step 0) or along filters of one pixel (bias_step 1).
template <typename T>
static inline void add_terms(accumulator_t<T>* __restrict z, int64_t n, const T* bias,
                             int64_t bias_step, const T* residual, int64_t residual_step) {
  if (bias != nullptr) {
    if (bias_step == 0) {
      const accumulator_t<T> b = to_accumulator(*bias);
      for (int64_t i = 0; i < n; ++i) z[i] += b;
    } else {
      for (int64_t i = 0; i < n; ++i) z[i] += to_accumulator(bias[i]);
    }
  }
  if (residual != nullptr) {
    for (int64_t i = 0; i < n; ++i) z[i] += to_accumulator(residual[i * residual_step]);
  }
}

// Stores y = activation(z + bias + residual) for a row of n sums z as above, which are overwritten.
template <typename T>
static inline void store_epilogue(accumulator_t<T>* __restrict z, int64_t n,
                                  const Epilogue& epilogue, const T* bias, int64_t bias_step,
                                  const T* residual, int64_t residual_step, T* __restrict y,
                                  int64_t y_step) {
  add_terms<T>(z, n, bias, bias_step, residual, residual_step);
  activate_row(z, n, epilogue.activation);
  store_row(y, y_step, z, n);
}

// store_epilogue for n pixels of one filter, in vectors where pixels are adjacent.
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

// The epilogue of sums in registers, which are vectors of adjacent filters of some pixels. Pointers
// are null where there is no such term.
template <typename T>
struct FilterEpilogue {
  using A = accumulator_t<T>;
  Clamp<A> clamp;
  const T* bias = nullptr;
  const T* residual = nullptr;  // of the first pixel
  int64_t residual_step = 0;

  explicit FilterEpilogue(Activation activation) : clamp(activation) {}

  // `sums` are those of filters k, k + 1, ... of pixels `pixel`, pixel + 1, ...
  template <int kPixels, int kVectors>
  [[gnu::always_inline]] void apply(vector_t<A> (&sums)[kPixels][kVectors], int64_t pixel,
                                    int64_t k) const {
    const auto for_each = [&](const auto& body) __attribute__((always_inline)) {
#pragma GCC unroll 12
      for (int m = 0; m < kPixels; ++m) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) body(m, v, k + v * kLanes<A>);
      }
    };
    if (bias != nullptr) {
      for_each([&](int m, int v, int64_t at) { sums[m][v] += load_vector(bias + at); });
    }
    if (residual != nullptr) {
      for_each([&](int m, int v, int64_t at) {
        sums[m][v] += load_vector(residual + (pixel + m) * residual_step + at);
      });
    }
    for_each([&](int m, int v, int64_t) { sums[m][v] = clamp(sums[m][v]); });
  }
};

// store_epilogue for `count` filters of each of `pixels` pixels, which lie z_step apart in z,
// residual_pixel in the residual and y_pixel in y. Filters are adjacent in z and y, and
// residual_step apart in the residual.
template <typename T>
static inline void store_channels(accumulator_t<T>* z, int64_t z_step, int64_t pixels,
                                  int64_t count, const Epilogue& epilogue, const T* bias,
                                  const T* residual, int64_t residual_pixel, int64_t residual_step,
                                  T* y, int64_t y_pixel) {
  using A = accumulator_t<T>;
  if (!Clamp<A>::is(epilogue.activation)) {
    // One row of all sums, as an activation is slow to start.
    for (int64_t m = 0; m < pixels; ++m) {
      add_terms<T>(z + m * z_step, count, bias, 1,
                   residual == nullptr ? nullptr : residual + m * residual_pixel, residual_step);
    }
    activate_row(z, (pixels - 1) * z_step + count, epilogue.activation);
    return store_channels<T>(z, z_step, pixels, count, Epilogue{}, nullptr, nullptr, 0, 0, y,
                             y_pixel);
  }
  const bool adjacent = residual == nullptr || residual_step == 1;
  const int64_t whole = adjacent ? count / kLanes<A> * kLanes<A> : 0;
  FilterEpilogue<T> finish(epilogue.activation);
  finish.bias = bias;
  finish.residual = residual;
  finish.residual_step = residual_pixel;
  for (int64_t m = 0; m < pixels; ++m) {
    A* const from = z + m * z_step;
    T* const to = y + m * y_pixel;
    for (int64_t k = 0; k < whole; k += kLanes<A>) {
      vector_t<A> sums[1][1] = {{load_vector(from + k)}};
      finish.apply(sums, m, k);
      store_vector(to + k, sums[0][0]);
    }
    if (whole == count) continue;
    const T* const add =
        residual == nullptr ? nullptr : residual + m * residual_pixel + whole * residual_step;
    store_epilogue<T>(from + whole, count - whole, epilogue,
                      bias == nullptr ? nullptr : bias + whole, 1, add, residual_step, to + whole,
                      1);
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
