#include "multiprocessor.h"

#include <bit>
#include <cstdio>

#include "emulator.h"
#include "fault.h"
#include "fiber.h"
#include "warp.h"

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace emulator {

constinit thread_local Multiprocessor* running_multiprocessor = nullptr;

namespace {

// For ThreadSanitizer, which orders the host's work before a grid and after it by these two
// addresses. Nothing orders the blocks of a grid among each other.
char launch_sync, end_sync;

}  // namespace

Multiprocessor::Multiprocessor() : threads_(new Thread[kMaxThreads]), warps_(new Warp[kMaxWarps]) {
  barrier_.waiting.reserve(kMaxThreads);
}

Multiprocessor::~Multiprocessor() = default;

void Multiprocessor::begin_grid(const cudaLaunchConfig_t& config, const Call& call,
                                const Options& options) {
  options_ = options;
  call_ = call;
  shared_bytes_ = config.dynamicSmemBytes;
  ::blockDim = config.blockDim;
  ::gridDim = config.gridDim;
  const dim3 dim = config.blockDim;
  thread_count_ = static_cast<int>(dim.x * dim.y * dim.z);
  for (int i = 0; i < kMaxWarps; ++i) warps_[i].existing = 0;
  int i = 0;
  for (unsigned z = 0; z < dim.z; ++z) {
    for (unsigned y = 0; y < dim.y; ++y) {
      for (unsigned x = 0; x < dim.x; ++x, ++i) {
        Thread& thread = threads_[i];
        thread.index = {x, y, z};
        thread.lane = i % kWarpSize;
        thread.warp = &warps_[i / kWarpSize];
        thread.warp->lanes[thread.lane] = &thread;
        thread.warp->existing |= 1u << thread.lane;
      }
    }
  }
  running_multiprocessor = this;
  Stacks::watch_this_os_thread();
  sanitizers::adopt_current_thread(host_.sanitizer);
}

void Multiprocessor::end_grid() {
  sanitizers::acquire(&end_sync);  // what every thread did is before what the host does next
  race_fibers_.end_grid();
  running_multiprocessor = nullptr;
}

void Multiprocessor::run_block(uint3 index, uint64_t number) {
  blockIdx = index;
  live_ = thread_count_;
  idle_yields_ = 0;
  stacks_.reset(thread_count_);
  shared_.reset(shared_bytes_);
  Thread* order[kMaxThreads];
  for (int i = 0; i < thread_count_; ++i) {
    order[i] = &threads_[i];
    threads_[i].context = nullptr;
    threads_[i].ended = false;
    if (sanitizers::kThread) {
      const uint3 thread = threads_[i].index;
      char name[96];
      std::snprintf(name, sizeof(name), "CUDA block (%u,%u,%u) thread (%u,%u,%u)", index.x, index.y,
                    index.z, thread.x, thread.y, thread.z);
      race_fibers_.take(threads_[i].sanitizer, name);
    }
  }
  for (int i = 0; i * kWarpSize < thread_count_; ++i) warps_[i].live = warps_[i].existing;
  if (options_.seed != 0) {
    random_ = Random(options_.seed * 0x100000001b3 + number);
    random_.shuffle(order, thread_count_);
  }
  for (int i = 0; i < thread_count_; ++i) ready_.push_back(order[i]);
  sanitizers::release(&launch_sync);

  resume(*ready_.pop());  // until the last thread has ended

  if (sanitizers::kThread) {
    for (int i = 0; i < thread_count_; ++i) race_fibers_.give(threads_[i].sanitizer);
  }
}

void Multiprocessor::fiber_entry() {
  Multiprocessor& self = *running_multiprocessor;
  sanitizers::after_switch(self.previous_->sanitizer, self.current_->sanitizer);
  for (;;) {
    sanitizers::acquire(&launch_sync);
    self.call_.invoke(self.call_.arguments);
    self.end_current();  // returns where another thread begins on this stack
  }
}

void Multiprocessor::set_current(Thread& thread) {
  current_ = &thread;
  threadIdx = thread.index;
}

void Multiprocessor::prepare(Thread& thread) {
  thread.stack = stacks_.take();
  thread.sanitizer.enter(stacks_.bottom(thread.stack), Stacks::bytes());
  thread.context = make_context(stacks_.top(thread.stack), fiber_entry);
}

void Multiprocessor::resume(Thread& next) {
  Thread& self = *current_;
  next.waits_for = nullptr;
  if (&next == &self) return;
  if (next.context == nullptr) prepare(next);
  previous_ = &self;
  set_current(next);
  if (!ready_.empty()) __builtin_prefetch(ready_.front()->context);
  sanitizers::before_switch(self.sanitizer, self.ended, next.sanitizer);
  switch_context(&self.context, next.context);
  sanitizers::after_switch(previous_->sanitizer, current_->sanitizer);
}

void Multiprocessor::park(const char* operation) {
  current_->waits_for = operation;
  if (ready_.empty()) fault("deadlock: no thread of the block can go on");
  resume(*ready_.pop());
}

void Multiprocessor::yield() {
  if (++idle_yields_ > 64 * static_cast<uint64_t>(thread_count_) + 4096) {
    fault("livelock: threads spin and none makes progress");
  }
  ready_.push_back(current_);
  park("__nanosleep");
}

void Multiprocessor::end_current() {
  Thread& self = *current_;
  if (self.copies.outstanding()) fault("a thread exits without having waited for its cp.async");
  self.copies.clear();
  self.warp->check_exit(self.lane);
  self.warp->live &= ~(1u << self.lane);
  --live_;
  progress();
  sanitizers::release(&end_sync);
  const int waiting = static_cast<int>(barrier_.waiting.size());
  if (waiting != 0 && waiting == live_) open_barrier();
  if (ready_.empty() && live_ != 0) fault("deadlock: the threads that have not exited wait");

  Thread& next = live_ == 0 ? host_ : *ready_.pop();
  if (next.context == nullptr && !sanitizers::kThread) {
    next.stack = self.stack;
    next.sanitizer = self.sanitizer;
    set_current(next);
    return;
  }
  if (!sanitizers::kThread) stacks_.give(self.stack);
  self.ended = true;
  resume(next);
}

void Multiprocessor::release_lanes(const Warp& warp, uint32_t mask) {
  progress();
  mask &= ~(1u << current_->lane);
  const bool front = options_.seed == 0 || random_.below(2) == 0;
  const int rotation = options_.seed == 0 ? 0 : static_cast<int>(random_.below(kWarpSize));
  for (mask = std::rotl(mask, rotation); mask != 0;) {
    // In front, and so before other warps: these lanes' stacks are in the cache.
    const int bit = front ? 31 - std::countl_zero(mask) : std::countr_zero(mask);
    mask &= ~(1u << bit);
    Thread* thread = warp.lanes[(bit - rotation) & 31];
    if (front) {
      ready_.push_front(thread);
    } else {
      ready_.push_back(thread);
    }
  }
}

}  // namespace emulator
