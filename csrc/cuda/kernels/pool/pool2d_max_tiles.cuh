// Max pooling with the windows that networks use most, known when compiled: 3x3 and 2x2, stride 2.
// Rule, places and bound are those of pool2d_max.cuh.
//
// fwd: a thread owns two elements of y below one another, for kVector adjacent channels
// (channels_last, 16-byte loads) or one channel (any strides, adjacent threads in adjacent
// columns). It reads each row of x once:
//     3x3:  row 0 \                    2x2:  row 0 \ y[p]
//           row 1  | y[p]                    row 1 /
//           row 2 /  \                       row 2 \ y[p + 1]
//           row 3     | y[p + 1]             row 3 /
//           row 4    /
// 16-bit numbers are compared two at a time: adjacent channels, or the two elements of y.
//
// bwd, from int8 offsets: a thread owns a tile of dx of 2 columns and 2 * kTiles rows, and reads dy
// and offset of each window that meets the tile once. Which tap of which window an element is, is
// known when compiled; so is the padding, 0 or 1, on which it depends. Tiles begin at even columns,
// so that one channel's pairs can be stored at once.
#pragma once

#include <type_traits>

#include "cuda/device/packed_compare.cuh"
#include "cuda/kernels/pool/pool2d_max.cuh"

namespace fastconv::cuda {

// A running maximum and its tap.
template <typename T>
struct MaxOfOne {
  static constexpr int kNumbers = 1;
  using Bits = accumulator_t<T>;
  Bits value;
  int tap;

  __device__ __forceinline__ static Bits pack(T value) { return to_accumulator(value); }
  __device__ __forceinline__ void init(int first) {
    value = -static_cast<Bits>(HUGE_VAL);
    tap = first;
  }
  __device__ __forceinline__ void take(Bits other, int other_tap) {
    const bool takes = other > value || other != other;
    value = takes ? other : value;
    tap = takes ? other_tap : tap;
  }
  __device__ __forceinline__ T value_of(int) const { return from_accumulator<T>(value); }
  __device__ __forceinline__ int tap_of(int) const { return tap; }
};

// Two running maxima of 16 bits in one register, and their taps in another.
template <typename T>
struct MaxOfTwo {
  static constexpr int kNumbers = 2;
  uint32_t value, tap;

  __device__ __forceinline__ static uint32_t pack(T low, T high) {
    return static_cast<uint32_t>(*reinterpret_cast<uint16_t*>(&low)) |
           static_cast<uint32_t>(*reinterpret_cast<uint16_t*>(&high)) << 16;
  }
  __device__ __forceinline__ void init(int low, int high) {
    const T infinity = from_accumulator<T>(-static_cast<float>(HUGE_VAL));
    value = pack(infinity, infinity);
    tap = static_cast<uint32_t>(low) | static_cast<uint32_t>(high) << 16;
  }
  __device__ __forceinline__ void take(uint32_t other, int other_tap) {
    const uint32_t takes = packed_greater<T>(other, value) | packed_is_nan<T>(other);
    value = packed_select(takes, other, value);
    tap = packed_select(takes, static_cast<uint32_t>(other_tap) * 0x10001u, tap);
  }
  __device__ __forceinline__ T value_of(int i) const {
    uint16_t bits = static_cast<uint16_t>(value >> (16 * i));
    return *reinterpret_cast<T*>(&bits);
  }
  __device__ __forceinline__ int tap_of(int i) const {
    return static_cast<int>(tap >> (16 * i) & 0xffffu);
  }
};

// The running maxima of a thread's two windows: kVector channels of the upper one, then of the
// lower one, in registers of one or two numbers.
template <typename T, int kVector>
struct MaxStrip {
  static constexpr bool kPairs = sizeof(T) == 2;
  // Whether the two elements of y, rather than adjacent channels, share a register.
  static constexpr bool kPairsStrip = kPairs && kVector == 1;
  using Max = std::conditional_t<kPairs, MaxOfTwo<T>, MaxOfOne<T>>;
  static constexpr int kCount = kPoolStripRows * kVector / Max::kNumbers;
  Max max[kCount];

