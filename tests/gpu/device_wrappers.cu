// Each wrapper of csrc/cuda/device on its own, for tests/gpu/test_device_wrappers.py: compiled by
// nvcc, where the inline PTX runs on a GPU, and by the emulator, where the host twins do. Every
// function for ctypes takes addresses, waits for its kernel and returns CUDA's status.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/cp_async.cuh"
#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/ldmatrix.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/numeric.cuh"
#include "cuda/device/packed_compare.cuh"
#include "cuda/device/shared_memory.cuh"
#include "cuda/device/thread_index.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/launch/launch.h"

#define FOR_CTYPES extern "C" __attribute__((visibility("default"))) int

namespace fastconv::cuda {

constexpr int kLanes = 32;
constexpr int kThreads = 128;

template <typename Params>
int run(void (*kernel)(Params), dim3 grid, unsigned threads, size_t shared, const Params& params) {
  const cudaError_t status = launch(kernel, grid, threads, shared, nullptr, params);
  return status == cudaSuccess ? cudaDeviceSynchronize() : status;
}

// d += a * b, one warp a block; each lane's registers as they lie in memory.
struct MmaParams {
  const uint32_t* a;
  const uint32_t* b;
  float* d;
};

template <typename T>
__global__ void __launch_bounds__(kLanes) wrapper_mma(const __grid_constant__ MmaParams p) {
  const int lane = static_cast<int>(blockIdx.x) * kLanes + static_cast<int>(threadIdx.x);
  uint32_t a[4], b[2];
  float d[4];
  for (int i = 0; i < 4; ++i) a[i] = p.a[4 * lane + i];
  for (int i = 0; i < 2; ++i) b[i] = p.b[2 * lane + i];
  for (int i = 0; i < 4; ++i) d[i] = p.d[4 * lane + i];
  mma<T>(d, a, b);
  for (int i = 0; i < 4; ++i) p.d[4 * lane + i] = d[i];
}

// Four 8x8 matrices, 32 rows of 16 bytes, into the lanes' registers.
struct LdmatrixParams {
  const uint4* rows;
  uint32_t* registers;
};

template <bool kTransposed>
__global__ void __launch_bounds__(kLanes)
    wrapper_ldmatrix(const __grid_constant__ LdmatrixParams p) {
  struct Storage {
    uint4 rows[kLanes];
  };
  auto& shared = shared_storage<Storage>();
  const int lane = static_cast<int>(threadIdx.x);
  shared.rows[lane] = p.rows[lane];
  __syncthreads();
  uint32_t r[4];
  if constexpr (kTransposed) {
    ldmatrix_transposed(r, &shared.rows[lane]);
  } else {
    ldmatrix(r, &shared.rows[lane]);
  }
  for (int i = 0; i < 4; ++i) p.registers[4 * lane + i] = r[i];
}

// Each thread copies one chunk in each of two groups. After the wait for a group and a barrier it
// reads the chunk that the next thread copied.
template <typename Chunk>
struct CopyParams {
  const Chunk* source;   // (2, kThreads)
  const int32_t* valid;  // (2, kThreads)
  Chunk* out;            // (2, kThreads)
};

template <typename Chunk>
__global__ void __launch_bounds__(kThreads)
    wrapper_cp_async(const __grid_constant__ CopyParams<Chunk> p) {
  struct Storage {
    Chunk chunks[2][kThreads];
  };
  auto& shared = shared_storage<Storage>();
  const int thread = static_cast<int>(threadIdx.x);
  const int next = (thread + 1) % kThreads;
  for (int group = 0; group < 2; ++group) {
    const int i = group * kThreads + thread;
    if constexpr (sizeof(Chunk) == 16) {
      cp_async_16(&shared.chunks[group][thread], p.source + i, p.valid[i] != 0);
    } else {
      cp_async_4(&shared.chunks[group][thread], p.source + i, p.valid[i] != 0);
    }
    cp_async_commit();
  }
  cp_async_wait<1>();
  __syncthreads();
  p.out[thread] = shared.chunks[0][next];
  cp_async_wait<0>();
  __syncthreads();
  p.out[kThreads + thread] = shared.chunks[1][next];
}

struct ConvertParams {
  const float* x;
  uint32_t* tf32;
  __half* half;
  __nv_bfloat16* bfloat16;
  float* from_half;  // and back
  float* from_bfloat16;
  int64_t count;
};

__global__ void __launch_bounds__(kThreads)
    wrapper_convert(const __grid_constant__ ConvertParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.count) return;
  p.tf32[i] = round_to_tf32(p.x[i]);
  p.half[i] = from_accumulator<__half>(p.x[i]);
  p.bfloat16[i] = from_accumulator<__nv_bfloat16>(p.x[i]);
  p.from_half[i] = to_accumulator(p.half[i]);
  p.from_bfloat16[i] = to_accumulator(p.bfloat16[i]);
}

struct DivmodParams {
  FastDivmod divisor;
  const uint32_t* n;
  uint32_t* quotient;
  uint32_t* remainder;
  int64_t count;
};

