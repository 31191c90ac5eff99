// mma.sync: d += a * b on the tensor cores, one warp, float32 accumulators. Fragments of lane l
// with g = l/4 and t = l%4 (PTX ISA, "Matrix Fragments"), for 16-bit types and, in brackets, for
// TF32:
//   a (16 x 16 [8], row major)  a0 (g, 2t..) a1 (g+8, 2t..) a2 (g, 2t+8..) a3 (g+8, 2t+8..)
//                               [a0 (g, t)   a1 (g+8, t)    a2 (g, t+4)    a3 (g+8, t+4)]
//   b (16 [8] x 8, column major) b0 (2t.., g) b1 (2t+8.., g)  [b0 (t, g) b1 (t+4, g)]
//   d (16 x 8)                  d0 d1 (g, 2t..) d2 d3 (g+8, 2t..)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/device/shared_memory.cuh"

namespace fastconv::cuda {

// The bits of a float32 that was rounded to TF32, which has 10 bits of mantissa. mma ignores the
// other 13 bits, so without the rounding it would truncate.
struct tf32_t {
  uint32_t bits;
};

// Rounds to the nearest TF32, ties away from zero.
__device__ __forceinline__ uint32_t round_to_tf32(float value) {
#ifdef FASTCONV_EMULATOR
  return emulator::round_to_tf32(value);
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#endif
}

// The TF32 that mma makes of a float32's bits by ignoring 13 of them; costs nothing.
__device__ __forceinline__ uint32_t truncate_to_tf32(float value) {
#ifdef FASTCONV_EMULATOR
  return __float_as_uint(value) & ~((1u << 13) - 1);
#else
  return __float_as_uint(value);
#endif
}

template <typename T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
__device__ __forceinline__ void mma<__half>(float (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
#ifdef FASTCONV_EMULATOR
  emulator::mma_m16n8k16_f16(d, a, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4],
                                                   const uint32_t (&b)[2]) {
#ifdef FASTCONV_EMULATOR
  emulator::mma_m16n8k16_bf16(d, a, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

template <>
__device__ __forceinline__ void mma<tf32_t>(float (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
#ifdef FASTCONV_EMULATOR
  emulator::mma_m16n8k8_tf32(d, a, b);
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace fastconv::cuda
