// d (M, N) = a (M, K) b (N, K)^T through cp.async, ldmatrix and mma.sync, in three stages, and the
// mistakes that such a kernel invites. A chunk is 16 bytes; a K step is two chunks, one mma deep.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "launch.h"

namespace test_kernels {

enum Bug { kNone, kMissingBarrier, kWeakWait, kBarrierBeforeWait };

constexpr int kTile = 32;  // M and N of a block; each of its four warps has a quarter
constexpr int kStages = 3;
constexpr int kRowBytes = 48;  // two chunks, and one of padding against bank conflicts
constexpr int kThreads = 128;

struct Stage {
  alignas(16) char a[kTile][kRowBytes];
  alignas(16) char b[kTile][kRowBytes];
};
struct Shared {
  Stage stages[kStages];
};

struct GemmParams {
  const char *a, *b;  // rows of row_bytes
  float* d;
  int M, N, row_bytes;
  Bug bug;
};

template <class T>
void multiply(float (&d)[4], uint32_t (&a)[4], uint32_t (&b)[2]);
template <>
void multiply<__half>(float (&d)[4], uint32_t (&a)[4], uint32_t (&b)[2]) {
  emulator::mma_m16n8k16_f16(d, a, b);
}
template <>
void multiply<__nv_bfloat16>(float (&d)[4], uint32_t (&a)[4], uint32_t (&b)[2]) {
  emulator::mma_m16n8k16_bf16(d, a, b);
}
template <>
void multiply<float>(float (&d)[4], uint32_t (&a)[4], uint32_t (&b)[2]) {
  for (uint32_t& word : a) word = emulator::round_to_tf32(__uint_as_float(word));
  for (uint32_t& word : b) word = emulator::round_to_tf32(__uint_as_float(word));
  emulator::mma_m16n8k8_tf32(d, a, b);
}

// One chunk for each thread: half of them bring a, the others b.
__device__ void load_stage(Stage& stage, const GemmParams& p, int k) {
  const bool is_b = threadIdx.x >= kThreads / 2;
  const int row = threadIdx.x % (kThreads / 2) / 2, chunk = threadIdx.x % 2;
  const int global_row = (is_b ? blockIdx.x : blockIdx.y) * kTile + row;
  const bool valid = global_row < (is_b ? p.N : p.M) && k * 32 + chunk * 16 < p.row_bytes;
  const char* source = is_b ? p.b : p.a;
  if (valid) source += static_cast<int64_t>(global_row) * p.row_bytes + k * 32 + chunk * 16;
  char* destination = is_b ? stage.b[row] : stage.a[row];
  emulator::cp_async(destination + chunk * 16, source, 16, valid ? 16 : 0);
}

template <class T>
__global__ void __launch_bounds__(kThreads) gemm(const __grid_constant__ GemmParams p) {
  Shared& shared = *static_cast<Shared*>(emulator::shared_memory());
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp / 2 * 16, warp_n = warp % 2 * 16;
  const int steps = (p.row_bytes + 31) / 32;
  float d[2][4] = {};
  for (int k = 0; k < kStages - 1; ++k) {
    load_stage(shared.stages[k], p, k);
    emulator::cp_async_commit();
  }
  for (int k = 0; k < steps; ++k) {
    if (p.bug == kBarrierBeforeWait) __syncthreads();
    emulator::cp_async_wait(p.bug == kWeakWait ? kStages - 1 : kStages - 2);
    if (p.bug != kBarrierBeforeWait && p.bug != kMissingBarrier) __syncthreads();
    load_stage(shared.stages[(k + kStages - 1) % kStages], p, k + kStages - 1);
    emulator::cp_async_commit();

    const Stage& stage = shared.stages[k % kStages];
    uint32_t a[4], b[4];
    emulator::ldmatrix<4, false>(a, stage.a[warp_m + lane % 16] + lane / 16 * 16);
    emulator::ldmatrix<4, false>(b, stage.b[warp_n + lane / 16 * 8 + lane % 8] + lane / 8 % 2 * 16);
    for (int j = 0; j < 2; ++j) {
      uint32_t column[2] = {b[2 * j], b[2 * j + 1]};
      multiply<T>(d[j], a, column);
    }
  }
  emulator::cp_async_wait(0);
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int m = blockIdx.y * kTile + warp_m + lane / 4 + i / 2 * 8;
      const int n = blockIdx.x * kTile + warp_n + 8 * j + lane % 4 * 2 + i % 2;
      if (m < p.M && n < p.N) p.d[static_cast<int64_t>(m) * p.N + n] = d[j][i];
    }
  }
}

}  // namespace test_kernels

using namespace test_kernels;

// dtype 0: float16, 1: bfloat16, 2: float32 in TF32. K in elements, a multiple of a chunk's.
FOR_CTYPES run_gemm(int dtype, const void* a, const void* b, float* d, int M, int N, int K,
                    int bug) {
  const GemmParams p{static_cast<const char*>(a), static_cast<const char*>(b), d, M, N,
                     K * (dtype == 2 ? 4 : 2),    static_cast<Bug>(bug)};
  void (*const kernel)(GemmParams) =
      dtype == 0 ? gemm<__half> : (dtype == 1 ? gemm<__nv_bfloat16> : gemm<float>);
  const dim3 grid((N + kTile - 1) / kTile, (M + kTile - 1) / kTile);
  return launch(kernel, grid, kThreads, sizeof(Shared), p);
}
