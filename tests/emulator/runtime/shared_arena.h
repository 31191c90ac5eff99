// Dynamic shared memory of the running block.
#pragma once

#include <cstddef>

namespace emulator {

class SharedArena {
 public:
  SharedArena();
  ~SharedArena();
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;

  // A new block: `bytes` long, all bits set. AddressSanitizer allows no byte beyond.
  void reset(size_t bytes);

  char* data() const { return data_; }
  bool contains(const void* p, size_t bytes) const;

 private:
  char* memory_;
  char* data_;
  size_t bytes_ = 0;
};

}  // namespace emulator
