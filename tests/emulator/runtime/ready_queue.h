// The threads of a block that could run, in the order in which they will.
#pragma once

#include "limits.h"

namespace emulator {

struct Thread;

class ReadyQueue {
 public:
  bool empty() const { return size_ == 0; }
  void clear() { head_ = size_ = 0; }
  Thread* front() const { return ring_[head_]; }
  void push_back(Thread* thread) { ring_[(head_ + size_++) % kMaxThreads] = thread; }
  void push_front(Thread* thread) {
    head_ = (head_ - 1) % kMaxThreads;
    ring_[head_] = thread;
    ++size_;
  }
  Thread* pop() {
    Thread* thread = ring_[head_];
    head_ = (head_ + 1) % kMaxThreads;
    --size_;
    return thread;
  }

 private:
  unsigned head_ = 0, size_ = 0;
  Thread* ring_[kMaxThreads];
};

}  // namespace emulator
