// exp and exp - 1 on vectors, in the precision of their type: what the smooth activations are made
// of.
#pragma once

#include "cpu/vectors/vectors.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Of IEEE 754's formats, and what exp needs in them.
template <typename A>
struct Format;
template <>
struct Format<float> {
  using bits = uint32_t;
  static constexpr int kFractionBits = 23, kBias = 127;
  static constexpr int kExpDegree = 7;        // the remainder is below 6e-9
  static constexpr int kGreatestPower = 100;  // of two
  static constexpr float kExpEnd = -111;      // z exp(z) is less than any subnormal below
};
template <>
struct Format<double> {
  using bits = uint64_t;
  static constexpr int kFractionBits = 52, kBias = 1023;
  static constexpr int kExpDegree = 13;  // the remainder is below 5e-18
  static constexpr int kGreatestPower = 900;
  static constexpr double kExpEnd = -753;
};

template <typename A>
struct BitsOf {
  typedef typename Format<A>::bits type __attribute__((vector_size(kVectorBytes)));
};

// The sum of coefficients[n] x^n, by Horner's scheme.
template <typename A, int kTerms>
[[gnu::always_inline]] static inline vector_t<A> polynomial(const A (&coefficients)[kTerms],
                                                            vector_t<A> x) {
  vector_t<A> sum = vector_t<A>{} + coefficients[kTerms - 1];
#pragma GCC unroll 16
  for (int n = kTerms - 2; n >= 0; --n) sum = sum * x + coefficients[n];
  return sum;
}

// t = k ln 2 + r with an integer k and |r| <= ln 2 / 2. `shifted` is k + kShift: added to an
// integer, kShift leaves the integer in the last bits; added to a number, it rounds it.
template <typename A>
struct Reduced {
  static constexpr A kShift =
      A(3) * A(typename Format<A>::bits{1} << (Format<A>::kFractionBits - 1));
  vector_t<A> shifted, r;

  [[gnu::always_inline]] explicit Reduced(vector_t<A> t) {
    constexpr A kLog2E = A(1.44269504088896340736);
    // ln 2 in two parts; k times the first, 355 / 512, is exact.
    constexpr A kLn2High = A(0.693359375), kLn2Low = A(-2.12194440054690582768e-4);
    shifted = t * kLog2E + kShift;
    const vector_t<A> k = shifted - kShift;
    r = (t - k * kLn2High) - k * kLn2Low;
  }

  // 2^k of k + kShift.
  [[gnu::always_inline]] static vector_t<A> power_of_two(vector_t<A> shifted) {
    using F = Format<A>;
    using bits_t = typename BitsOf<A>::type;
    const bits_t exponent = reinterpret_cast<bits_t>(shifted) + F::kBias;
    return reinterpret_cast<vector_t<A>>(exponent << F::kFractionBits);
  }

  // The sum of r^(n - kFirst) / n! from n = kFirst to kLast: exp(r), or exp(r) / r without its
  // first terms.
  template <int kFirst, int kLast>
  [[gnu::always_inline]] vector_t<A> taylor_series() const {
    constexpr auto kInverse = [] {
      struct {
        A factorial[kLast - kFirst + 1];
      } inverse = {};
      double factorial = 1;
      for (int n = 0; n <= kLast; factorial *= ++n) {
        if (n >= kFirst) inverse.factorial[n - kFirst] = A(1 / factorial);
      }
      return inverse;
    }();
    return polynomial<A>(kInverse.factorial, r);
  }
};

// What exp(t) is to 1 + exp(t): exp / unit, where unit is 1, or the power of two that keeps exp
// finite.
template <typename A>
struct ScaledExp {
  vector_t<A> exp, unit;
};

// exp(t) = 2^k exp(r), for t in [-64, -kExpEnd].
template <typename A>
[[gnu::always_inline]] static inline ScaledExp<A> scaled_exp(vector_t<A> t) {
  using F = Format<A>;
  const Reduced<A> reduced(t);
  const vector_t<A> shifted = reduced.shifted;
  const vector_t<A> most = vector_t<A>{} + (Reduced<A>::kShift + F::kGreatestPower);
  const vector_t<A> capped = shifted < most ? shifted : most;
  return {reduced.template taylor_series<0, F::kExpDegree>() * reduced.power_of_two(capped),
          reduced.power_of_two(capped - shifted + Reduced<A>::kShift)};
}

// exp(-z) of any z, as far as sums with 1 show it: that of z > 64 is exp(-64).
template <typename A>
[[gnu::always_inline]] static inline ScaledExp<A> exp_of_minus(vector_t<A> z) {
  const vector_t<A> zero = {}, least = zero + Format<A>::kExpEnd, most = zero + A(64);
  z = z > most ? most : z;
  return scaled_exp<A>(-(z < least ? least : z));
}

// exp(t) - 1 for t <= 40; -1 below -64, where it differs from -1 by less than a rounding.
template <typename A>
[[gnu::always_inline]] static inline vector_t<A> exp_minus_1(vector_t<A> t) {
  const vector_t<A> least = vector_t<A>{} - A(64);
  const Reduced<A> reduced(t < least ? least : t);
  const vector_t<A> scale = reduced.power_of_two(reduced.shifted);
  const vector_t<A> rest =
      reduced.r * reduced.template taylor_series<1, Format<A>::kExpDegree + 1>();
  return scale * rest + (scale - A(1));
}

}  // namespace fastconv::cpu::FASTCONV_ISA
