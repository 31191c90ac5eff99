// Kernels about blocks: shared memory, barriers, races, limits of a launch.
#include "launch.h"

namespace test_kernels {

constexpr int kThreads = 64;

enum TileBug { kNone, kMissingBarrier, kSharedOverrun, kGlobalOverrun };

// Each block reverses its tile through shared memory.
__global__ void reverse_tiles(const float* x, float* y, int bug) {
  float* tile = static_cast<float*>(emulator::shared_memory());
  const unsigned t = threadIdx.x, first = blockIdx.x * kThreads;
  tile[bug == kSharedOverrun ? t + 1 : t] = x[first + t];
  if (bug != kMissingBarrier) __syncthreads();
  y[first + t + (bug == kGlobalOverrun ? 1 : 0)] = tile[kThreads - 1 - t];
}

__global__ void sum_blocks(const float* x, float* y, bool every_block_writes_first) {
  float* partial = static_cast<float*>(emulator::shared_memory());
  float value = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(~0u, value, delta);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) sum += partial[i];
  y[every_block_writes_first ? 0 : blockIdx.x] = sum;
}

// How many threads of lower rank had run when each thread reached the first barrier.
__global__ void arrival_order(int* order) {
  int* count = static_cast<int*>(emulator::shared_memory());
  if (threadIdx.x == 0 && blockIdx.x == 0) order[0] = 0;
  __syncthreads();
  *count = 0;
  __syncthreads();
  order[blockIdx.x * blockDim.x + threadIdx.x] = (*count)++;
}

__global__ void votes(int* out) {
  const int t = threadIdx.x;
  int* mine = out + 4 * t;
  mine[0] = __syncthreads_or(t == 5);
  mine[1] = __syncthreads_or(0);
  mine[2] = 10 * __syncthreads_and(t >= 0) + __syncthreads_and(t != 5);
  mine[3] = __syncthreads_count(t < 7);
}

__global__ void indices(int* out) {
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] += block * threads + thread;
}

// A thread that ends early takes no part in the barriers of the others.
__global__ void early_exit(int* out) {
  if (threadIdx.x % 3 == 0) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void poison(unsigned* out) {
  out[threadIdx.x] = static_cast<unsigned*>(emulator::shared_memory())[threadIdx.x];
}

__global__ void nothing() {}

__global__ void barriers(int count) {
  for (int i = 0; i < count; ++i) __syncthreads();
}

struct Many {
  int values[64];
};
__global__ void copied_arguments(Many many, int* out) {
  many.values[threadIdx.x] += 1;  // of this thread's own copy
  int sum = 0;
  for (int value : many.values) sum += value;
  out[threadIdx.x] = sum;
}

}  // namespace test_kernels

using namespace test_kernels;

FOR_CTYPES run_reverse_tiles(const float* x, float* y, int blocks, int bug) {
  return launch(reverse_tiles, blocks, kThreads, kThreads * sizeof(float), x, y, bug);
}
FOR_CTYPES run_sum_blocks(const float* x, float* y, int blocks, int threads, int all_first) {
  return launch(sum_blocks, blocks, threads, 128, x, y, all_first != 0);
}
FOR_CTYPES run_arrival_order(int* order, int blocks, int threads) {
  return launch(arrival_order, blocks, threads, sizeof(int), order);
}
FOR_CTYPES run_votes(int* out, int threads) { return launch(votes, 1, threads, 0, out); }
FOR_CTYPES run_indices(int* out) { return launch(indices, {3, 2, 2}, {4, 3, 5}, 0, out); }
FOR_CTYPES run_early_exit(int* out, int threads) { return launch(early_exit, 1, threads, 0, out); }
FOR_CTYPES run_poison(unsigned* out, int threads) {
  return launch(poison, 1, threads, threads * sizeof(unsigned), out);
}
FOR_CTYPES run_barriers(int blocks, int threads, int count) {
  return launch(barriers, blocks, threads, 0, count);
}
FOR_CTYPES run_copied_arguments(int* out) {
  Many many;
  for (int i = 0; i < 64; ++i) many.values[i] = i;
  return launch(copied_arguments, 1, 64, 0, many, out);
}
FOR_CTYPES run_limits(unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, size_t shared_bytes, int opt_in) {
  const cudaError_t status =
      cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, opt_in);
  if (status != cudaSuccess) return status;
  return launch(nothing, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes);
}
FOR_CTYPES take_last_error() { return cudaGetLastError(); }
