// Stacks for the fibers of one block, kept and used again from block to block.
//
// Beneath each stack lies a page that may not be touched: an overflow is a fault with a report
// (AddressSanitizer writes its own). Stacks start at different offsets within a page, or the hot
// ends of all of them would compete for the same few cache sets.
#pragma once

#include <cstddef>
#include <vector>

namespace emulator {

class Stacks {
 public:
  Stacks();
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  // Makes the first `count` stacks free, and fresh as far as ThreadSanitizer knows.
  void reset(int count);

  // Without it an overflow is a segmentation fault without a report.
  static void watch_this_os_thread();

  int take();
  void give(int stack) { free_.push_back(stack); }

  char* bottom(int stack) const;
  char* top(int stack) const;
  static size_t bytes();

 private:
  char* memory_;
  int protected_count_ = 0;
  std::vector<int> free_;
};

}  // namespace emulator
