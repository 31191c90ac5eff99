// Max pooling for windows of any kind; pool2d_max_tiles.cuh has the two that networks use most.
// The rule is torch's: elements pass by row after row, and one replaces the maximum where (v > m)
// or v is NaN. The place of the maximum is thus that of the first maximum or of the last NaN, and
// in a window of nothing but -inf it is the first position.
//   fwd: y[p,q] = max over the window of x, and its place
//   bwd: dx[h,w] = sum of dy[p,q] over the windows (p,q) that have their maximum at (h,w)
// fwd is the kernel of pool2d_reduce.cuh with the reduction Maximum.
//
// Places are stored as int64 indices h * W + w where the caller asked for them, and otherwise as
// int8 offsets r * S + s within the window, an eighth of the bytes.
//
// bwd gathers: one thread sums all that an element of dx receives, so atomics are not needed, and a
// wrong index writes nowhere. A thread owns kVector adjacent channels (16-byte accesses) or one
// element, and params.rows rows of dx below one another; adjacent threads take adjacent channels or
// columns.
//
// Bound: bytes, (x + y) * sizeof(T) + y * (1 or 8) either way. Comparisons: R * S per element of y.
#pragma once

#include <type_traits>

#include "cuda/kernels/pool/pool2d_reduce.cuh"

namespace fastconv::cuda {

// h * W + w of tap (r, s), counted from the first tap in the tensor.
__device__ __forceinline__ int64_t pool_index(const PoolParams& params, const PoolWindow<int>& rows,
                                              const PoolWindow<int>& columns, int r, int s) {
  return (rows.begin + r * params.h.dilation) * params.index_w + columns.begin +
         s * params.w.dilation;
}

template <int kVector>
__device__ __forceinline__ void store_offsets(int8_t* address, const int (&offsets)[kVector]) {
  Vector<int8_t, kVector> packed;
#pragma unroll
  for (int v = 0; v < kVector; ++v) packed.v[v] = static_cast<int8_t>(offsets[v]);
  store_global(address, packed);
}

// Vectors of int64 are longer than 16 bytes, the widest access, and move in pieces of that.
template <int kVector>
__device__ __forceinline__ void store_indices(int64_t* address, const int64_t (&indices)[kVector]) {
  constexpr int kPiece = kVector % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int v = 0; v < kVector; v += kPiece) {
    Vector<int64_t, kPiece> piece;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) piece.v[i] = indices[v + i];
    store_global(address + v, piece);
  }
}

template <int kVector>
__device__ __forceinline__ void load_indices(const int64_t* address, int64_t (&indices)[kVector]) {
  constexpr int kPiece = kVector % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int v = 0; v < kVector; v += kPiece) {
    const Vector<int64_t, kPiece> piece = load_vector<int64_t, kPiece>(address + v);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) indices[v + i] = piece.v[i];
  }
}

struct Maximum {
  template <typename A>
  struct State {
    A value;
    int tap;
  };

  template <typename A>
  __device__ static void init(State<A>& max) {
    max.value = -static_cast<A>(HUGE_VAL);
    max.tap = 0;
  }
  template <typename A>
  __device__ static void take(State<A>& max, A value, int tap) {
    const bool takes = value > max.value || value != value;
    max.value = takes ? value : max.value;
    max.tap = takes ? tap : max.tap;
  }
  template <typename A>
  __device__ static void merge(State<A>& max, const State<A>& other) {
    const bool later = other.tap > max.tap;
    const bool is_nan = max.value != max.value;
    const bool takes = other.value != other.value
                           ? !is_nan || later
                           : other.value > max.value || (other.value == max.value && !later);
    if (takes) max = other;
  }
  template <typename T, typename A, int kVector>
  __device__ static void store(const PoolParams& params, const State<A> (&maxima)[kVector],
                               int64_t n, int64_t c, int64_t p, int64_t q,
                               const PoolWindow<int>& rows, const PoolWindow<int>& columns) {
    Vector<T, kVector> y;
#pragma unroll
    for (int v = 0; v < kVector; ++v) y.v[v] = from_accumulator<T>(maxima[v].value);
    store_global(params.y.at<T>(n, c, p, q), y);
    if (params.places.data == nullptr) return;

    if (params.offsets) {
      const bool nothing = rows.count == 0 || columns.count == 0;
      const int S = static_cast<int>(params.w.kernel);
      const int before = rows.skipped * S + columns.skipped;
      int offsets[kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const int r = static_cast<int>(params.by_pitch.div(maxima[v].tap));
        offsets[v] = nothing ? -1 : before + r * S + maxima[v].tap - r * params.pitch;
      }
      store_offsets(params.places.at<int8_t>(n, c, p, q), offsets);
    } else {
      int64_t indices[kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const int r = static_cast<int>(params.by_pitch.div(maxima[v].tap));
        indices[v] = pool_index(params, rows, columns, r, maxima[v].tap - r * params.pitch);
      }
      store_indices(params.places.at<int64_t>(n, c, p, q), indices);
    }
  }
};

