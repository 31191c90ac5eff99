// The blocked matrix product behind the im2col convolutions:
//   c[row][column] += sum over k of a[k][row] * b[k][column]
// The sums of a kMicroM x kMicroN tile of c stay in registers for kSumLength terms. They start from
// zero and are then added to c: a sum of short sums rounds less than one long sum, and the extra
// pass over c costs little (the error columns of `fastconv bench --csv` compare with torch). An
// element of c is the same sequence of operations in every blocking: results depend neither on
// tiles nor on threads.
#pragma once

#include "cpu/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

// 12x2, 6x2 and 4x2 vectors of sums: what 32, 16 and 16 vector registers hold beside the operands.
constexpr int kMicroM = kVectorBytes == 64 ? 12 : (kVectorBytes == 32 ? 6 : 4);
constexpr int kMicroVectors = 2;
constexpr int64_t kSumLength = 64;
template <typename A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));
template <typename A>
constexpr int kMicroN = kMicroVectors * kLanes<A>;

template <typename A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes), aligned(alignof(A))));
};

template <typename A>
struct GemmOperands {
  const A* a;  // a[panel of rows][k][row]: panels a_panel_step apart, k a_step apart
  int64_t a_panel_step, a_step;
  const A* b;  // b[k][column]: k b_step apart
  int64_t b_step;
  A* c;  // c[row][column]: rows c_step apart
  int64_t c_step;
};

template <typename A>
static inline void micro_gemm(int64_t gemm_k, const A* __restrict a, int64_t a_step,
                              const A* __restrict b, int64_t b_step, A* __restrict c,
                              int64_t c_step) {
  using vector_t = typename VectorOf<A>::type;
  vector_t sums[kMicroM][kMicroVectors] = {};
  for (int64_t k = 0; k < gemm_k; ++k) {
    vector_t columns[kMicroVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kMicroVectors; ++v) {
      columns[v] = *reinterpret_cast<const vector_t*>(b + v * kLanes<A>);
    }
#pragma GCC unroll 12
    for (int m = 0; m < kMicroM; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < kMicroVectors; ++v) sums[m][v] += a[m] * columns[v];
    }
    a += a_step;
    b += b_step;
  }
#pragma GCC unroll 12
  for (int m = 0; m < kMicroM; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kMicroVectors; ++v) {
      *reinterpret_cast<vector_t*>(c + m * c_step + v * kLanes<A>) += sums[m][v];
    }
  }
}

// A block of whole micro tiles: rows and columns are rounded up to kMicroM and kMicroN by the
// packing. One panel of b is kept in L1 while the panels of a pass by.
template <typename A>
static void block_gemm(int64_t rows, int64_t columns, int64_t gemm_k, const GemmOperands<A>& o) {
  for (int64_t j = 0; j < columns; j += kMicroN<A>) {
    for (int64_t i = 0; i < rows; i += kMicroM) {
      const A* const a = o.a + i / kMicroM * o.a_panel_step;
      A* const c = o.c + i * o.c_step + j;
      for (int64_t k = 0; k < gemm_k; k += kSumLength) {
        micro_gemm<A>(min64(kSumLength, gemm_k - k), a + k * o.a_step, o.a_step,
                      o.b + k * o.b_step + j, o.b_step, c, o.c_step);
      }
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
