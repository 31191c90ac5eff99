// cp.async: copies from global to shared memory that go through no register and run while the
// thread goes on. A thread commits its copies in groups. A wait says how many of the newest groups
// may still be under way, and covers only the thread's own copies: a barrier must follow before
// other threads read them.
#pragma once

#include <cstdint>

#include "cuda/device/shared_memory.cuh"

namespace fastconv::cuda {

// Copies 16 bytes, or fills them with zeros where `valid` is false (global is then not read, but
// must be an address). Both addresses are multiples of 16. Bypasses L1.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
#ifdef FASTCONV_EMULATOR
  emulator::cp_async(shared, global, 16, valid ? 16 : 0);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global),
                 "r"(valid ? 16 : 0)
               : "memory");
#endif
}

// The same for 4 bytes, aligned to 4; cached in L1, where neighbours will find the rest of a line.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool valid) {
#ifdef FASTCONV_EMULATOR
  emulator::cp_async(shared, global, 4, valid ? 4 : 0);
#else
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global),
                 "r"(valid ? 4 : 0)
               : "memory");
#endif
}

// Closes the thread's current group of copies.
__device__ __forceinline__ void cp_async_commit() {
#ifdef FASTCONV_EMULATOR
  emulator::cp_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kPending of the thread's newest groups are still under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
#ifdef FASTCONV_EMULATOR
  emulator::cp_async_wait(kPending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace fastconv::cuda
