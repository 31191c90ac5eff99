// ldmatrix: a warp loads four 8x8 matrices of 16-bit elements from shared memory in the layout that
// mma.sync wants. Lane 8*i + j gives the address of row j of matrix i: 16 bytes, 16-byte aligned.
// Lane l receives, of each matrix, the elements (l/4, 2*(l%4)) and (l/4, 2*(l%4) + 1), or with
// "transposed" those of the transposed matrix.
#pragma once

#include <cstdint>

#include "cuda/device/shared_memory.cuh"

namespace fastconv::cuda {

__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const void* row) {
#ifdef FASTCONV_EMULATOR
  emulator::ldmatrix<4, false>(r, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], const void* row) {
#ifdef FASTCONV_EMULATOR
  emulator::ldmatrix<4, true>(r, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

}  // namespace fastconv::cuda
