// The storage types' conversions, on the host: no kernel is needed.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "launch.h"

FOR_CTYPES run_conversions(const float* x, int count, uint16_t* half, uint16_t* bfloat16,
                           uint32_t* tf32) {
  for (int i = 0; i < count; ++i) {
    half[i] = __half_as_ushort(__float2half_rn(x[i]));
    bfloat16[i] = __bfloat16_as_ushort(__float2bfloat16_rn(x[i]));
    tf32[i] = emulator::round_to_tf32(x[i]);
  }
  return cudaSuccess;
}

FOR_CTYPES run_widenings(float* from_half, float* from_bfloat16) {
  for (int i = 0; i < 1 << 16; ++i) {
    from_half[i] = __half2float(__ushort_as_half(static_cast<uint16_t>(i)));
    from_bfloat16[i] = __bfloat162float(__ushort_as_bfloat16(static_cast<uint16_t>(i)));
  }
  return cudaSuccess;
}
