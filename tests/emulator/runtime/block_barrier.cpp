// __syncthreads and its variants that vote. Threads that have exited are not waited for.
#include "fault.h"
#include "multiprocessor.h"

namespace emulator {
namespace {

const char* name(Vote vote) {
  switch (vote) {
    case Vote::kNone:
      return "__syncthreads";
    case Vote::kOr:
      return "__syncthreads_or";
    case Vote::kAnd:
      return "__syncthreads_and";
    case Vote::kCount:
      return "__syncthreads_count";
  }
  return "?";
}

}  // namespace

int Multiprocessor::barrier(Vote vote, int predicate) {
  BlockBarrier::Phase& phase = barrier_.phases[barrier_.phase & 1];
  if (barrier_.waiting.empty()) {
    barrier_.vote = vote;
    phase.votes = 0;
  } else if (barrier_.vote != vote) {
    fault("threads of a block are in different barriers: %s and %s", name(vote),
          name(barrier_.vote));
  }
  phase.votes += predicate != 0;
  sanitizers::release(&phase.sync);
  barrier_.waiting.push_back(current_);
  if (static_cast<int>(barrier_.waiting.size()) == live_) open_barrier();
  if (ready_.empty() || ready_.front() != current_) {
    park(name(vote));
  } else {
    ready_.pop();
  }
  sanitizers::acquire(&phase.sync);
  switch (vote) {
    case Vote::kOr:
      return phase.votes != 0;
    case Vote::kAnd:
      return phase.votes == phase.participants;
    default:
      return phase.votes;
  }
}

void Multiprocessor::open_barrier() {
  std::vector<Thread*>& waiting = barrier_.waiting;
  const int count = static_cast<int>(waiting.size());
  barrier_.phases[barrier_.phase++ & 1].participants = count;
  progress();
  if (options_.seed != 0) random_.shuffle(waiting.data(), count);
  for (Thread* thread : waiting) ready_.push_back(thread);
  waiting.clear();
}

int block_barrier(Vote vote, int predicate) {
  return Multiprocessor::running()->barrier(vote, predicate);
}

void yield() { Multiprocessor::running()->yield(); }
void* shared_memory() { return Multiprocessor::running()->shared().data(); }

}  // namespace emulator
