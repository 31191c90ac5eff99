// ldmatrix and mma.sync, with the fragment layouts of the PTX ISA. Lane l = 4 g + t holds
//   a: rows g and g + 8; b: column g; d: rows g and g + 8, columns 2 t and 2 t + 1.
#include <cstring>

#include "cuda_fp16.h"
#include "emulator.h"
#include "warp.h"

namespace emulator {
namespace {

constexpr uint32_t kFullMask = 0xffffffffu;

// Eight floats, a row of the result: the compiler has a register for it.
using Row __attribute__((vector_size(32))) = float;

void require_full_warp(const char* operation) {
  const uint32_t live = Multiprocessor::running()->current().warp->live;
  if (live != kFullMask) fault("%s: only lanes %#x of the warp are there", operation, live);
}

// d += a b with a (16, kDepth), b (kDepth, 8). Blocks of eight rows keep the adders busy.
template <int kDepth>
void multiply(const float (&a)[16][kDepth], const Row (&b)[kDepth], float (&d)[16][8]) {
  for (int block = 0; block < 16; block += 8) {
    Row sums[8];
    std::memcpy(sums, d[block], sizeof(sums));
    for (int k = 0; k < kDepth; ++k) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sums[i] += a[block + i][k] * b[k];
    }
    std::memcpy(d[block], sums, sizeof(sums));
  }
}

struct F16 {
  static void decode(const uint16_t* bits, float* values, int count) {
#if defined(__F16C__)
    for (int i = 0; i < count; i += 8) {
      const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bits + i));
      _mm256_storeu_ps(values + i, _mm256_cvtph_ps(eight));
    }
#else
    for (int i = 0; i < count; ++i) values[i] = half_to_float(bits[i]);
#endif
  }
};
struct BF16 {
  static void decode(const uint16_t* bits, float* values, int count) {
    for (int i = 0; i < count; ++i) values[i] = std::bit_cast<float>(uint32_t{bits[i]} << 16);
  }
};

// Transposes b while its elements are still small.
template <class Type>
void multiply_m16n8k16(Meeting& meeting) {
  float a[16][16];
  Row b[16];
  uint16_t columns[8][16];
  uint16_t rows[16][8];
  Type::decode(reinterpret_cast<const uint16_t*>(meeting.matrix.a), a[0], 16 * 16);
  std::memcpy(columns, meeting.matrix.b, sizeof(columns));
  for (int k = 0; k < 16; ++k) {
    for (int n = 0; n < 8; ++n) rows[k][n] = columns[n][k];
  }
  Type::decode(rows[0], reinterpret_cast<float*>(b), 16 * 8);
  multiply<16>(a, b, meeting.matrix.d);
}

void multiply_m16n8k8_tf32(Meeting& meeting) {
  float a[16][8];
  Row b[8];
  std::memcpy(a, meeting.matrix.a, sizeof(a));
  for (int k = 0; k < 8; ++k) {
    for (int n = 0; n < 8; ++n) b[k][n] = std::bit_cast<float>(meeting.matrix.b[n][k]);
  }
  multiply<8>(a, b, meeting.matrix.d);
}

// The words of both shapes have the same layout: a word is two halves of k, or one float.
void mma(const char* operation, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         void (*multiply)(Meeting&)) {
  require_full_warp(operation);
  const unsigned lane = Multiprocessor::running()->current().lane;
  const unsigned g = lane / 4, t = lane % 4;
  const auto deposit = [&](Meeting& meeting, unsigned) {
    auto& matrix = meeting.matrix;
    matrix.a[g][t] = a[0];
    matrix.a[g + 8][t] = a[1];
    matrix.a[g][t + 4] = a[2];
    matrix.a[g + 8][t + 4] = a[3];
    matrix.b[g][t] = b[0];
    matrix.b[g][t + 4] = b[1];
    std::memcpy(&matrix.d[g][2 * t], d, 8);
    std::memcpy(&matrix.d[g + 8][2 * t], d + 2, 8);
  };
  const Meeting& meeting = meet(kFullMask, operation, Ordering::kNone, deposit, multiply);
  std::memcpy(d, &meeting.matrix.d[g][2 * t], 8);
  std::memcpy(d + 2, &meeting.matrix.d[g + 8][2 * t], 8);
}

template <int kCount>
void check_rounded(const uint32_t (&words)[kCount], const char* operand) {
  for (uint32_t word : words) {
    if ((word & 0x1fffu) != 0) {
      fault("mma.m16n8k8.tf32: %s holds %#x, which was not rounded to tf32", operand, word);
    }
  }
}

}  // namespace

void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma("mma.m16n8k16.f16", d, a, b, multiply_m16n8k16<F16>);
}

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma("mma.m16n8k16.bf16", d, a, b, multiply_m16n8k16<BF16>);
}

void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  check_rounded(a, "a");
  check_rounded(b, "b");
  mma("mma.m16n8k8.tf32", d, a, b, multiply_m16n8k8_tf32);
}

uint32_t round_to_tf32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffe000u;
  return (bits + 0x1000u) & ~0x1fffu;
}

void ldmatrix(uint32_t* r, const void* row, int count, bool transposed) {
  const char* const operation = transposed ? "ldmatrix.trans" : "ldmatrix";
  require_full_warp(operation);
  const auto deposit = [&](Meeting& meeting, unsigned lane) {
    if (static_cast<int>(lane) >= 8 * count) return;
    if (!Multiprocessor::running()->shared().contains(row, 16)) {
      fault("%s: row %p is not in shared memory", operation, row);
    }
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
      fault("%s: misaligned row %p", operation, row);
    }
    sanitizers::read_range(row, 16);
    std::memcpy(meeting.rows[lane], row, 16);
  };
  const Meeting& meeting = meet(kFullMask, operation, Ordering::kNone, deposit);
  const unsigned lane = Multiprocessor::running()->current().lane;
  const unsigned i = lane / 4, j = lane % 4 * 2;
  const auto element = [&](int matrix, unsigned row, unsigned column) {
    return meeting.rows[8 * matrix + row][column / 2] >> column % 2 * 16 & 0xffffu;
  };
  for (int matrix = 0; matrix < count; ++matrix) {
    r[matrix] = transposed ? element(matrix, j, i) | element(matrix, j + 1, i) << 16
                           : meeting.rows[8 * matrix + i][j / 2];
  }
}

}  // namespace emulator
