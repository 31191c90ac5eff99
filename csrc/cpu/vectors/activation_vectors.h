// The activations and their gradients on vectors: rows of sums are activated in place, and an
// element gets the same bits wherever in a row it lies.
#pragma once

#include "cpu/vectors/exp_vectors.h"
#include "cpu/vectors/normal_vectors.h"
#include "problem/epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA {

// The activations that are limits: none, relu, relu6. A NaN passes through. Cheap enough for loops
// that keep sums in registers; a call would have the compiler keep them in memory.
template <typename A>
struct Clamp {
  A low, high;

  static bool is(Activation a) {
    return a.kind == ActivationKind::none || a.kind == ActivationKind::relu ||
           a.kind == ActivationKind::relu6;
  }
  explicit Clamp(Activation a = {})
      : low(a.kind == ActivationKind::none ? -static_cast<A>(__builtin_inf()) : A(0)),
        high(a.kind == ActivationKind::relu6 ? A(6) : static_cast<A>(__builtin_inf())) {}
  vector_t<A> operator()(vector_t<A> z) const {
    const vector_t<A> zero = {}, least = zero + low, most = zero + high;
    z = z < least ? least : z;
    return z > most ? most : z;
  }
};

// ---- smooth ----------------------------------------------------------------------------------

// 1 / (1 + exp(-z)), rounded to subnormals where it is one.
template <typename A>
[[gnu::always_inline]] static inline vector_t<A> sigmoid(vector_t<A> z) {
  const auto [exp, unit] = exp_of_minus<A>(z);
  return unit / (unit + exp);
}

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> sigmoid_slope(vector_t<A> z) {
  const vector_t<A> s = sigmoid<A>(z);
  return s * (A(1) - s);
}

// z / (1 + exp(-z)), rounded to subnormals where it is one; NaN at -inf, as in torch.
template <typename A>
[[gnu::always_inline]] static inline vector_t<A> silu(vector_t<A> z) {
  const auto [exp, unit] = exp_of_minus<A>(z);
  const vector_t<A> end = vector_t<A>{} + Format<A>::kExpEnd;
  return z < end ? z * A(0) : z * unit / (unit + exp);
}

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> silu_slope(vector_t<A> z) {
  const vector_t<A> s = sigmoid<A>(z);
  return s * (z * (A(1) - s) + A(1));
}

// z Phi(z) with the normal distribution's Phi: at a > 0 that is a more than at -a. NaN at -inf, as
// in torch.
template <typename A>
[[gnu::always_inline]] static inline vector_t<A> gelu(vector_t<A> z) {
  const NormalTail<A> tail(z);
  return (z < vector_t<A>{} ? z * A(0) : z) - tail.a * tail.distribution / tail.denominator;
}

// Phi(z) + z phi(z) with the density phi: at z it is 1 less that at -z. NaN at both infinities, as
// in torch.
template <typename A>
[[gnu::always_inline]] static inline vector_t<A> gelu_slope(vector_t<A> z) {
  const NormalTail<A> tail(z);
  const vector_t<A> zero = {};
  const vector_t<A> fall = (tail.a * tail.density - tail.distribution) / tail.denominator;
  return (z < zero ? zero - fall : A(1) + fall) + z * A(0);
}

// tanh(log(1 + exp(z))) = n / (n + 2 exp(-z)) with n = 2 + exp(z): numerator and denominator, both
// times the unit of exp(-z).
template <typename A>
struct TanhOfSoftplus {
  vector_t<A> numerator, denominator;

  [[gnu::always_inline]] explicit TanhOfSoftplus(ScaledExp<A> of_minus) {
    const auto [exp, unit] = of_minus;
    numerator = unit * (unit / exp + A(2));
    denominator = numerator + A(2) * exp;
  }
};

// z tanh(log(1 + exp(z))), rounded to subnormals where it is one; NaN at -inf, as in torch. From
// z = 20 on the tangent is 1 in both types, and z times the numerator might overflow.
template <typename A>
[[gnu::always_inline]] static inline vector_t<A> mish(vector_t<A> z) {
  const TanhOfSoftplus<A> tanh(exp_of_minus<A>(z));
  const vector_t<A> end = vector_t<A>{} + Format<A>::kExpEnd, most = vector_t<A>{} + A(20);
  const vector_t<A> y = z * tanh.numerator / tanh.denominator;
  return z < end ? z * A(0) : (z > most ? z : y);
}

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> mish_slope(vector_t<A> z) {
  const ScaledExp<A> of_minus = exp_of_minus<A>(z);
  const TanhOfSoftplus<A> tanh(of_minus);
  const vector_t<A> t = tanh.numerator / tanh.denominator;
  const vector_t<A> s = of_minus.unit / (of_minus.unit + of_minus.exp);
  return t + z * s * (A(1) - t * t);
}

// (exp(2 z) - 1) / (exp(2 z) + 1). From z = 20 on it is 1 in both types.
template <typename A>
[[gnu::always_inline]] static inline vector_t<A> tanh(vector_t<A> z) {
  const vector_t<A> most = vector_t<A>{} + A(20);
  const vector_t<A> e = exp_minus_1<A>(A(2) * (z > most ? most : z));
  return z == vector_t<A>{} ? z : e / (e + A(2));
}