  // `first`: the first tap of each window that lies in the tensor.
  __device__ __forceinline__ void init(const int (&first)[kPoolStripRows]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if constexpr (kPairsStrip) {
        max[i].init(first[0], first[1]);
      } else if constexpr (kPairs) {
        max[i].init(first[i / (kVector / 2)], first[i / (kVector / 2)]);
      } else {
        max[i].init(first[i / kVector]);
      }
    }
  }
  // One tap of window j; not where both windows share a register.
  __device__ __forceinline__ void take(int j, const Vector<T, kVector>& values, int tap) {
    static_assert(!kPairsStrip);
    constexpr int kRegisters = kCount / kPoolStripRows;
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) {
      if constexpr (kPairs) {
        max[j * kRegisters + i].take(Max::pack(values.v[2 * i], values.v[2 * i + 1]), tap);
      } else {
        max[j * kRegisters + i].take(Max::pack(values.v[i]), tap);
      }
    }
  }
  // The same tap of both windows.
  __device__ __forceinline__ void take(const Vector<T, kVector>& upper,
                                       const Vector<T, kVector>& lower, int tap) {
    if constexpr (kPairsStrip) {
      max[0].take(Max::pack(upper.v[0], lower.v[0]), tap);
    } else {
      take(0, upper, tap);
      take(1, lower, tap);
    }
  }
  __device__ __forceinline__ T value(int j, int v) const {
    const int number = j * kVector + v;
    return max[number / Max::kNumbers].value_of(number % Max::kNumbers);
  }
  __device__ __forceinline__ int tap(int j, int v) const {
    const int number = j * kVector + v;
    return max[number / Max::kNumbers].tap_of(number % Max::kNumbers);
  }
};

template <typename T, int kVector, int kKernel>
__global__ void __launch_bounds__(kPoolThreads, 4)
    pool2d_max_fwd_strip(const __grid_constant__ PoolParams params) {
  constexpr int kRows = (kPoolStripRows - 1) * kPoolTileStride + kKernel;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (index >= params.grid.size()) return;
  const GridPosition at = params.grid.at(index);
  const int64_t c = at.c * kVector;
  const int P = static_cast<int>(params.h.y_size), p = static_cast<int>(at.h) * kPoolStripRows;
  const int H = static_cast<int>(params.h.x_size), W = static_cast<int>(params.w.x_size);
  const int h0 = p * kPoolTileStride - static_cast<int>(params.h.pad);
  const int w0 = static_cast<int>(at.w) * kPoolTileStride - static_cast<int>(params.w.pad);
  const T* const x = params.x.at<const T>(at.n, c, h0, w0);

  Vector<T, kVector> outside;
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    outside.v[v] = from_accumulator<T>(-static_cast<accumulator_t<T>>(HUGE_VAL));
  }
  const auto load_tap = [&](int r, int s) {
    const bool inside = static_cast<unsigned>(h0 + r) < static_cast<unsigned>(H) &&
                        static_cast<unsigned>(w0 + s) < static_cast<unsigned>(W);
    if (!inside) return outside;
    return load_vector<T, kVector>(x + r * params.x.strides.h + s * params.x.strides.w);
  };

  const int s0 = w0 < 0 ? -w0 : 0;
  const int first[kPoolStripRows] = {(h0 < 0 ? -h0 : 0) * kKernel + s0, s0};
  MaxStrip<T, kVector> strip;
  strip.init(first);
  if constexpr (kVector == 1) {  // all loads first: they need few registers
    Vector<T, kVector> taps[kRows][kKernel];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int s = 0; s < kKernel; ++s) taps[r][s] = load_tap(r, s);
    }
    // The lower window has the same tap kPoolTileStride rows further down.
#pragma unroll
    for (int tap = 0; tap < kKernel * kKernel; ++tap) {
      const int r = tap / kKernel, s = tap % kKernel;
      strip.take(taps[r][s], taps[r + kPoolTileStride][s], tap);
    }
  } else {  // row by row: vectors of all rows would need more registers than 32 warps on an SM have
#pragma unroll 1
    for (int r = 0; r < kRows; ++r) {
      Vector<T, kVector> taps[kKernel];
#pragma unroll
      for (int s = 0; s < kKernel; ++s) taps[s] = load_tap(r, s);
#pragma unroll
      for (int s = 0; s < kKernel; ++s) {
        const int lower = r - kPoolTileStride;
        if (r < kKernel) strip.take(0, taps[s], r * kKernel + s);
        if (lower >= 0) strip.take(1, taps[s], lower * kKernel + s);
      }
    }
  }

