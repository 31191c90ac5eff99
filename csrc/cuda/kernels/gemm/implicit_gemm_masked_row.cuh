// A row that a tap reads, as the vectorised main loops know it: an address, and a mask of the taps
// that leave the source. A tap's test is one logical instruction.
#pragma once

#include <cstdint>

namespace fastconv::cuda {

// The address that a tap at offset 0 reads, and a set bit for each tap_w, and from bit taps_w on
// for each tap_h, that lies outside of the source. Bit taps_w + taps_h is set: no tap is there.
struct alignas(16) MaskedRow {
  uint64_t source;
  uint32_t outside;
};

// A bit for each tap of an axis that lies outside of the source.
__device__ __forceinline__ uint32_t taps_outside(int first, int tap_offset, int taps, int size) {
  uint32_t outside = 0;
  for (int tap = 0, at = first; tap < taps; ++tap, at += tap_offset) {
    if (static_cast<unsigned>(at) >= static_cast<unsigned>(size)) outside |= 1u << tap;
  }
  return outside;
}

}  // namespace fastconv::cuda
