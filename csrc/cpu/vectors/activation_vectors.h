// The activations and their gradients on vectors: rows of sums are activated in place, and an
// element gets the same bits wherever in a row it lies. problem/activation.h has the definitions.
#pragma once

#include "cpu/vectors/vectors.h"
#include "problem/activation.h"

namespace fastconv::cpu::FASTCONV_ISA {

// The activations that are limits: none, relu, relu6. A NaN passes through. Cheap enough for loops
// that keep sums in registers; a call would have the compiler keep them in memory.
template <typename A>
struct Clamp {
  A low, high;

  static bool is(Activation a) {
    return a == Activation::none || a == Activation::relu || a == Activation::relu6;
  }
  explicit Clamp(Activation a = Activation::none)
      : low(a == Activation::none ? -static_cast<A>(__builtin_inf()) : A(0)),
        high(a == Activation::relu6 ? A(6) : static_cast<A>(__builtin_inf())) {}
  vector_t<A> operator()(vector_t<A> z) const {
    const vector_t<A> zero = {}, least = zero + low, most = zero + high;
    z = z < least ? least : z;
    return z > most ? most : z;
  }
};

// ---- SiLU ------------------------------------------------------------------------------------

// Of IEEE 754's formats, and what exp needs in them.
template <typename A>
struct Format;
template <>
struct Format<float> {
  using bits = uint32_t;
  static constexpr int kFractionBits = 23, kBias = 127;
  static constexpr int kExpDegree = 7;        // the remainder is below 6e-9
  static constexpr int kGreatestPower = 100;  // of two
  static constexpr float kSiluEnd = -111;     // silu is less than any subnormal below
};
template <>
struct Format<double> {
  using bits = uint64_t;
  static constexpr int kFractionBits = 52, kBias = 1023;
  static constexpr int kExpDegree = 13;  // the remainder is below 5e-18
  static constexpr int kGreatestPower = 900;
  static constexpr double kSiluEnd = -753;
};

template <typename A>
struct BitsOf {
  typedef typename Format<A>::bits type __attribute__((vector_size(kVectorBytes)));
};

// What exp(t) is to 1 + exp(t): exp / unit, where unit is 1, or the power of two that keeps exp
// finite.
template <typename A>
struct ScaledExp {
  vector_t<A> exp, unit;
};

// exp(t) = 2^k exp(r) with |r| <= ln 2 / 2, and exp(r) by its Taylor series. For t in [-64,
// -kSiluEnd].
template <typename A>
[[gnu::always_inline]] static inline ScaledExp<A> scaled_exp(vector_t<A> t) {
  using F = Format<A>;
  using bits_t = typename BitsOf<A>::type;
  constexpr A kLog2E = A(1.44269504088896340736);
  // ln 2 in two parts; k times the first, 355 / 512, is exact.
  constexpr A kLn2High = A(0.693359375), kLn2Low = A(-2.12194440054690582768e-4);
  // Added to an integer, it leaves the integer in the last bits; added to a number, it rounds it.
  constexpr A kShift = A(3) * A(typename F::bits{1} << (F::kFractionBits - 1));
  const auto power_of_two = [](vector_t<A> shifted) {
    const bits_t exponent = reinterpret_cast<bits_t>(shifted) + F::kBias;
    return reinterpret_cast<vector_t<A>>(exponent << F::kFractionBits);
  };
  const vector_t<A> zero = {}, most = zero + (kShift + F::kGreatestPower);
  const vector_t<A> shifted = t * kLog2E + kShift, k = shifted - kShift;
  const vector_t<A> r = (t - k * kLn2High) - k * kLn2Low;
  // Horner's scheme: 1 + r (1 + r / 2 (1 + r / 3 (...))), without the quotients.
  constexpr auto kCoefficients = [] {
    struct {
      A of[F::kExpDegree + 1];
    } inverse = {};
    double factorial = 1;
    for (int n = 0; n <= F::kExpDegree; factorial *= ++n) inverse.of[n] = A(1 / factorial);
    return inverse;
  }();
  vector_t<A> sum = zero + kCoefficients.of[F::kExpDegree];
#pragma GCC unroll 16
  for (int n = F::kExpDegree - 1; n >= 0; --n) sum = sum * r + kCoefficients.of[n];
  const vector_t<A> capped = shifted < most ? shifted : most;
  return {sum * power_of_two(capped), power_of_two(capped - shifted + kShift)};
}

// exp(-z) for the sigmoid 1 / (1 + exp(-z)) in A's precision, of any z.
template <typename A>
[[gnu::always_inline]] static inline ScaledExp<A> sigmoid_exp(vector_t<A> z) {
  const vector_t<A> zero = {}, least = zero + Format<A>::kSiluEnd, most = zero + A(64);
  z = z > most ? most : z;
  return scaled_exp<A>(-(z < least ? least : z));
}

// z / (1 + exp(-z)), rounded to subnormals where it is one; NaN at -inf, as in torch.
template <typename A>
[[gnu::always_inline]] static inline vector_t<A> silu(vector_t<A> z) {
  const auto [exp, unit] = sigmoid_exp<A>(z);
  const vector_t<A> end = vector_t<A>{} + Format<A>::kSiluEnd;
  return z < end ? z * A(0) : z * unit / (unit + exp);
}

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> silu_slope(vector_t<A> z) {
  const auto [exp, unit] = sigmoid_exp<A>(z);
  const vector_t<A> sigmoid = unit / (unit + exp);
  return sigmoid * (z * (A(1) - sigmoid) + A(1));
}

// ---- hardswish -------------------------------------------------------------------------------

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> hardswish(vector_t<A> z) {
  const vector_t<A> zero = {}, three = zero + A(3);
  return z >= three ? z : z * (z > -three ? z + three : zero) / A(6);
}

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> hardswish_gradient(vector_t<A> dy, vector_t<A> z) {
  const vector_t<A> zero = {}, three = zero + A(3);
  return z <= -three ? zero : (z < three ? dy * (z * (A(1) / A(3)) + A(0.5)) : dy);
}

// ---- rows ------------------------------------------------------------------------------------

// out[i] = f(out[i], in[i]...) for i < n. The last vector ends with the row.
template <typename A, typename F, typename... In>
static inline void map_row(A* out, int64_t n, const F& f, const In*... in) {
  if (n < kLanes<A>) {
    return store_lanes<A>(out, f(load_lanes(out, n), load_lanes(in, n)...), n);
  }
  const int64_t end = n - kLanes<A>;
  const vector_t<A> last = f(load_vector(out + end), load_vector(in + end)...);
  for (int64_t i = 0; i < end; i += kLanes<A>) {
    store_vector(out + i, f(load_vector(out + i), load_vector(in + i)...));
  }
  store_vector(out + end, last);
}

// z[i] = activate(z[i]) for i < n. Flattened: no copy of activate() is left outside of this
// namespace.
template <typename A>
[[gnu::flatten, gnu::noinline]] static void activate_row(A* z, int64_t n, Activation activation) {
  using V = vector_t<A>;
  switch (activation) {
    case Activation::none:
      return;
    case Activation::relu:
    case Activation::relu6:
      return map_row(z, n, Clamp<A>(activation));
    case Activation::silu:
      return map_row(z, n, [](V v) { return silu<A>(v); });
    case Activation::hardswish:
      return map_row(z, n, [](V v) { return hardswish<A>(v); });
    case Activation::gelu:
      for (int64_t i = 0; i < n; ++i) z[i] = activate(z[i], Activation::gelu);
  }
}

// dy[i] = activation_gradient(dy[i], z[i]) for i < n.
template <typename A>
[[gnu::flatten, gnu::noinline]] static void activation_gradient_row(A* __restrict dy,
                                                                    const A* __restrict z,
                                                                    int64_t n,
                                                                    Activation activation) {
  using V = vector_t<A>;
  const V zero = {}, six = zero + A(6);
  const auto gradients = [&](const auto& gradient) { map_row(dy, n, gradient, z); };
  switch (activation) {
    case Activation::none:
      return;
    case Activation::relu:
      return gradients([&](V dy, V at) { return at <= zero ? zero : dy; });
    case Activation::relu6:
      return gradients([&](V dy, V at) { return (at <= zero) | (at >= six) ? zero : dy; });
    case Activation::silu:
      return gradients([](V dy, V at) { return dy * silu_slope<A>(at); });
    case Activation::hardswish:
      return gradients([](V dy, V at) { return hardswish_gradient<A>(dy, at); });
    case Activation::gelu:
      for (int64_t i = 0; i < n; ++i) {
        dy[i] = activation_gradient(dy[i], z[i], Activation::gelu);
      }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
