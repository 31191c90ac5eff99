// What the direct kernels share: one tile of a matrix product on the ordinary arithmetic units, and
// which taps of a pixel lie inside of the source (im2col asks that, too).
//
//   sums[m][n] += m[k][m] * n[k][n]        kSlab values of k at a time, operands as accumulators
//
// clang-format off
//            n   kTileN                    A thread owns 4 or 8 x 4 sums: runs of 4 rows, the
//          +-------+                       second half a tile below the first. A warp covers 8 x 4
//     m    | slab  |                       threads, so that each of its reads from shared memory is
//   +----+ +-------+                       one transaction. Two slabs: one is multiplied while the
//   |    | | sums  |                       next is on its way through registers.
//   +----+ +-------+
// clang-format on
#pragma once

#include <climits>

#include "cuda/device/numeric.cuh"
#include "cuda/device/vector.cuh"
#include "problem/gather_axis.h"

namespace fastconv::cuda {

template <typename T_, int kTileM_, int kTileN_, int kThreadM_>
struct DirectTile {
  using T = T_;
  using A = accumulator_t<T>;
  static constexpr int kTileM = kTileM_;
  static constexpr int kTileN = kTileN_;
  static constexpr int kThreadM = kThreadM_;  // 4 or 8
  static constexpr int kThreadN = 4;
  static constexpr int kSlab = sizeof(A) == 8 ? 8 : 16;
  static constexpr int kThreads = (kTileM / kThreadM) * (kTileN / kThreadN);
  static constexpr int kWarpsN = kTileN / 16;
  static constexpr int kRun = 4;                            // adjacent rows of a thread
  static constexpr int kHalf = kTileM / (kThreadM / kRun);  // rows between a thread's runs
  static_assert(kThreads % 32 == 0 && kTileN % 16 == 0 && kHalf % 32 == 0);
};

// The operands of one step: term k of the tile's rows in m[k], of its columns in n[k]. Rows of
// these arrays are padded by 16 bytes: vectors stay aligned, and neighbouring k fall on other
// banks.
template <typename Tile>
struct Slab {
  static constexpr int kPad = kVectorSize<typename Tile::A>;
  alignas(16) typename Tile::A m[Tile::kSlab][Tile::kTileM + kPad];
  alignas(16) typename Tile::A n[Tile::kSlab][Tile::kTileN + kPad];
};

// First row and first column of a thread.
template <typename Tile>
__device__ __forceinline__ int thread_row() {
  return (threadIdx.x / 32 / Tile::kWarpsN * 8 + threadIdx.x % 8) * Tile::kRun;
}
template <typename Tile>
__device__ __forceinline__ int thread_column() {
  return (threadIdx.x / 32 % Tile::kWarpsN * 4 + threadIdx.x % 32 / 8) * Tile::kThreadN;
}

// out[i] = shared[i] for four elements, in vectors.
template <typename A>
__device__ __forceinline__ void read_run(const A* shared, A* out) {
  constexpr int kVector = kVectorSize<A>;
#pragma unroll
  for (int i = 0; i < 4; i += kVector) {
    const Vector<A, kVector> values = load_vector<A, kVector>(shared + i);
#pragma unroll
    for (int j = 0; j < kVector; ++j) out[i + j] = values.v[j];
  }
}

// Sums of a thread. Long float32 sums go in pieces, each added to the total: the error then grows
// with the number of pieces, not of terms.
template <typename Tile>
class TileSums {
 public:
  using A = typename Tile::A;

  __device__ __forceinline__ void add_slab(const Slab<Tile>& slab, int row, int column) {
#pragma unroll
    for (int k = 0; k < Tile::kSlab; ++k) {
      A m[Tile::kThreadM], n[Tile::kThreadN];
#pragma unroll
      for (int run = 0; run < Tile::kThreadM; run += Tile::kRun) {
        read_run(&slab.m[k][row + run / Tile::kRun * Tile::kHalf], m + run);
      }
      read_run(&slab.n[k][column], n);
#pragma unroll
      for (int i = 0; i < Tile::kThreadM; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::kThreadN; ++j) {
          if constexpr (kInPieces) {
            piece_[i][j] += m[i] * n[j];
          } else {
            total[i][j] += m[i] * n[j];
          }
        }
      }
    }
    if (kInPieces && ++slabs_ == kSlabsPerPiece) end_piece();
  }

  __device__ __forceinline__ void end_piece() {
    if constexpr (kInPieces) {
      slabs_ = 0;
#pragma unroll
      for (int i = 0; i < Tile::kThreadM; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::kThreadN; ++j) {
          total[i][j] += piece_[i][j];
          piece_[i][j] = 0;
        }
      }
    }
  }

  A total[Tile::kThreadM][Tile::kThreadN] = {};

 private:
  static constexpr bool kInPieces = sizeof(A) == 4;
  static constexpr int kSlabsPerPiece = 4;
  static constexpr int kPieceM = kInPieces ? Tile::kThreadM : 1;
  A piece_[kPieceM][Tile::kThreadN] = {};
  int slabs_ = 0;
};

// a / b for a >= 0, b > 0: the short division where both fit 32 bits.
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// Takes the lowest digit, in base `radix`, off a number.
__device__ __forceinline__ int64_t take_digit(int64_t& number, int64_t radix) {
  const int64_t rest = quotient(number, radix), digit = number - rest * radix;
  number = rest;
  return digit;
}

// A number of three digits, the lowest first, that counts in steps without dividing. Kernels keep
// it in shared memory: few threads count, and registers are short.
struct Counter {
  int64_t digit[3], step[3], radix[2];

  __device__ __forceinline__ void start(int64_t number, int64_t step_size, int64_t radix0,
                                        int64_t radix1) {
    radix[0] = radix0, radix[1] = radix1;
    digit[0] = take_digit(number, radix0), digit[1] = take_digit(number, radix1);
    digit[2] = number;
    step[0] = take_digit(step_size, radix0), step[1] = take_digit(step_size, radix1);
    step[2] = step_size;
  }
  __device__ __forceinline__ void advance() {
    int64_t carry = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int64_t value = digit[i] + step[i] + carry;
      carry = value >= radix[i];
      if (carry) value -= radix[i];
      digit[i] = value;
    }
    digit[2] += step[2] + carry;
  }
};

// The taps [first, first + count) that fall inside the source.
struct TapRange {
  int first, count;
  __device__ __forceinline__ bool contains(int tap) const {
    return static_cast<unsigned>(tap - first) < static_cast<unsigned>(count);
  }
};

// Taps t < taps for which position + t * step lies in [0, size). step is not 0. Positions need 64
// bits, tap numbers do not: kernels test a tap's number instead of its position.
__device__ __forceinline__ TapRange tap_range(int64_t position, int64_t step, int64_t taps,
                                              int64_t size) {
  int64_t first = 0, end = taps;
  if (step > 0) {
    if (position < 0) first = quotient(-position + step - 1, step);
    end = position >= size ? 0 : min_of(end, quotient(size - position + step - 1, step));
  } else {
    if (position >= size) first = quotient(position - size, -step) + 1;
    end = position < 0 ? 0 : min_of(end, quotient(position, -step) + 1);
  }
  return {static_cast<int>(min_of(first, taps)), static_cast<int>(max_of(end - first, int64_t{0}))};
}

// The taps of an axis that fall inside the source for a position whose tap 0 reads source position
// `at`.
__device__ __forceinline__ TapRange tap_range(const GatherAxis& axis, int64_t at) {
  return tap_range(at, axis.tap_offset, axis.taps, axis.source_size);
}

}  // namespace fastconv::cuda
