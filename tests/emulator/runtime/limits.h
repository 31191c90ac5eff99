// The limits of the device that is emulated.
#pragma once

#include <cstddef>

namespace emulator {

inline constexpr int kWarpSize = 32;
inline constexpr int kMaxThreads = 1024;  // of a block
inline constexpr int kMaxWarps = kMaxThreads / kWarpSize;
inline constexpr size_t kDefaultSharedBytes = 48 << 10;
inline constexpr size_t kMaxSharedBytes = 227 << 10;  // with cudaFuncSetAttribute
inline constexpr size_t kMultiprocessorSharedBytes = 228 << 10;
inline constexpr int kMultiprocessors = 132;
inline constexpr int kMultiprocessorThreads = 2048;
inline constexpr int kMultiprocessorRegisters = 65536;
inline constexpr int kL2Bytes = 50 << 20;

}  // namespace emulator
