// The lower tail of the standard normal distribution on vectors: what gelu and its slope are made
// of.
#pragma once

#include "cpu/vectors/exp_vectors.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Phi(-a) exp(a * a / 2) for a in [0, kEnd], where Phi is the distribution function: the quotient
// of two polynomials with the least relative error, fitted by Remez's algorithm in 60 digits. Its
// value at 0, 1 / 2, is exact. All coefficients are positive, so no sum cancels.
template <typename A>
struct NormalTailFit;
template <>
struct NormalTailFit<float> {
  static constexpr float kEnd = 14.8f;  // z exp(-z * z / 2) is less than any subnormal beyond
  // The relative error is below 7e-9, before the coefficients are rounded.
  static constexpr float kNumerator[] = {0.5f, 0.43819365f, 0.1831334f, 0.040591143f, 0.004107733f};
  static constexpr float kDenominator[] = {1.0f,      1.6742722f,  1.2021387f,
                                           0.469195f, 0.10175328f, 0.010296442f};
};
template <>
struct NormalTailFit<double> {
  static constexpr double kEnd = 38.8;
  // The relative error is below 6e-17, likewise.
  static constexpr double kNumerator[] = {0.5,
                                          0.7744922923047205,
                                          0.5934867256793944,
                                          0.2889286197072956,
                                          0.09751598804077788,
                                          0.023565729176946243,
                                          0.004077108371349492,
                                          0.0004886245689752926,
                                          3.708821865607539e-5,
                                          1.3781227363439442e-6};
  static constexpr double kDenominator[] = {1.0,
                                            2.3468691454123,
                                            2.559504108708133,
                                            1.7125729986223448,
                                            0.7808923623826161,
                                            0.2544701832999288,
                                            0.06028841477852777,
                                            0.010312761488458465,
                                            0.0012282546018940734,
                                            9.296637753681929e-5,
                                            3.454441416842217e-6};
};

// The distribution function and the density at -a, each times `denominator`, where a = |z| or, if
// that is less, kEnd. So what is made of both takes one division, and rounds once to subnormals.
template <typename A>
struct NormalTail {
  vector_t<A> a, distribution, density, denominator;

  [[gnu::always_inline]] explicit NormalTail(vector_t<A> z) {
    using Fit = NormalTailFit<A>;
    constexpr A kDensityAt0 = A(0.39894228040143267794);  // 1 / sqrt(2 pi)
    const vector_t<A> end = vector_t<A>{} + Fit::kEnd;
    a = z > vector_t<A>{} ? z : -z;
    a = a > end ? end : a;
    const auto [exp, unit] = exp_of_minus<A>(A(-0.5) * a * a);
    const vector_t<A> q = polynomial<A>(Fit::kDenominator, a);
    distribution = polynomial<A>(Fit::kNumerator, a) * unit;
    density = kDensityAt0 * q * unit;
    denominator = q * exp;
  }
};

}  // namespace fastconv::cpu::FASTCONV_ISA
