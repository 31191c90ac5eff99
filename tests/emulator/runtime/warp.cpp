// Barriers, votes and shuffles of a warp.
#include "warp.h"

#include <cstring>

#include "emulator/builtins.h"

namespace emulator {

Meeting& Warp::find(uint32_t mask, const char* operation) {
  const uint32_t lane_bit = 1u << Multiprocessor::running()->current().lane;
  if ((mask & lane_bit) == 0) fault("%s: mask %#x lacks the calling lane", operation, mask);
  mask &= existing;
  if ((mask & ~live) != 0) {
    fault("%s: mask %#x names lanes %#x, which have exited", operation, mask, mask & ~live);
  }
  Meeting* found = nullptr;
  if (mask == existing) {
    found = &meetings[phase & 1];
  } else {
    for (int i = 2; i < kMeetings && found == nullptr; ++i) {
      if (meetings[i].arrived != 0 && meetings[i].mask == mask) found = &meetings[i];
    }
    for (int i = 2; i < kMeetings && found == nullptr; ++i) {
      if (meetings[i].arrived == 0 && meetings[i].unread == 0) found = &meetings[i];
    }
    if (found == nullptr) fault("%s: a warp diverged into too many parts", operation);
  }
  if (found->arrived == 0) {
    found->mask = mask;
    found->operation = operation;
  } else if (found->operation != operation && std::strcmp(found->operation, operation) != 0) {
    fault("lanes of mask %#x are in different collectives: %s and %s", mask, operation,
          found->operation);
  }
  return *found;
}

void Warp::check_exit(unsigned lane) const {
  if (gathering == 0) return;
  for (const Meeting& meeting : meetings) {
    if (meeting.arrived != 0 && (meeting.mask >> lane & 1) != 0) {
      fault("lane %u exits, but others wait for it in %s", lane, meeting.operation);
    }
  }
}

uint64_t shuffle(uint32_t mask, uint64_t value, int source, const char* operation) {
  const Meeting& meeting =
      meet(mask, operation, Ordering::kNone,
           [&](Meeting& meeting, unsigned lane) { meeting.words[lane] = value; });
  return meeting.mask >> source & 1 ? meeting.words[source] : ~uint64_t{0};
}

uint32_t ballot(uint32_t mask, bool predicate, const char* operation) {
  return meet(mask, operation, Ordering::kNone,
              [&](Meeting& meeting, unsigned lane) {
                if (meeting.arrived == 0) meeting.ballot = 0;
                meeting.ballot |= uint32_t{predicate} << lane;
              })
      .ballot;
}

void warp_barrier(uint32_t mask) {
  meet(mask, "__syncwarp", Ordering::kMemory, [](Meeting&, unsigned) {});
}

// Each fiber runs alone, so no two lanes are ever known to be converged.
uint32_t active_lanes() { return 1u << Multiprocessor::running()->current().lane; }

int lane_index() { return static_cast<int>(Multiprocessor::running()->current().lane); }

}  // namespace emulator
