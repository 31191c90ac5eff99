// The index of a thread in its block, for kernels that may run their main loop twice (tf32x3, where
// a factor is infinite).
#pragma once

namespace fastconv::cuda {

// threadIdx.x, but the compiler takes each call for another number. So it computes again what
// follows from it, where it would otherwise keep the first loop's addresses for the second one and
// spill registers in both.
__device__ __forceinline__ int recomputed_thread_index() {
  int index = static_cast<int>(threadIdx.x);
#ifndef FASTCONV_EMULATOR
  asm volatile("" : "+r"(index));
#endif
  return index;
}

}  // namespace fastconv::cuda
