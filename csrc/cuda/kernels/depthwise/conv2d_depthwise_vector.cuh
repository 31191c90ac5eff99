// What the depthwise kernels share whose threads own vectors of kVector adjacent channels: a vector
// moved by one access, the window of a row in registers, and a block's filters.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/device/vector.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_tile.cuh"

namespace fastconv::cuda {

// What a vector of 4 or 8 bytes occupies as registers, so that one access moves it whatever it
// holds.
template <int kBytes>
struct PackedBytes;
template <>
struct PackedBytes<4> {
  using type = uint32_t;
};
template <>
struct PackedBytes<8> {
  using type = uint2;
};
template <typename T, int kVector>
using Packed = typename PackedBytes<static_cast<int>(sizeof(T)) * kVector>::type;

// The elements of one register.
template <typename T>
__device__ __forceinline__ void unpack_word(uint32_t word, float* values) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {  // the upper half of a float32
    values[0] = __uint_as_float(word << 16);
    values[1] = __uint_as_float(word & 0xffff0000u);
    return;
  }
  constexpr int kCount = 4 / static_cast<int>(sizeof(T));
  T elements[kCount];
  memcpy(elements, &word, sizeof(word));
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = to_accumulator(elements[i]);
}
template <typename T>
__device__ __forceinline__ uint32_t pack_word(const float* values) {
  constexpr int kCount = 4 / static_cast<int>(sizeof(T));
  T elements[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) elements[i] = from_accumulator<T>(values[i]);
  uint32_t word;
  memcpy(&word, elements, sizeof(word));
  return word;
}

template <typename T, int kVector>
__device__ __forceinline__ void unpack(const Packed<T, kVector>& packed, float (&values)[kVector]) {
  if constexpr (sizeof(packed) == 4) {
    unpack_word<T>(packed, values);
  } else {
    unpack_word<T>(packed.x, values);
    unpack_word<T>(packed.y, values + kVector / 2);
  }
}
template <typename T, int kVector>
__device__ __forceinline__ Packed<T, kVector> pack(const float (&values)[kVector]) {
  if constexpr (sizeof(Packed<T, kVector>) == 4) {
    return pack_word<T>(values);
  } else {
    return make_uint2(pack_word<T>(values), pack_word<T>(values + kVector / 2));
  }
}

// The vectors of adjacent columns of one row of a tensor, as they lie in memory: so a row can be on
// its way while the one before it is multiplied.
template <typename T, int kVector, int kColumns>
class WindowRow {
 public:
  // The rows from `h` on of columns w0, w0 + 1, ... of channels c. Zeros stand for columns outside
  // of the tensor's width and for rows that are not in [0, h_end).
  __device__ __forceinline__ WindowRow(const TensorView& tensor, int64_t n, int c, int h, int w0,
                                       int h_end, int width)
      : row_(tensor.at<const T>(n, c, h, w0)),
        row_step_(tensor.strides.h),
        column_step_(static_cast<int>(tensor.strides.w)),
        h_(h),
        h_end_(h_end) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      if (static_cast<unsigned>(w0 + j) < static_cast<unsigned>(width)) inside_ |= 1u << j;
    }
    begin_row();
  }

  __device__ __forceinline__ void load(int j) {
    columns_[j] = Packed<T, kVector>{};
    if (mask_ >> j & 1) {
      columns_[j] = *reinterpret_cast<const Packed<T, kVector>*>(
          row_ + static_cast<int64_t>(column_step_) * j);
    }
  }

  __device__ __forceinline__ void get(int j, float (&values)[kVector]) const {
    unpack<T, kVector>(columns_[j], values);
  }

  // From now on load() reads the next row.
  __device__ __forceinline__ void advance() {
    ++h_;
    row_ += row_step_;
    begin_row();
  }

 private:
  __device__ __forceinline__ void begin_row() {
    mask_ = static_cast<unsigned>(h_) < static_cast<unsigned>(h_end_) ? inside_ : 0;
  }

  Packed<T, kVector> columns_[kColumns];
  const T* row_;
  int64_t row_step_;
  int column_step_;
  int h_, h_end_;
  uint32_t inside_ = 0, mask_ = 0;  // a bit for each column that is in the tensor
};

// Blocks of 128 threads that must fit onto a multiprocessor at once: 128 registers, or 168 where
// two bytes an element make four channels a thread and more than 3x3 of stride 1 is kept open.
template <typename T, int kFilter, int kStride>
constexpr int kDepthwiseVectorMinBlocks =
    (sizeof(T) == 4 && kFilter < 7) || (kFilter == 3 && kStride == 1) ? 4 : 3;

// The block's filters as [vector][tap][channel of the vector], in the type they are multiplied in.
// The number of taps is odd, so that lanes along vectors meet no bank twice. Whether all filters
// that the thread has filled in are finite.
template <typename T, int kFilter, int kVector>
__device__ __forceinline__ bool fill_filter_vectors(float* shared, const DepthwiseParams& params,
                                                    int c0) {
  constexpr int kTaps = kFilter * kFilter;
  const int count = min_of(params.channels, params.C - c0) * kTaps;
  bool finite = true;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int channel = i / kTaps, tap = i % kTaps;
    const int from = params.flip_filter ? kTaps - 1 - tap : tap;
    const float value =
        to_accumulator(*params.filter.at<T>(c0 + channel, 0, from / kFilter, from % kFilter));
    shared[(channel / kVector * kTaps + tap) * kVector + channel % kVector] = value;
    finite = finite & (fabsf(value) < HUGE_VALF);
  }
  return finite;
}

// The filters of a thread's channels: few in registers, more in shared memory.
template <int kFilter, int kVector>
class FilterVectors {
 public:
  static constexpr bool kInRegisters = kFilter == 3;

  __device__ __forceinline__ explicit FilterVectors(const float* shared) : shared_(shared) {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int tap = 0; tap < kFilter * kFilter; ++tap) taps_[tap] = read(tap);
    }
  }
  __device__ __forceinline__ Vector<float, kVector> operator()(int r, int s) const {
    const int tap = r * kFilter + s;
    if constexpr (kInRegisters) return taps_[tap];
    return read(tap);
  }

 private:
  __device__ __forceinline__ Vector<float, kVector> read(int tap) const {
    return load_vector<float, kVector>(shared_ + tap * kVector);
  }

  const float* shared_;
  Vector<float, kVector> taps_[kInRegisters ? kFilter * kFilter : 1];
};

// The bias of each of the block's channels.
template <typename T>
__device__ __forceinline__ void fill_biases(float* shared, const DepthwiseParams& params, int c0) {
  if (params.epilogue.bias == nullptr) return;
  const int count = min_of(params.channels, params.C - c0);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    shared[i] = to_accumulator(static_cast<const T*>(params.epilogue.bias)[c0 + i]);
  }
}

}  // namespace fastconv::cuda
