#include "race_fibers.h"

namespace emulator {

RaceFibers::~RaceFibers() {
  end_grid();
  for (sanitizers::FiberState& state : free_) sanitizers::destroy_fiber(state);
}

void RaceFibers::take(sanitizers::FiberState& state, const char* name) {
  if (free_.empty()) {
    sanitizers::create_fiber(state);
  } else {
    state = free_.front();
    free_.pop_front();
  }
  sanitizers::name_fiber(state, name);
}

void RaceFibers::give(const sanitizers::FiberState& state) {
  used_.push_back(state);
  if (used_.size() <= kMost) return;
  sanitizers::destroy_fiber(used_.front());
  used_.pop_front();
}

void RaceFibers::end_grid() {
  free_.insert(free_.end(), used_.begin(), used_.end());
  used_.clear();
}

}  // namespace emulator
