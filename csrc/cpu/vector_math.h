// exp and the activation functions on vectors, with their derivatives.

#pragma once

#include "vectors.h"

namespace neuropatch::cpu {

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

namespace {

// The smaller one where x is a number, else x.
template <typename Floats>
NP_INLINE Floats at_most(Floats x, float bound) {
  const Floats bounds = Floats{} + bound;
  return x > bound ? bounds : x;
}

template <typename Floats>
NP_INLINE Floats at_least(Floats x, float bound) {
  const Floats bounds = Floats{} + bound;
  return x < bound ? bounds : x;
}

template <typename Vector>
NP_INLINE typename Vector::Floats magnitude(typename Vector::Floats x) {
  return (typename Vector::Floats)((typename Vector::Bits)x & 0x7fffffff);
}

// exp(x + low) for x <= 0, where |low| is far below 1 and carries what does not fit x. Within 1.1
// units in the last place for normal results; subnormal ones, 0 and NaN come out as such.
template <typename Vector>
NP_INLINE typename Vector::Floats exponential(
    typename Vector::Floats x, typename Vector::Floats low) {
  using Floats = typename Vector::Floats;
  using Bits = typename Vector::Bits;
  x = at_least(x, -104.0f);  // the result rounds to 0 from there on

  // x = n ln 2 + r. Adding 1.5 * 2^23 leaves n in the last bits. ln 2 has two parts, the first of
  // nine bits, so that n times it is exact.
  constexpr float kShift = 0x1.8p23f;
  const Floats shifted = x * 1.44269504f + kShift;
  const Bits n = (Bits)shifted - 0x4b400000;
  const Floats whole = shifted - kShift;
  const Floats r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f + low;

  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r) + 1.0f;

  // 2^n in two factors, since n reaches below the exponents of normal numbers.
  const Bits half = n >> 1;
  return p * (Floats)((half + 127) << 23) * (Floats)((n - half + 127) << 23);
}

// act(z) and its derivative.
template <typename Vector>
struct Activated {
  typename Vector::Floats value;
  typename Vector::Floats slope;
};

// z s(k), s the logistic function and k(z) its argument with derivative dk. The exponential is of a
// negative number, so nothing overflows, and s and 1 - s keep their relative accuracy at both ends.
template <typename Vector>
NP_INLINE Activated<Vector> logistic_gate(
    typename Vector::Floats z, typename Vector::Floats k, typename Vector::Floats dk,
    typename Vector::Floats z_of_slope) {
  using Floats = typename Vector::Floats;
  const Floats zero = {};
  const Floats e = exponential<Vector>(-magnitude<Vector>(k), zero);
  const Floats large = 1.0f / (1.0f + e);
  const Floats small = e * large;
  const Floats s = k < zero ? small : large;
  const Floats rest = k < zero ? large : small;
  return {z * s, s + s * rest * (z_of_slope * dk)};
}

// z P(z), P the distribution function of the normal distribution. Its tail P(-a) is
// exp(-a^2/2) t R(t) with t = 1 / (1 + 0.32 a), R a polynomial fitted for relative error (3.2e-8
// for every a >= 0).
template <typename Vector>
NP_INLINE Activated<Vector> normal_gate(typename Vector::Floats z) {
  using Floats = typename Vector::Floats;
  using Bits = typename Vector::Bits;
  const Floats zero = {};
  // The tail is 0 in float from here on. An infinite z must not meet itself in a difference below.
  const Floats a = at_most(magnitude<Vector>(z), 20.0f);
  // a^2 in two parts: the first is exact, since it squares twelve bits.
  const Floats high = (Floats)((Bits)a & 0x7ffff000);
  const Floats low = (a - high) * (a + high);
  const Floats bell = exponential<Vector>(high * high * -0.5f, low * -0.5f);
  const Floats t = 1.0f / (1.0f + a * 0.32f);
  Floats p = t * -0.021078206598758698f + 0.09540742635726929f;
  p = p * t + -0.14670777320861816f;
  p = p * t + 0.06532832235097885f;
  p = p * t + -0.009377741254866123f;
  p = p * t + 0.058654021471738815f;
  p = p * t + 0.08782909065485f;
  p = p * t + 0.11462236195802689f;
  p = p * t + 0.12766094505786896f;
  p = p * t + 0.12766152620315552f;
  const Floats tail = bell * (p * t);
  const Floats below = z < zero ? tail : 1.0f - tail;
  const Floats bounded = z < zero ? -a : a;
  return {z * below, below + bounded * (bell * 0.398942280f)};
}

template <typename Vector, Activation kActivation>
NP_INLINE Activated<Vector> activate(typename Vector::Floats z) {
  using Floats = typename Vector::Floats;
  const Floats zero = {};
  if constexpr (kActivation == Activation::kSilu) {
    return logistic_gate<Vector>(z, z, zero + 1.0f, z);
  } else if constexpr (kActivation == Activation::kGelu) {
    return normal_gate<Vector>(z);
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    // (1 + tanh(u)) / 2 is the logistic function of 2u. From |z| = 20 on it is 0 or 1 in float,
    // and the powers of a larger z would overflow.
    const Floats c = at_least(at_most(z, 20.0f), -20.0f);
    constexpr float kScale = 1.595769122f;  // 2 sqrt(2 / pi)
    const Floats square = c * c;
    const Floats k = c * (square * (kScale * 0.044715f) + kScale);
    const Floats dk = square * (kScale * 3 * 0.044715f) + kScale;
    return logistic_gate<Vector>(z, k, dk, c);
  } else {
    // A comparison with NaN is false.
    return {z <= zero ? zero : z, z <= zero ? zero : zero + 1.0f};
  }
}

}  // namespace

}  // namespace neuropatch::cpu