__global__ void __launch_bounds__(kThreads) wrapper_divmod(const __grid_constant__ DivmodParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.count) return;
  uint32_t remainder;
  p.quotient[i] = p.divisor.divmod(p.n[i], remainder);
  p.remainder[i] = remainder;
}

// Each thread reads one vector of halves and writes it in reverse.
struct VectorParams {
  const __half* x;
  __half* y;
};

template <int kCount>
__global__ void __launch_bounds__(kThreads) wrapper_vector(const __grid_constant__ VectorParams p) {
  const int first = static_cast<int>(threadIdx.x) * kCount;
  const auto x = load_vector<__half, kCount>(p.x + first);
  Vector<__half, kCount> y;
  for (int i = 0; i < kCount; ++i) y.v[i] = x.v[kCount - 1 - i];
  store_global(p.y + first, y);  // inline PTX for 16 bytes, else store_vector
}

// Pairs of 16-bit numbers: masks of a > b and of NaN in a.
struct PackedParams {
  const uint32_t* a;
  const uint32_t* b;
  uint32_t* greater;
  uint32_t* is_nan;
  int64_t count;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) wrapper_packed(const __grid_constant__ PackedParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.count) return;
  p.greater[i] = packed_greater<T>(p.a[i], p.b[i]);
  p.is_nan[i] = packed_is_nan<T>(p.a[i]);
}

}  // namespace fastconv::cuda

namespace fc = fastconv::cuda;

// dtype: 0 float16, 1 bfloat16, 2 TF32
FOR_CTYPES run_mma(int dtype, int warps, const uint32_t* a, const uint32_t* b, float* d) {
  const fc::MmaParams params{a, b, d};
  const dim3 grid(static_cast<unsigned>(warps));
  if (dtype == 0) return fc::run(fc::wrapper_mma<__half>, grid, fc::kLanes, 0, params);
  if (dtype == 1) return fc::run(fc::wrapper_mma<__nv_bfloat16>, grid, fc::kLanes, 0, params);
  return fc::run(fc::wrapper_mma<fc::tf32_t>, grid, fc::kLanes, 0, params);
}

FOR_CTYPES run_ldmatrix(int transposed, const uint4* rows, uint32_t* registers) {
  const fc::LdmatrixParams params{rows, registers};
  const auto kernel = transposed ? fc::wrapper_ldmatrix<true> : fc::wrapper_ldmatrix<false>;
  return fc::run(kernel, dim3(1), fc::kLanes, 16 * fc::kLanes, params);
}

FOR_CTYPES run_cp_async_16(const uint4* source, const int32_t* valid, uint4* out) {
  const fc::CopyParams<uint4> params{source, valid, out};
  return fc::run(fc::wrapper_cp_async<uint4>, dim3(1), fc::kThreads, 2 * 16 * fc::kThreads, params);
}

FOR_CTYPES run_cp_async_4(const uint32_t* source, const int32_t* valid, uint32_t* out) {
  const fc::CopyParams<uint32_t> params{source, valid, out};
  const size_t shared = 2 * 4 * fc::kThreads;
  return fc::run(fc::wrapper_cp_async<uint32_t>, dim3(1), fc::kThreads, shared, params);
}

FOR_CTYPES run_convert(int64_t count, const float* x, uint32_t* tf32, __half* half,
                       __nv_bfloat16* bfloat16, float* from_half, float* from_bfloat16) {
  const fc::ConvertParams params{x, tf32, half, bfloat16, from_half, from_bfloat16, count};
  const dim3 grid(static_cast<unsigned>(fastconv::div_up<int64_t>(count, fc::kThreads)));
  return fc::run(fc::wrapper_convert, grid, fc::kThreads, 0, params);
}

FOR_CTYPES run_divmod(uint32_t divisor, int64_t count, const uint32_t* n, uint32_t* quotient,
                      uint32_t* remainder) {
  const fc::DivmodParams params{fc::FastDivmod(divisor), n, quotient, remainder, count};
  const dim3 grid(static_cast<unsigned>(fastconv::div_up<int64_t>(count, fc::kThreads)));
  return fc::run(fc::wrapper_divmod, grid, fc::kThreads, 0, params);
}

FOR_CTYPES run_vector(int size, const __half* x, __half* y) {
  const fc::VectorParams params{x, y};
  if (size == 8) return fc::run(fc::wrapper_vector<8>, dim3(1), fc::kThreads, 0, params);
  if (size == 4) return fc::run(fc::wrapper_vector<4>, dim3(1), fc::kThreads, 0, params);
  return fc::run(fc::wrapper_vector<2>, dim3(1), fc::kThreads, 0, params);
}

// dtype: 0 float16, 1 bfloat16
FOR_CTYPES run_packed(int dtype, int64_t count, const uint32_t* a, const uint32_t* b,
                      uint32_t* greater, uint32_t* is_nan) {
  const fc::PackedParams params{a, b, greater, is_nan, count};
  const dim3 grid(static_cast<unsigned>(fastconv::div_up<int64_t>(count, fc::kThreads)));
  const auto kernel = dtype == 0 ? fc::wrapper_packed<__half> : fc::wrapper_packed<__nv_bfloat16>;
  return fc::run(kernel, grid, fc::kThreads, 0, params);
}
