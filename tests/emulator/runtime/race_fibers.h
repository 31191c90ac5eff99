// The CUDA threads as ThreadSanitizer sees them: a fiber each.
//
// No two threads of a grid may share a fiber, or their accesses would be taken for those of one
// thread. Destroying fibers does not help: ThreadSanitizer gives the identity of a destroyed fiber
// to the next one. Grids run one after the other, so a later grid uses the fibers of an earlier one
// again: creating one takes half a millisecond.
#pragma once

#include <cstddef>
#include <deque>

#include "sanitizers.h"

namespace emulator {

class RaceFibers {
 public:
  ~RaceFibers();

  // For a thread that begins; name is for reports.
  void take(sanitizers::FiberState& state, const char* name);
  // For one that has ended.
  void give(const sanitizers::FiberState& state);
  void end_grid();

 private:
  // Each takes 0.7 MB. In larger grids, races between blocks that are far apart may be missed.
  static constexpr size_t kMost = 2048;
  std::deque<sanitizers::FiberState> used_;  // by this grid
  std::deque<sanitizers::FiberState> free_;
};

}  // namespace emulator
