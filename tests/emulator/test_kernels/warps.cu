// Kernels about warps: fragments of the matrix units, shuffles, votes.
#include "launch.h"

namespace test_kernels {

__global__ void mma_fragments(int dtype, const uint32_t (*a)[4], const uint32_t (*b)[2],
                              float (*d)[4]) {
  const int lane = threadIdx.x;
  if (dtype == 0) emulator::mma_m16n8k16_f16(d[lane], a[lane], b[lane]);
  if (dtype == 1) emulator::mma_m16n8k16_bf16(d[lane], a[lane], b[lane]);
  if (dtype == 2) emulator::mma_m16n8k8_tf32(d[lane], a[lane], b[lane]);
}

template <int kCount, bool kTransposed>
__global__ void ldmatrix_fragments(const uint4* x, uint32_t* r) {
  const int lane = threadIdx.x;
  uint4* rows = static_cast<uint4*>(emulator::shared_memory());
  if (lane < 8 * kCount) rows[lane] = x[lane];
  __syncwarp();
  uint32_t mine[kCount];
  const void* nonsense = reinterpret_cast<const void*>(uintptr_t{1});
  emulator::ldmatrix<kCount, kTransposed>(mine, lane < 8 * kCount ? rows + lane : nonsense);
  for (int i = 0; i < kCount; ++i) r[lane * kCount + i] = mine[i];
}

template <class T>
__global__ void shuffles(T* out, int width) {
  const int lane = threadIdx.x;
  const T value = static_cast<T>(lane) + T{0.5};
  T* mine = out + 5 * lane;
  mine[0] = __shfl_sync(~0u, value, 3 * lane, width);
  mine[1] = __shfl_xor_sync(~0u, value, 5, width);
  mine[2] = __shfl_down_sync(~0u, value, 3, width);
  mine[3] = __shfl_up_sync(~0u, value, 3, width);
  // The halves of the warp part; sixteen meetings of each are under way at different times.
  mine[4] = value;
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  for (int i = 0; i < (lane < 16 ? 16 : 3); ++i) mine[4] = __shfl_xor_sync(half, mine[4], 1, 16);
}

__global__ void ballots(unsigned* out) {
  const int lane = threadIdx.x % 32;
  unsigned* mine = out + 4 * threadIdx.x;
  mine[0] = __ballot_sync(~0u, lane % 3 == 0);
  mine[1] = __any_sync(~0u, lane == 7) * 10 + __any_sync(~0u, 0);
  mine[2] = __all_sync(~0u, 1) * 10 + __all_sync(~0u, lane != 7);
  mine[3] = lane < 8 ? __ballot_sync(0xff, lane % 2) : __ballot_sync(~0xffu, lane % 2);
}

// Lanes exchange values through shared memory. A shuffle between them orders nothing.
__global__ void exchange(float* out, bool forgets_syncwarp) {
  float* shared = static_cast<float*>(emulator::shared_memory());
  const int lane = threadIdx.x;
  shared[lane] = static_cast<float>(lane);
  if (forgets_syncwarp) {
    __shfl_xor_sync(~0u, lane, 1);
  } else {
    __syncwarp();
  }
  out[lane] = shared[31 - lane];
}

__global__ void many_mma(int count, float* out) {
  float d[8][4] = {};
  const uint32_t a[4] = {0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00};
  const uint32_t b[2] = {0x3c003c00, 0x3c003c00};
  for (int i = 0; i < count; ++i) emulator::mma_m16n8k16_f16(d[i % 8], a, b);
  out[blockIdx.x * blockDim.x + threadIdx.x] = d[0][0];
}

}  // namespace test_kernels

using namespace test_kernels;

FOR_CTYPES run_mma(int dtype, const uint32_t (*a)[4], const uint32_t (*b)[2], float (*d)[4]) {
  return launch(mma_fragments, 1, 32, 0, dtype, a, b, d);
}
FOR_CTYPES run_ldmatrix(int count, int transposed, const uint4* x, uint32_t* r) {
  void (*const kernels[3][2])(const uint4*, uint32_t*) = {
      {ldmatrix_fragments<1, false>, ldmatrix_fragments<1, true>},
      {ldmatrix_fragments<2, false>, ldmatrix_fragments<2, true>},
      {ldmatrix_fragments<4, false>, ldmatrix_fragments<4, true>}};
  return launch(kernels[count / 2][transposed], 1, 32, 8 * 16 * count, x, r);
}
FOR_CTYPES run_shuffles_float(float* out, int width) {
  return launch(shuffles<float>, 1, 32, 0, out, width);
}
FOR_CTYPES run_shuffles_double(double* out, int width) {
  return launch(shuffles<double>, 1, 32, 0, out, width);
}
FOR_CTYPES run_ballots(unsigned* out, int threads) { return launch(ballots, 1, threads, 0, out); }
FOR_CTYPES run_exchange(float* out, int forgets_syncwarp) {
  return launch(exchange, 1, 32, 128, out, forgets_syncwarp != 0);
}
FOR_CTYPES run_many_mma(int blocks, int threads, int count, float* out) {
  return launch(many_mma, blocks, threads, 0, count, out);
}
