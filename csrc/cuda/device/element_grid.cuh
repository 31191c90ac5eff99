// Which thread owns which elements of a tensor (n, c, h, w): threads are numbered along channels
// first where those are adjacent in memory, along columns first otherwise.
#pragma once

#include <cstdint>

#include "cuda/device/fast_divmod.cuh"

namespace fastconv::cuda {

// FastDivmod for dividends up to 2^63. Like it, it needs no division of the device, which for 64
// bits would be a function call; where all dividends fit 31 bits it is FastDivmod.
class Divider {
 public:
  Divider() = default;
  // divisor in [1, 2^62]; no dividend is above `largest`.
  Divider(int64_t divisor, int64_t largest)
      : divisor_(divisor), narrow_(largest <= INT32_MAX && divisor <= INT32_MAX) {
    if (narrow_) fast_ = FastDivmod(static_cast<uint32_t>(divisor));
    while ((int64_t{1} << shift_) < divisor) ++shift_;
    const auto d = static_cast<unsigned __int128>(divisor);
    // ceil(2^(63 + shift) / divisor) < 2^64, exact for every n < 2^63.
    const unsigned __int128 power = static_cast<unsigned __int128>(1) << (63 + shift_);
    multiplier_ = static_cast<uint64_t>((power + d - 1) / d);
  }

  __device__ __forceinline__ int64_t div(int64_t n) const {
    if (narrow_) return static_cast<int64_t>(fast_.div(static_cast<uint32_t>(n)));
    return static_cast<int64_t>(__umul64hi(2 * static_cast<uint64_t>(n), multiplier_) >> shift_);
  }

  __device__ __forceinline__ int64_t divmod(int64_t n, int64_t& remainder) const {
    const int64_t quotient = div(n);
    remainder = n - quotient * divisor_;
    return quotient;
  }

 private:
  FastDivmod fast_;
  int64_t divisor_ = 1;
  uint64_t multiplier_ = uint64_t{1} << 63;
  uint32_t shift_ = 0;
  bool narrow_ = true;
};

// What a thread owns, counted in the units of the grid's sizes (vectors of channels, strips of
// rows).
struct GridPosition {
  int64_t n, c, h, w;
};

class ElementGrid {
 public:
  ElementGrid() = default;
  ElementGrid(int64_t N, int64_t C, int64_t H, int64_t W, bool channels_fastest)
      : size_(N * C * H * W), channels_fastest_(channels_fastest) {
    const int64_t sizes[3] = {channels_fastest ? C : W, channels_fastest ? W : H,
                              channels_fastest ? H : C};
    for (int i = 0; i < 3; ++i) by_[i] = Divider(sizes[i], size_);
  }

  __host__ __device__ __forceinline__ int64_t size() const { return size_; }
  __host__ __device__ __forceinline__ bool channels_fastest() const { return channels_fastest_; }

  // index < size().
  __device__ __forceinline__ GridPosition at(int64_t index) const {
    int64_t first, second, third;
    index = by_[0].divmod(index, first);
    index = by_[1].divmod(index, second);
    const int64_t n = by_[2].divmod(index, third);
    if (channels_fastest_) return {n, first, third, second};
    return {n, third, second, first};
  }

 private:
  int64_t size_ = 0;
  Divider by_[3];
  bool channels_fastest_ = false;
};

}  // namespace fastconv::cuda
