// ThreadSanitizer's view of the CUDA threads: a fiber each.
//
// No two threads of a grid may share one, or their accesses would be taken for those of one thread;
// destroying is no way out, since ThreadSanitizer gives the identity to the next fiber that is
// created. From grid to grid, which are ordered anyway, fibers are used again: creating one takes
// half a millisecond.
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
