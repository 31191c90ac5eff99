// Average pooling.
//   fwd: y[p,q]  = sum over the window of x / divisor(p, q)
//   bwd: dx[h,w] = sum over the windows (p,q) that hold (h,w) of dy[p,q] / divisor(p, q)
// with divisor(p, q) = extent_h(p) * extent_w(q), or one number for all windows. fwd is the kernel
// of pool2d_reduce.cuh with the reduction Mean.
//
// bwd gathers: one thread sums all that an element of dx receives, so atomics are not needed. A
// thread owns kVector adjacent channels (16-byte accesses) or one element, and params.rows rows of
// dx below one another; adjacent threads take adjacent channels or columns. What they read of dy
// more than once comes from L1.
//
// The backward of one window over whole planes of a contiguous dx has a kernel of its own: every
// thread stores 16 bytes, whatever the planes' size.
//
// Bound: bytes, (x + y) * sizeof(T) either way. FLOPs: R * S per element of y.
#pragma once

#include "cuda/kernels/pool/pool2d_reduce.cuh"

namespace fastconv::cuda {

struct Mean {
  template <typename A>
  using State = A;

  template <typename A>
  __device__ static void init(A& sum) {
    sum = 0;
  }
  template <typename A>
  __device__ static void take(A& sum, A value, int) {
    sum += value;
  }
  template <typename A>
  __device__ static void merge(A& sum, A other) {
    sum += other;
  }
  template <typename T, typename A, int kVector>
  __device__ static void store(const PoolParams& params, const A (&sums)[kVector], int64_t n,
                               int64_t c, int64_t p, int64_t q, const PoolWindow<int>& rows,
                               const PoolWindow<int>& columns) {
    const A divisor = params.divisor != 0
                          ? static_cast<A>(params.divisor)
                          : static_cast<A>(rows.extent) * static_cast<A>(columns.extent);
    Vector<T, kVector> y;
#pragma unroll
    for (int v = 0; v < kVector; ++v) y.v[v] = from_accumulator<T>(sums[v] / divisor);
    store_global(params.y.at<T>(n, c, p, q), y);
  }
};

template <typename T, int kVector>
__global__ void __launch_bounds__(kPoolThreads, 4)
    pool2d_avg_bwd(const __grid_constant__ PoolParams params) {
  using A = accumulator_t<T>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (index >= params.grid.size()) return;
  const GridPosition at = params.grid.at(index);
  const int64_t c = at.c * kVector;
  const PoolCover<int> columns = params.w.cover(at.w);
  const T* const dy = params.y.at<const T>(at.n, c, 0, columns.first);
  T* dx = params.x.at<T>(at.n, c, at.h * params.rows, at.w);

  const int64_t first = at.h * params.rows;
  const int64_t end = min_of(first + params.rows, params.h.x_size);
  for (int64_t h = first; h < end; ++h, dx += params.x.strides.h) {
    const PoolCover<int> rows = params.h.cover(h);
    A sums[kVector] = {};
    for (int i = 0; i < rows.count; ++i) {
      const int64_t p = rows.first + i;
      const A extent_h = params.divisor != 0 ? static_cast<A>(params.divisor)
                                             : static_cast<A>(params.h.window(p).extent);
      const T* from = dy + p * params.y.strides.h;
#pragma unroll 2
      for (int j = 0; j < columns.count; ++j, from += params.y.strides.w) {
        const A extent_w =
            params.divisor != 0 ? A(1) : static_cast<A>(params.w.window(columns.first + j).extent);
        const A scale = A(1) / (extent_h * extent_w);
        const Vector<T, kVector> values = load_vector<T, kVector>(from);
#pragma unroll
        for (int v = 0; v < kVector; ++v) sums[v] += to_accumulator(values.v[v]) * scale;
      }
    }
    Vector<T, kVector> result;
#pragma unroll
    for (int v = 0; v < kVector; ++v) result.v[v] = from_accumulator<T>(sums[v]);
    store_global(dx, result);
  }
}

// A plane here is the H * W elements of dx that share one element of dy.
struct PoolGlobalParams {
  void* dx = nullptr;                         // contiguous planes
  const void* dy = nullptr;                   // one element a plane, dy_step apart
  int64_t dy_step = 1, plane = 1, total = 0;  // elements of a plane, and of dx
  Divider by_plane;
  double divisor = 1;
};

template <typename T>
__global__ void __launch_bounds__(kPoolThreads, 4)
    pool2d_avg_bwd_global(const __grid_constant__ PoolGlobalParams params) {
  using A = accumulator_t<T>;
  constexpr int kVector = kVectorSize<T>;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x) * kVector;
  if (first >= params.total) return;
  const A scale = A(1) / static_cast<A>(params.divisor);
  int64_t within;
  const int64_t plane = params.by_plane.divmod(first, within);
  const T* dy = static_cast<const T*>(params.dy) + plane * params.dy_step;
  T* const dx = static_cast<T*>(params.dx) + first;
  const int count = static_cast<int>(min_of<int64_t>(kVector, params.total - first));

  Vector<T, kVector> result;
  T value = from_accumulator<T>(to_accumulator(*dy) * scale);
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    result.v[v] = value;
    if (++within == params.plane && v + 1 < count) {
      within = 0;
      dy += params.dy_step;
      value = from_accumulator<T>(to_accumulator(*dy) * scale);
    }
  }
  if (count == kVector) {
    store_global(dx, result);
  } else {
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (v < count) dx[v] = result.v[v];
    }
  }
}

}  // namespace fastconv::cuda
