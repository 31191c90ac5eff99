// Pooling forward for windows of any kind: y[n,c,p,q] = reduction over the window's elements of x.
//
// Mapping: a thread owns kVector adjacent channels (channels_last, 16-byte loads) or one element
// (any strides; adjacent threads then take adjacent columns) of params.rows rows of y, one after
// the other. Windows overlap, but neighbours run in the same block: what they share comes from L1.
// Where windows are long, or threads few (global pooling), lanes_h x lanes_w threads share one
// window and join their results in shared memory, in the order of a tree that never changes:
//     lanes_w ->  t0 t1 t2 t3 t0 t1 t2 ...     row r of the window; rows go to lanes_h likewise
//
// Bound: bytes: (x + y) * sizeof(T), and places where wanted. FLOPs: R * S per element of y.
#pragma once

#include "cuda/device/shared_memory.cuh"
#include "cuda/kernels/pool/pool2d_windows.cuh"

namespace fastconv::cuda {

template <typename State, int kVector>
struct PoolSharedStates {
  State states[kVector][kPoolThreads];
};

// Merges the states of the `lanes` lanes of each window, which are `step` threads apart, into that
// of its first lane. Every thread of the block must call it.
template <typename Reduction, typename State, int kVector>
__device__ __forceinline__ void merge_lanes(State (&states)[kVector], int lanes, int step,
                                            int lane) {
  auto& shared = shared_storage<PoolSharedStates<State, kVector>>();
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int v = 0; v < kVector; ++v) shared.states[v][thread] = states[v];
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        Reduction::merge(shared.states[v][thread], shared.states[v][thread + half * step]);
      }
    }
  }
#pragma unroll
  for (int v = 0; v < kVector; ++v) states[v] = shared.states[v][thread];
}

// Reduction has State<A>; init, take (one element, in the order of taps), merge (of two lanes) and
// store (the states of kVector channels).
template <typename Reduction, typename T, int kVector>
__global__ void __launch_bounds__(kPoolThreads, 4)
    pool2d_reduce(const __grid_constant__ PoolParams params) {
  using State = typename Reduction::template State<accumulator_t<T>>;
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = params.lanes_h * params.lanes_w, owners = kPoolThreads / lanes;
  // Adjacent threads are to read adjacent addresses. They are the lanes of one window where columns
  // are adjacent, and the same lane of several windows where channels are.
  const bool across = params.grid.channels_fastest();
  const int lane = across ? thread / owners : thread & (lanes - 1);
  const int owner = across ? thread & (owners - 1) : thread / lanes;
  const int lane_h = lane / params.lanes_w, lane_w = lane & (params.lanes_w - 1);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * owners + owner;
  const bool owns = index < params.grid.size();
  if (!owns && lanes == 1) return;

  const GridPosition at = params.grid.at(owns ? index : 0);
  const int64_t c = at.c * kVector;
  const PoolWindow<int> columns = params.w.window(at.w);
  const int64_t step = params.x.strides.w * params.w.dilation * params.lanes_w;
  const T* const x = params.x.at<const T>(at.n, c, 0, columns.begin) +
                     params.x.strides.w * params.w.dilation * lane_w;
  const int64_t first = at.h * params.rows;
  const int64_t end = min_of(first + params.rows, params.h.y_size);
  for (int64_t p = first; p < end; ++p) {
    const PoolWindow<int> rows = params.h.window(p);
    State states[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) Reduction::init(states[v]);
    for (int r = lane_h; r < rows.count; r += params.lanes_h) {
      const T* from = x + (rows.begin + r * params.h.dilation) * params.x.strides.h;
#pragma unroll 4
      for (int s = lane_w; s < columns.count; s += params.lanes_w, from += step) {
        const Vector<T, kVector> values = load_vector<T, kVector>(from);
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          Reduction::take(states[v], to_accumulator(values.v[v]), r * params.pitch + s);
        }
      }
    }
    if (lanes > 1) {
      merge_lanes<Reduction>(states, lanes, across ? owners : 1, lane);
      if (!owns || lane != 0) return;  // rows is 1, so no barrier follows
    }
    Reduction::template store<T>(params, states, at.n, c, p, at.w, rows, columns);
  }
}

}  // namespace fastconv::cuda
