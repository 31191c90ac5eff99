// Kernels for tests/gates/test_static_gates.py. The first is as it should be, conv2d_fprop_stem has
// a loop to measure, each other one breaks one gate.
#include <cstdint>

#include "cuda/device/mma.cuh"
#include "cuda/device/vector.cuh"

namespace fastconv::cuda {

struct FixtureParams {
  float* x;
  int n;
};

template <typename Config>
struct FixtureVectorGather {
  using Value = Vector<float, 4>;
  __device__ static float load(const float* x) {
    const Value v = load_vector<float, 4>(x + 4 * threadIdx.x);
    return v.v[0] + v.v[1] + v.v[2] + v.v[3];
  }
};

template <typename Config>
struct FixtureVectorGatherNarrow {
  __device__ static float load(const float* x) { return x[threadIdx.x]; }
};

// As it should be: bounds, HMMA, 16-byte loads.
template <typename VectorGather>
__global__ void __launch_bounds__(128)
    conv2d_implicit_gemm(const __grid_constant__ FixtureParams p) {
  float d[4] = {};
  const uint32_t a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {4, 5};
  mma<__half>(d, a, b);
  p.x[threadIdx.x] = d[0] + d[1] + d[2] + d[3] + VectorGather::load(p.x);
}

// Its main loop has four FMAs, and a fourfold chain of other work for each kExtra.
template <int kExtra>
__global__ void __launch_bounds__(128) conv2d_fprop_stem(const __grid_constant__ FixtureParams p) {
  float sums[4] = {};
  uint32_t noise = threadIdx.x;
#pragma unroll 1
  for (int i = 0; i < p.n; ++i) {
    const float x = p.x[i * 128 + threadIdx.x];
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[j] = sums[j] * x + 1;
#pragma unroll
    for (int j = 0; j < kExtra * 4; ++j) noise = (noise ^ (noise >> 5)) + 7;
  }
  p.x[threadIdx.x] = sums[0] + sums[1] + sums[2] + sums[3] + noise;
}

// A register array with a run-time index lives in local memory.
__global__ void __launch_bounds__(128)
    conv2d_gather_direct(const __grid_constant__ FixtureParams p) {
  float sums[64];
  for (int i = 0; i < 64; ++i) sums[i] = p.x[i * 128 + threadIdx.x];
  for (int i = 0; i < p.n; ++i) sums[(i * p.n) & 63] += p.x[i];
  for (int i = 0; i < 64; ++i) p.x[i * 128 + threadIdx.x] = sums[i];
}

__global__ void __launch_bounds__(128)
    conv2d_wgrad_implicit_gemm(const __grid_constant__ FixtureParams p) {
  p.x[threadIdx.x] *= 2;  // no HMMA
}

__global__ void pool2d_unbounded(const __grid_constant__ FixtureParams p) { p.x[threadIdx.x] = 0; }

// Many values alive at a time.
__global__ void __launch_bounds__(128) pool2d_hungry(const __grid_constant__ FixtureParams p) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = p.x[i * 128 + threadIdx.x];
#pragma unroll
  for (int i = 0; i < 96; ++i) p.x[i * 128 + threadIdx.x] = v[95 - i];
}

__global__ void __launch_bounds__(128) nobody(const __grid_constant__ FixtureParams p) {
  p.x[threadIdx.x] = 0;
}

template __global__ void conv2d_fprop_stem<0>(const __grid_constant__ FixtureParams);
template __global__ void conv2d_fprop_stem<2>(const __grid_constant__ FixtureParams);
template __global__ void conv2d_implicit_gemm<FixtureVectorGather<int>>(
    const __grid_constant__ FixtureParams);
template __global__ void conv2d_implicit_gemm<FixtureVectorGatherNarrow<int>>(
    const __grid_constant__ FixtureParams);

}  // namespace fastconv::cuda
