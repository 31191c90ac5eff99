// What CUDA provides to a kernel: threadIdx and its like, barriers, votes, shuffles.
//
// Nothing here touches the emulator's own memory from inlined code: a kernel's translation unit may
// be instrumented by ThreadSanitizer, the emulator never is.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/vector_types.h"

// Of the CUDA thread that runs on this OS thread; set at each switch.
extern constinit thread_local uint3 threadIdx __attribute__((tls_model("initial-exec")));
extern constinit thread_local uint3 blockIdx __attribute__((tls_model("initial-exec")));
extern constinit thread_local dim3 blockDim __attribute__((tls_model("initial-exec")));
extern constinit thread_local dim3 gridDim __attribute__((tls_model("initial-exec")));
inline constexpr int warpSize = 32;

namespace emulator {

enum class Vote { kNone, kOr, kAnd, kCount };
int block_barrier(Vote vote, int predicate);

// Every lane of mask gives a value and receives that of lane source. A source outside of mask gives
// all ones, a NaN: the hardware leaves it undefined.
uint64_t shuffle(uint32_t mask, uint64_t value, int source, const char* operation);
uint32_t ballot(uint32_t mask, bool predicate, const char* operation);
void warp_barrier(uint32_t mask);
uint32_t active_lanes();
int lane_index();
void yield();

template <class T>
T shuffle_value(uint32_t mask, T value, int source, const char* operation) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, bits, source, operation);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator

inline void __syncthreads() { emulator::block_barrier(emulator::Vote::kNone, 0); }
inline int __syncthreads_or(int p) { return emulator::block_barrier(emulator::Vote::kOr, p); }
inline int __syncthreads_and(int p) { return emulator::block_barrier(emulator::Vote::kAnd, p); }
inline int __syncthreads_count(int p) { return emulator::block_barrier(emulator::Vote::kCount, p); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::warp_barrier(mask); }
inline unsigned __activemask() { return emulator::active_lanes(); }
inline void __nanosleep(unsigned) { emulator::yield(); }

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emulator::ballot(mask, predicate != 0, "__ballot_sync");
}
inline int __any_sync(unsigned mask, int predicate) {
  return emulator::ballot(mask, predicate != 0, "__any_sync") != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return emulator::ballot(mask, predicate == 0, "__all_sync") == 0;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize) {
  const int lane = emulator::lane_index();
  source = (lane & ~(width - 1)) | (source & (width - 1));
  return emulator::shuffle_value(mask, value, source, "__shfl_sync");
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize) {
  const int lane = emulator::lane_index();
  const int source = lane ^ lane_mask;
  const bool within = (source & ~(width - 1)) <= (lane & ~(width - 1));
  return emulator::shuffle_value(mask, value, within ? source : lane, "__shfl_xor_sync");
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = emulator::lane_index();
  const bool within = (lane & (width - 1)) + static_cast<int>(delta) < width;
  const int source = within ? lane + static_cast<int>(delta) : lane;
  return emulator::shuffle_value(mask, value, source, "__shfl_down_sync");
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = emulator::lane_index();
  const bool within = (lane & (width - 1)) >= static_cast<int>(delta);
  const int source = within ? lane - static_cast<int>(delta) : lane;
  return emulator::shuffle_value(mask, value, source, "__shfl_up_sync");
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