// 4 e / (1 + e)^2 with e = exp(-2 |z|): 1 - tanh(z)^2 without the difference.
template <typename A>
[[gnu::always_inline]] static inline vector_t<A> tanh_slope(vector_t<A> z) {
  const vector_t<A> zero = {}, twice = A(2) * (z < zero ? -z : z);
  const vector_t<A> e = exp_of_minus<A>(twice).exp;
  return twice > A(64) + zero ? zero : A(4) * e / ((A(1) + e) * (A(1) + e));
}

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> elu(vector_t<A> z, A alpha) {
  const vector_t<A> zero = {};
  return z < zero ? alpha * exp_minus_1<A>(z < zero ? z : zero) : z;
}

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> elu_gradient(vector_t<A> dy, vector_t<A> z,
                                                              A alpha) {
  const auto [exp, unit] = exp_of_minus<A>(z);
  return z <= vector_t<A>{} ? dy * (alpha * (unit / exp)) : dy;
}

// ---- piecewise -------------------------------------------------------------------------------

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

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> hardsigmoid(vector_t<A> z) {
  const vector_t<A> zero = {}, one = zero + A(1), three = zero + A(3);
  return z <= -three ? zero : (z >= three ? one : (z + three) / A(6));
}

template <typename A>
[[gnu::always_inline]] static inline vector_t<A> hardsigmoid_gradient(vector_t<A> dy,
                                                                      vector_t<A> z) {
  const vector_t<A> zero = {}, three = zero + A(3);
  return (z > -three) & (z < three) ? dy / A(6) : zero;
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

// z[i] = activation(z[i]) for i < n. Flattened: each activation is inlined in its loop.
template <typename A>
[[gnu::flatten, gnu::noinline]] static void activate_row(A* z, int64_t n, Activation activation) {
  using V = vector_t<A>;
  const A parameter = static_cast<A>(activation.parameter);
  switch (activation.kind) {
    case ActivationKind::none:
      return;
    case ActivationKind::relu:
    case ActivationKind::relu6:
      return map_row(z, n, Clamp<A>(activation));
    case ActivationKind::silu:
      return map_row(z, n, [](V v) { return silu<A>(v); });
    case ActivationKind::hardswish:
      return map_row(z, n, [](V v) { return hardswish<A>(v); });
    case ActivationKind::leaky_relu:
      return map_row(z, n, [=](V v) { return v > V{} ? v : v * parameter; });
    case ActivationKind::elu:
      return map_row(z, n, [=](V v) { return elu<A>(v, parameter); });
    case ActivationKind::mish:
      return map_row(z, n, [](V v) { return mish<A>(v); });
    case ActivationKind::sigmoid:
      return map_row(z, n, [](V v) { return sigmoid<A>(v); });
    case ActivationKind::tanh:
      return map_row(z, n, [](V v) { return tanh<A>(v); });
    case ActivationKind::hardsigmoid:
      return map_row(z, n, [](V v) { return hardsigmoid<A>(v); });
    case ActivationKind::gelu:
      return map_row(z, n, [](V v) { return gelu<A>(v); });
  }
}

// dy[i] *= activation'(z[i]) for i < n; flat pieces give 0 whatever dy is, and a NaN counts as a
// piece of the slope that it has in torch.
template <typename A>
[[gnu::flatten, gnu::noinline]] static void activation_gradient_row(A* __restrict dy,
                                                                    const A* __restrict z,
                                                                    int64_t n,
                                                                    Activation activation) {
  using V = vector_t<A>;
  const V zero = {}, six = zero + A(6);
  const auto gradients = [&](const auto& gradient) { map_row(dy, n, gradient, z); };
  const A parameter = static_cast<A>(activation.parameter);
  switch (activation.kind) {
    case ActivationKind::none:
      return;
    case ActivationKind::relu:
      return gradients([&](V dy, V at) { return at <= zero ? zero : dy; });
    case ActivationKind::relu6:
      return gradients([&](V dy, V at) { return (at <= zero) | (at >= six) ? zero : dy; });
    case ActivationKind::silu:
      return gradients([](V dy, V at) { return dy * silu_slope<A>(at); });
    case ActivationKind::hardswish:
      return gradients([](V dy, V at) { return hardswish_gradient<A>(dy, at); });
    case ActivationKind::leaky_relu:
      return gradients([=](V dy, V at) { return at > zero ? dy : dy * parameter; });
    case ActivationKind::elu:
      return gradients([=](V dy, V at) { return elu_gradient<A>(dy, at, parameter); });
    case ActivationKind::mish:
      return gradients([](V dy, V at) { return dy * mish_slope<A>(at); });
    case ActivationKind::sigmoid:
      return gradients([](V dy, V at) { return dy * sigmoid_slope<A>(at); });
    case ActivationKind::tanh:
      return gradients([](V dy, V at) { return dy * tanh_slope<A>(at); });
    case ActivationKind::hardsigmoid:
      return gradients([](V dy, V at) { return hardsigmoid_gradient<A>(dy, at); });
    case ActivationKind::gelu:
      return gradients([](V dy, V at) { return dy * gelu_slope<A>(at); });
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