#pragma unroll
  for (int j = 0; j < kPoolStripRows; ++j) {
    if (p + j >= P) break;
    Vector<T, kVector> y;
    int offsets[kVector];
    int64_t indices[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      y.v[v] = strip.value(j, v);
      offsets[v] = strip.tap(j, v);
      const int r = offsets[v] / kKernel;
      indices[v] = static_cast<int64_t>(h0 + j * kPoolTileStride + r) * params.index_w + w0 +
                   offsets[v] - r * kKernel;
    }
    store_global(params.y.at<T>(at.n, c, p + j, at.w), y);
    if (params.places.data == nullptr) continue;
    if (params.offsets) {
      store_offsets(params.places.at<int8_t>(at.n, c, p + j, at.w), offsets);
    } else {
      store_indices(params.places.at<int64_t>(at.n, c, p + j, at.w), indices);
    }
  }
}

template <typename T, int kVector, int kKernel, int kPad>
__global__ void __launch_bounds__(kPoolThreads, 4)
    pool2d_max_bwd_tile(const __grid_constant__ PoolParams params) {
  using A = accumulator_t<T>;
  constexpr int kRows = kPoolTileRows<(kVector > 1)>, kColumns = kPoolTileColumns;
  constexpr int kTiles = kRows / kPoolTileStride;  // below one another
  // The windows that meet a tile: the first one, relative to the window with the tile's number, and
  // how many there are.
  constexpr int kFirst = kKernel == 3 && kPad == 0 ? -1 : 0;
  constexpr int kWindowRows = kTiles + (kKernel == 3 ? 1 : 0);
  constexpr int kWindowColumns = 1 + (kKernel == 3 ? 1 : 0);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (index >= params.grid.size()) return;
  const GridPosition at = params.grid.at(index);
  const int64_t c = at.c * kVector;
  const int p0 = static_cast<int>(at.h) * kTiles + kFirst, q0 = static_cast<int>(at.w) + kFirst;
  const T* const dy = params.y.at<const T>(at.n, c, p0, q0);
  const int8_t* const places = params.places.at<const int8_t>(at.n, c, p0, q0);

  A sums[kRows][kColumns][kVector] = {};
#pragma unroll
  for (int i = 0; i < kWindowRows; ++i) {
#pragma unroll
    for (int j = 0; j < kWindowColumns; ++j) {
      // No such window: beyond the last one or, as a huge unsigned number, before the first.
      if (static_cast<uint64_t>(p0 + i) >= static_cast<uint64_t>(params.h.y_size) ||
          static_cast<uint64_t>(q0 + j) >= static_cast<uint64_t>(params.w.y_size)) {
        continue;
      }
      const auto values =
          load_vector<T, kVector>(dy + i * params.y.strides.h + j * params.y.strides.w);
      const auto offsets = load_vector<int8_t, kVector>(places + i * params.places.strides.h +
                                                        j * params.places.strides.w);
#pragma unroll
      for (int a = 0; a < kRows; ++a) {
#pragma unroll
        for (int b = 0; b < kColumns; ++b) {
          const int r = a + kPad - 2 * (kFirst + i), s = b + kPad - 2 * (kFirst + j);
          if (r < 0 || r >= kKernel || s < 0 || s >= kKernel) continue;
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            if (offsets.v[v] == r * kKernel + s) sums[a][b][v] += to_accumulator(values.v[v]);
          }
        }
      }
    }
  }

  const int h0 = static_cast<int>(at.h) * kRows, w0 = static_cast<int>(at.w) * kColumns;
#pragma unroll
  for (int a = 0; a < kRows; ++a) {
    if (h0 + a >= params.h.x_size) break;
    T* const dx = params.x.at<T>(at.n, c, h0 + a, w0);
    Vector<T, kVector> results[kColumns];
#pragma unroll
    for (int b = 0; b < kColumns; ++b) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) results[b].v[v] = from_accumulator<T>(sums[a][b][v]);
    }
    if (kVector == 1 && params.paired) {
      store_global(dx, Vector<T, kColumns>{results[0].v[0], results[1].v[0]});
    } else {
      store_global(dx, results[0]);
      if (w0 + 1 < params.w.x_size) store_global(dx + params.x.strides.w, results[1]);
    }
  }
}

}  // namespace fastconv::cuda
