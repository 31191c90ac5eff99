// The random numbers of a schedule: small, fast, and the same on every machine.
#pragma once

#include <cstdint>
#include <utility>

namespace emulator {

class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed) {}

  uint32_t below(uint32_t bound) {
    state_ += 0x9e3779b97f4a7c15;  // splitmix64
    uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return static_cast<uint32_t>(((z ^ z >> 31) >> 32) * bound >> 32);
  }

  template <class T>
  void shuffle(T* items, int count) {
    for (int i = count; i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  uint64_t state_;
};

}  // namespace emulator
