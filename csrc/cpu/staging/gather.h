// The gather axes of a CPU pass (problem/gather_axis.h), with each axis' taps in the order of
// ascending source positions, and the phases of dgrad that are gathered together.
#pragma once

#include "cpu/vectors/isa.h"
#include "problem/gather_axis.h"

namespace fastconv::cpu::FASTCONV_ISA {

static inline GatherAxis ascending_dgrad_axis(const ConvAxis& conv, int64_t phase) {
  GatherAxis axis = with_taps_reversed(dgrad_axis(conv, phase));
  // Without a second tap the steps are unused, and products of large ones would overflow.
  if (axis.taps < 2) axis.tap_offset = 1, axis.tap_step = -1;
  return axis;
}

// An axis whose positions each read themselves.
static inline GatherAxis identity_axis(int64_t size) {
  return fprop_axis(conv_axis(size, size, 1, 1, 0, 1));
}

// dgrad gathers all phases of an axis together where they are no more than this.
constexpr int64_t kMaxPhases = 4;
// How far apart the source positions may lie that position 0 of all phases reads.
constexpr int64_t kMaxPhaseSpan = 16;

// The output positions of an axis by phases, and the source positions that any of them reads: tap i
// of position u of a phase is tap first_tap + i * tap_step of position u of the gathered axis.
// fprop has one phase with all taps, dgrad one for each remainder modulo the stride, in that order.
struct PhaseAxis {
  GatherAxis axis;
  int64_t first_tap, tap_step;
};
struct AxisPhases {
  int64_t count;
  PhaseAxis phases[kMaxPhases];
  GatherAxis gathered;

  const PhaseAxis& operator[](int64_t i) const { return phases[i]; }
  // Where the positions of all phases lie: position u * count + a is position u of phase a.
  GatherAxis output() const {
    GatherAxis axis = phases[0].axis;
    if (count > 1) axis.step = 1;
    for (int64_t i = 1; i < count; ++i) axis.positions += phases[i].axis.positions;
    return axis;
  }
};

static inline AxisPhases one_phase(const GatherAxis& axis) { return {1, {{axis, 0, 1}}, axis}; }

// All phases of an axis of dgrad; none where they are too many or lie too far apart to be
// gathered together.
static inline AxisPhases all_dgrad_phases(const ConvAxis& conv) {
  AxisPhases all = {dgrad_phases(conv), {}, {}};
  const AxisPhases none = {0, {}, {}};
  if (conv.stride > kMaxPhases) return none;
  int64_t lowest = INT64_MAX, highest = INT64_MIN;
  for (int64_t i = 0; i < all.count; ++i) {
    const GatherAxis axis = ascending_dgrad_axis(conv, i);
    all.phases[i] = {axis, 0, 1};
    if (axis.taps == 0) continue;
    lowest = min64(lowest, axis.source_first);
    highest = max64(highest, axis.source_first + (axis.taps - 1) * axis.tap_offset);
  }
  if (lowest > highest || highest - lowest >= max64(kMaxPhaseSpan, conv.kernel)) return none;
  for (int64_t i = 0; i < all.count; ++i) {
    all.phases[i].first_tap = all.phases[i].axis.source_first - lowest;
    all.phases[i].tap_step = all.phases[i].axis.tap_offset;
  }
  // fprop of stride 1 over dy, with a tap for each source position in reach.
  all.gathered = fprop_axis(
      conv_axis(conv.y_size, div_up(conv.x_size, all.count), highest - lowest + 1, 1, -lowest, 1));
  return all;
}

// Calls body(h, w) for every phase of dx's pixels, one pair of axes after the other.
template <typename Body>
static void for_each_phase(const ConvProblem& problem, const Body& body) {
  const ConvAxis h = h_axis(problem), w = w_axis(problem);
  for (int64_t i = 0; i < dgrad_phases(h); ++i) {
    const GatherAxis rows = ascending_dgrad_axis(h, i);
    for (int64_t j = 0; j < dgrad_phases(w); ++j) body(rows, ascending_dgrad_axis(w, j));
  }
}

// The phases of both axes: phase (a, b) has taps(a, b) taps.
struct GatherPhases {
  AxisPhases h, w;

  int64_t phases() const { return h.count * w.count; }
  int64_t taps(int64_t a, int64_t b) const { return h[a].axis.taps * w[b].axis.taps; }
  int64_t all_taps() const {
    int64_t sum = 0;
    for (int64_t i = 0; i < phases(); ++i) sum += taps(i / w.count, i % w.count);
    return sum;
  }
};

// Calls body(GatherPhases) for the pixels of dx: once for all of them, or for one phase after the
// other.
template <typename Body>
static void for_each_dgrad(const ConvProblem& problem, const Body& body) {
  const AxisPhases h = all_dgrad_phases(h_axis(problem)), w = all_dgrad_phases(w_axis(problem));
  if (h.count > 0 && w.count > 0) return body(GatherPhases{h, w});
  for_each_phase(problem, [&](const GatherAxis& rows, const GatherAxis& columns) {
    body(GatherPhases{one_phase(rows), one_phase(columns)});
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
