// The cp.async operations of one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulator {

class AsyncCopies {
 public:
  // Copies valid_bytes and zeros the rest: later, or now if eager.
  void issue(bool lazy, void* shared, const void* global, int bytes, int valid_bytes);
  void commit() { ++groups_; }
  // All groups but the newest `pending` arrive.
  void wait(int pending);
  bool outstanding() const { return first_ < copies_.size(); }
  void clear();

 private:
  struct Copy {
    void* shared;
    int bytes;
    uint32_t group;
    alignas(16) char data[16];
  };
  static void arrive(const Copy& copy);

  std::vector<Copy> copies_;  // emptied, but never shrunk
  size_t first_ = 0;          // earlier ones have arrived
  uint32_t groups_ = 0;       // committed
};

}  // namespace emulator