// The tap of a window that holds a position, or -1: with dilation some windows of a cover do not.
__device__ __forceinline__ int pool_tap(const PoolAxisParams& axis, int64_t position,
                                        int64_t window) {
  const int64_t distance = position + axis.pad - window * axis.stride;
  const int64_t tap = axis.by_dilation(distance);
  return tap * axis.dilation == distance ? static_cast<int>(tap) : -1;
}

// Which of kVector windows have their maximum at this tap (offsets) or at this index.
template <typename Place, int kVector>
__device__ __forceinline__ void compare_places(const void* places, int64_t at, int offset,
                                               int64_t index, bool (&is_place)[kVector]) {
  if constexpr (std::is_same_v<Place, int8_t>) {
    const auto offsets = load_vector<int8_t, kVector>(static_cast<const int8_t*>(places) + at);
#pragma unroll
    for (int v = 0; v < kVector; ++v) is_place[v] = offsets.v[v] == offset;
  } else {
    int64_t indices[kVector];
    load_indices(static_cast<const int64_t*>(places) + at, indices);
#pragma unroll
    for (int v = 0; v < kVector; ++v) is_place[v] = indices[v] == index;
  }
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kPoolThreads, 4)
    pool2d_max_bwd(const __grid_constant__ PoolParams params) {
  using A = accumulator_t<T>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (index >= params.grid.size()) return;
  const GridPosition at = params.grid.at(index);
  const int64_t c = at.c * kVector, w = at.w;
  const PoolCover<int> columns = params.w.cover(w);
  const T* const dy = params.y.at<const T>(at.n, c, 0, columns.first);
  const Strides& steps = params.places.strides;
  const int64_t first_place = at.n * steps.n + c * steps.c + columns.first * steps.w;
  T* dx = params.x.at<T>(at.n, c, at.h * params.rows, w);

  const int64_t first = at.h * params.rows;
  const int64_t end = min_of(first + params.rows, params.h.x_size);
  for (int64_t h = first; h < end; ++h, dx += params.x.strides.h) {
    const PoolCover<int> rows = params.h.cover(h);
    const int64_t wanted = h * params.index_w + w;
    A sums[kVector] = {};
    for (int64_t p = rows.first; p < rows.first + rows.count; ++p) {
      const T* from = dy + p * params.y.strides.h;
      int64_t place_at = first_place + p * steps.h;
      const int r = params.offsets ? pool_tap(params.h, h, p) : 0;
#pragma unroll 2
      for (int j = 0; j < columns.count; ++j) {
        bool is_place[kVector];
        if (params.offsets) {
          const int s = pool_tap(params.w, w, columns.first + j);
          const int offset = r < 0 || s < 0 ? INT8_MIN : r * static_cast<int>(params.w.kernel) + s;
          compare_places<int8_t>(params.places.data, place_at, offset, wanted, is_place);
        } else {
          compare_places<int64_t>(params.places.data, place_at, 0, wanted, is_place);
        }
        const Vector<T, kVector> values = load_vector<T, kVector>(from);
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          if (is_place[v]) sums[v] += to_accumulator(values.v[v]);
        }
        from += params.y.strides.w;
        place_at += steps.w;
      }
    }
    Vector<T, kVector> result;
#pragma unroll
    for (int v = 0; v < kVector; ++v) result.v[v] = from_accumulator<T>(sums[v]);
    store_global(dx, result);
  }
}

}  // namespace fastconv::cuda
