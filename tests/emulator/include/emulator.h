// Host twins of what only inline PTX can say on the device: the wrappers of csrc/cuda/device call
// these when FASTCONV_EMULATOR is defined.
//
// All of them check what the hardware requires and end the process with a report where a kernel
// breaks it: alignment, an address outside of shared memory, a warp that is not complete.
#pragma once

#include <cstdint>

namespace emulator {

// Dynamic shared memory of the running block: aligned to 1,024 bytes, exactly as long as the launch
// asked for, filled with 0xff (NaN) when the block starts.
void* shared_memory();

// cp.async of 4, 8 or 16 bytes; of these valid_bytes are copied and the rest is zero. Lazy copies
// (FASTCONV_EMULATOR_ASYNC, the default) show 0xfb in shared memory until a wait covers them.
// A thread must have waited for every copy it made when it exits. The hardware does not demand it,
// but such a copy may land in shared memory that has a new use by then.
void cp_async(void* shared, const void* global, int bytes, int valid_bytes);
void cp_async_commit();
void cp_async_wait(int pending);

// Lane 8 i + j holds the address of row j of matrix i; other lanes' addresses are not looked at.
void ldmatrix(uint32_t* r, const void* row, int count, bool transposed);

template <int kCount, bool kTransposed>
void ldmatrix(uint32_t (&r)[kCount], const void* row) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4);
  ldmatrix(r, row, kCount, kTransposed);
}

// d += a b. Products are exact and sums are float, in the order of k; the hardware's own order and
// rounding of the sum are not modelled.
void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
// The hardware ignores the low 13 bits of an operand; here a set one is a fault, because it means
// that a rounding was forgotten.
void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// cvt.rna.tf32.f32: to nearest, ties away from zero.
uint32_t round_to_tf32(float value);

}  // namespace emulator

// For ctypes: replaces what FASTCONV_EMULATOR_ASYNC, _SEED and _WORKERS have set. Later launches
// obey; workers <= 0 means one for each CPU.
extern "C" void fastconv_emulator_configure(int lazy, uint64_t seed, int workers);
