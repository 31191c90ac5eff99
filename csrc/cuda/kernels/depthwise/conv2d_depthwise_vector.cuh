// What the depthwise kernels share whose threads own vectors of kVector adjacent channels: a vector
// moved by one access, the window of a row in registers, and a block's filters.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/device/vector.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_tile.cuh"

namespace fastconv::cuda {

// Adjacent channels of a thread: as many as one access of 8 bytes moves.
template <typename T>
constexpr int kDepthwiseVector = 8 / static_cast<int>(sizeof(T));

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

template <typename T>
__device__ __forceinline__ void unpack(uint2 packed, float (&values)[kDepthwiseVector<T>]) {
  unpack_word<T>(packed.x, values);
  unpack_word<T>(packed.y, values + kDepthwiseVector<T> / 2);
}
template <typename T>
__device__ __forceinline__ uint2 pack(const float (&values)[kDepthwiseVector<T>]) {
  return make_uint2(pack_word<T>(values), pack_word<T>(values + kDepthwiseVector<T> / 2));
}

// The vectors of adjacent columns of one row of a tensor, as they lie in memory: so a row can be on
// its way while the one before it is multiplied.
template <typename T, int kColumns>
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
    columns_[j] = uint2{};
    if (mask_ >> j & 1) {
      columns_[j] = *reinterpret_cast<const uint2*>(row_ + static_cast<int64_t>(column_step_) * j);
    }
  }

  __device__ __forceinline__ void get(int j, float (&values)[kDepthwiseVector<T>]) const {
    unpack<T>(columns_[j], values);
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

  uint2 columns_[kColumns];
  const T* row_;
  int64_t row_step_;
  int column_step_;
  int h_, h_end_;
  uint32_t inside_ = 0, mask_ = 0;  // a bit for each column that is in the tensor
};

// The block's filters as [vector][tap][channel of the vector], in the type they are multiplied in.
// The number of taps is odd, so that lanes along vectors meet no bank twice.
template <typename T, int kFilter, int kVector>
__device__ __forceinline__ void fill_filter_vectors(float* shared, const DepthwiseParams& params,
                                                    int c0) {
  constexpr int kTaps = kFilter * kFilter;
  const int count = min_of(params.channels, params.C - c0) * kTaps;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int channel = i / kTaps, tap = i % kTaps;
    const int from = params.flip_filter ? kTaps - 1 - tap : tap;
    shared[(channel / kVector * kTaps + tap) * kVector + channel % kVector] =
        to_accumulator(*params.filter.at<T>(c0 + channel, 0, from / kFilter, from % kFilter));
  }
}

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
