// Where the lanes of a warp meet: every warp collective is one Meeting.
//
// A lane deposits its operands and waits; the last lane to arrive may compute; then each lane reads
// its result. Two meetings that alternate are enough for the whole warp, since no lane can be two
// meetings ahead of another. Parts of a diverged warp use other meetings, each of them until the
// last lane of its mask has read.
#pragma once

#include <bit>
#include <cstdint>

#include "fault.h"
#include "limits.h"
#include "multiprocessor.h"
#include "sanitizers.h"

namespace emulator {

struct Meeting {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  int unread = 0;
  const char* operation = nullptr;
  char sync = 0;  // its address is what ThreadSanitizer orders
  union {
    uint64_t words[kWarpSize];
    uint32_t ballot;
    uint32_t rows[kWarpSize][4];  // of 16 bytes
    struct {
      // As in memory: two halves to a word, or one float. b is transposed: row n, column k.
      uint32_t a[16][8];
      uint32_t b[8][8];
      float d[16][8];
    } matrix;
  };
};

struct Warp {
  static constexpr int kMeetings = 10;  // two for the whole warp, the others for parts of it
  uint32_t existing = 0;                // the last warp of a block may have fewer lanes
  uint32_t live = 0;
  int gathering = 0;   // meetings that some lanes have reached
  unsigned phase = 0;  // of the whole warp's meetings
  Thread* lanes[kWarpSize] = {};
  Meeting meetings[kMeetings];

  // The meeting that the running thread is to attend.
  Meeting& find(uint32_t mask, const char* operation);
  void check_exit(unsigned lane) const;
};

enum class Ordering { kNone, kMemory };

// Runs deposit(meeting, lane) for each lane of mask, then complete(meeting) once. The result may be
// read until the running thread's next call of the emulator.
template <class Deposit, class Complete>
Meeting& meet(uint32_t mask, const char* operation, Ordering ordering, Deposit deposit,
              Complete complete) {
  Multiprocessor& multiprocessor = *Multiprocessor::running();
  Thread& self = multiprocessor.current();
  Warp& warp = *self.warp;
  Meeting& meeting = warp.find(mask, operation);
  if (ordering == Ordering::kMemory) sanitizers::release(&meeting.sync);
  if (meeting.arrived == 0) ++warp.gathering;
  deposit(meeting, self.lane);
  meeting.arrived |= 1u << self.lane;
  if (meeting.arrived == meeting.mask) {
    complete(meeting);
    meeting.arrived = 0;
    meeting.unread = std::popcount(meeting.mask);
    --warp.gathering;
    if (meeting.mask == warp.existing) ++warp.phase;
    multiprocessor.release_lanes(warp, meeting.mask);
  } else {
    multiprocessor.park(operation);
  }
  if (ordering == Ordering::kMemory) sanitizers::acquire(&meeting.sync);
  --meeting.unread;
  return meeting;
}

template <class Deposit>
Meeting& meet(uint32_t mask, const char* operation, Ordering ordering, Deposit deposit) {
  return meet(mask, operation, ordering, deposit, [](Meeting&) {});
}

}  // namespace emulator
