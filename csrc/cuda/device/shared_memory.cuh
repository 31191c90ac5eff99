// The one way to shared memory: a struct laid over the block's dynamic allocation. Kernels never
// write __shared__ themselves, so that the emulator can hand out memory whose bounds are checked.
#pragma once

#include <cuda_runtime.h>

#ifdef FASTCONV_EMULATOR
#include "emulator.h"
#endif

namespace fastconv::cuda {

// The block's shared memory seen as a T, not initialised. A launch asks for sizeof(T) bytes.
template <typename T>
__device__ __forceinline__ T& shared_storage() {
#ifdef FASTCONV_EMULATOR
  return *static_cast<T*>(emulator::shared_memory());
#else
  extern __shared__ __align__(1024) unsigned char fastconv_shared_memory[];
  return *reinterpret_cast<T*>(fastconv_shared_memory);
#endif
}

}  // namespace fastconv::cuda
