// The inner products of the implicit GEMM, over operands that stage.h laid out. One tile of sums
// stays in registers for a while; lanes go along filters (fprop, dgrad) or channels (wgrad), the
// other operand is broadcast from memory:
//
//   product_micro   c[pixel][filter]  += stage[position[pixel] + term k] * weights[k][filter]
//   wgrad_micro     c[filter][column] += dy[pixel][filter] * stage[position[pixel] + column]
//
// Sums start from zero and are then added to c every kSumLength terms (for wgrad a tile of pixels):
// a sum of short sums rounds less than one long sum. An element of c is the same sequence of
// operations in every tiling: results depend neither on tiles nor on threads.
#pragma once

#include "cpu/staging/epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA {

// 12x2, 6x2 and 4x2 vectors of sums: what 32, 16 and 16 vector registers hold beside the operands.
constexpr int kMicroRows = kVectorBytes == 64 ? 12 : (kVectorBytes == 32 ? 6 : 4);
constexpr int kMicroVectors = 2;
constexpr int64_t kSumLength = 144;
template <typename A>
constexpr int kMicroColumns = kMicroVectors * kLanes<A>;

// Where term k lies in the stage, from a pixel's position on. Terms come in runs of adjacent ones.
struct Terms {
  const int32_t* taps;  // where each run begins
  int64_t run_length;
};

// Output whose filters are adjacent and whose pixels lie evenly apart: complete sums go there
// straight from registers.
template <typename A>
struct RegisterOutput {
  A* y;  // of the first pixel and filter
  int64_t step;
  FilterEpilogue<A> finish;

  A* at(int64_t pixel, int64_t filter) const { return y + pixel * step + filter; }
};

// Terms [k, k_end) for kRows pixels from `pixel` on and kVectors vectors of filters from `filter`
// on; weights are those of term k on, kVectors vectors a term. Sums are added to c, whose rows are
// kMicroColumns apart, if `accumulate`; they end in c or, where there is one, in `out`.
template <int kRows, int kVectors, typename A>
[[gnu::always_inline]] static inline void product_micro(const Terms& terms, int64_t k,
                                                        int64_t k_end, bool accumulate,
                                                        const A* stage, const int32_t* positions,
                                                        const A* __restrict weights, int64_t pixel,
                                                        int64_t filter, A* __restrict c,
                                                        const RegisterOutput<A>* out) {
  if (out != nullptr) {
    // What is stored at the end comes into the cache meanwhile.
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        __builtin_prefetch(out->at(pixel + m, filter + v * kLanes<A>), 1);
      }
    }
  }
  vector_t<A> sums[kRows][kVectors] = {};
  int64_t first = k % terms.run_length;
  for (const int32_t* tap = terms.taps + k / terms.run_length; k < k_end; ++tap) {
    const A* pixels[kRows];
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) pixels[m] = stage + *tap + first + positions[pixel + m];
    const int64_t count = min64(terms.run_length - first, k_end - k);
    for (int64_t i = 0; i < count; ++i) {
      vector_t<A> filters[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) filters[v] = load_vector(weights + v * kLanes<A>);
#pragma GCC unroll 12
      for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[m][v] += pixels[m][i] * filters[v];
      }
      weights += kVectors * kLanes<A>;
    }
    k += count;
    first = 0;
  }
  A* const rows = c + pixel * kMicroColumns<A>;
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      A* const at = rows + m * kMicroColumns<A> + v * kLanes<A>;
      if (accumulate) sums[m][v] += load_vector(at);
      if (out == nullptr) store_vector(at, sums[m][v]);
    }
  }
  if (out == nullptr) return;
  out->finish.apply(sums, pixel, filter);
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      store_vector(out->at(pixel + m, filter + v * kLanes<A>), sums[m][v]);
    }
  }
}

// c += dy x for kRows filters and kVectors vectors of columns, over all `pixels` of a stage.
template <int kRows, int kVectors, typename A>
static inline void wgrad_micro(int64_t pixels, const A* __restrict dy, int64_t dy_step,
                               const A* __restrict stage, const int32_t* __restrict positions,
                               A* __restrict c, int64_t c_step) {
  vector_t<A> sums[kRows][kVectors] = {};
  for (int64_t i = 0; i < pixels; ++i) {
    vector_t<A> columns[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      columns[v] = load_vector(stage + positions[i] + v * kLanes<A>);
    }
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[m][v] += dy[m] * columns[v];
    }
    dy += dy_step;
  }
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      A* const at = c + m * c_step + v * kLanes<A>;
      store_vector(at, load_vector(at) + sums[m][v]);
    }
  }
}

// Rows of a micro tile, as many as fit, then fewer.
template <typename Body>
static inline void for_each_micro_row(int64_t rows, const Body& body) {
  for_each_run<kMicroRows, kMicroRows == 12 ? 8 : 4, 4, 2, 1>(rows, body);
}

// Calls body(first, constant number of vectors) for columns [0, columns), in panels of
// kMicroVectors vectors; the last one is narrower where that holds what is left.
template <typename A, typename Body>
static inline void for_each_micro_column(int64_t columns, const Body& body) {
  for (int64_t first = 0; first < columns; first += kMicroColumns<A>) {
    if (columns - first > kLanes<A>) {
      body(first, Constant<kMicroVectors>{});
    } else {
      body(first, Constant<1>{});
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
