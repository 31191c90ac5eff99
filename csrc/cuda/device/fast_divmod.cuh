// Division by a divisor that is known on the host: a multiplication and a shift (Granlund and
// Montgomery, "Division by Invariant Integers using Multiplication", 1994), for 0 <= n < 2^31.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastconv::cuda {

class FastDivmod {
 public:
  FastDivmod() = default;

  // divisor in [1, 2^31).
  explicit FastDivmod(uint32_t divisor) : divisor_(divisor) {
    while ((uint64_t{1} << shift_) < divisor) ++shift_;
    // ceil(2^(31 + shift) / divisor) < 2^32, exact for every n < 2^31.
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << (31 + shift_)) + divisor - 1) / divisor);
  }

  __host__ __device__ __forceinline__ uint32_t divisor() const { return divisor_; }

  __host__ __device__ __forceinline__ uint32_t div(uint32_t n) const {
#ifdef __CUDA_ARCH__
    return __umulhi(n << 1, multiplier_) >> shift_;
#else
    return static_cast<uint32_t>((static_cast<uint64_t>(n << 1) * multiplier_ >> 32) >> shift_);
#endif
  }

  __host__ __device__ __forceinline__ uint32_t divmod(uint32_t n, uint32_t& remainder) const {
    const uint32_t quotient = div(n);
    remainder = n - quotient * divisor_;
    return quotient;
  }

 private:
  uint32_t divisor_ = 1;
  uint32_t multiplier_ = uint32_t{1} << 31;
  uint32_t shift_ = 0;
};

// Of a divisor that a plan has bounded: [1, 2^31).
inline FastDivmod divmod(int64_t divisor) { return FastDivmod(static_cast<uint32_t>(divisor)); }

}  // namespace fastconv::cuda
