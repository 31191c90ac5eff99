// Max pooling forward. The rule is torch's: the elements of a window pass by row after row, and one
// replaces the maximum where (v > m) or v is NaN. So the index is that of the first maximum, or of
// the last NaN; a window of -inf has the index of its first element. Zeros are equal, and the first
// one's sign is the result's.
//
// Without indices it is pool2d_reduce.h, with them below: the same loops, but tap after tap, and
// with the index as a second result. Backward is pool2d_max_bwd.cpp.
//
// Lanes carry indices of 32 bits where a plane allows it. Bound: bytes.
#include "cpu/kernels/pool2d_reduce.h"
#include "cpu/runtime/kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// The integer type that indices have in vector lanes beside values of type A, and that holds their
// bits.
template <typename A>
struct LaneIndexOf {
  using type = int32_t;
};
template <>
struct LaneIndexOf<double> {
  using type = int64_t;
};

struct Maximum {
  static constexpr bool kTellsOrder = true;  // by the sign of a zero

  template <typename A>
  static A identity() {
    return -static_cast<A>(__builtin_inf());
  }
  template <typename A>
  static bool takes(A max, A value) {
    return (value > max) | (value != value);
  }
  template <typename A>
  static A combine(A max, A value) {
    const A larger = value > max ? value : max;  // one maximum instruction; keeps a NaN in `max`
    return value != value ? value : larger;
  }
  // Whether a -0 is among the elements: as an integer it is the least.
  template <typename A>
  static bool order_shows(const A* elements, int64_t n) {
    using Bits = typename LaneIndexOf<A>::type;
    typedef Bits Vector __attribute__((vector_size(kVectorBytes)));
    constexpr Bits kNegativeZero = std::is_same_v<A, double> ? INT64_MIN : INT32_MIN;
    const auto least_of = [](auto least, const A* from) {
      decltype(least) bits;
      __builtin_memcpy(&bits, from, sizeof bits);
      return bits < least ? bits : least;
    };
    if (n < kLanes<A>) {
      Bits least = 0;
      for (int64_t i = 0; i < n; ++i) least = least_of(least, elements + i);
      return least == kNegativeZero;
    }
    // The last vector ends with the elements. Two minima, so that none waits for the one before.
    Vector even = least_of(Vector{}, elements + n - kLanes<A>), odd = {};
    int64_t i = 0;
    for (; i + 2 * kLanes<A> <= n; i += 2 * kLanes<A>) {
      even = least_of(even, elements + i);
      odd = least_of(odd, elements + i + kLanes<A>);
    }
    if (i + kLanes<A> <= n) even = least_of(even, elements + i);
    const Vector found = (even < odd ? even : odd) == kNegativeZero;
    int64_t words[kVectorBytes / 8], any = 0;
    __builtin_memcpy(words, &found, sizeof words);
    for (const int64_t word : words) any |= word;
    return any != 0;
  }
  // A maximum that is a zero becomes the window's first zero.
  template <typename T, typename A>
  static void settle(const CpuPoolArgs& o, int64_t n, int64_t c, int64_t p, int64_t q, A& max) {
    if (max != 0) return;
    const PoolWindow<int64_t>&rows = o.h.windows[p], &columns = o.w.windows[q];
    for (int64_t r = 0; r < rows.count; ++r) {
      for (int64_t s = 0; s < columns.count; ++s) {
        const A value = to_accumulator(
            *o.x.at<T>(n, c, rows.begin + r * o.h.dilation, columns.begin + s * o.w.dilation));
        if (value != 0) continue;
        max = value;
        return;
      }
    }
  }
};

// Whether 32 bits hold the index of every position that lanes count, those of padding included.
static inline bool lane_indices_fit(const CpuPoolArgs& o) {
  return o.h.x_size < INT32_MAX / 2 / max64(1, max64(o.w.x_size, o.w.padded_size));
}

template <typename I>
static inline void store_indices(int64_t* __restrict out, int64_t step, const I* __restrict in,
                                 int64_t n) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] = in[i];
  } else {
    for (int64_t i = 0; i < n; ++i) out[i * step] = in[i];
  }
}

// ---- fwd, lanes along rows -------------------------------------------------------------------

template <int kTaps, typename A, typename I>
static inline void take_larger(A& max, I& index, const A* in, I at) {
  if constexpr (kTaps > 0) {
    const A value = *in;
    const bool take = Maximum::takes(max, value);
    max = take ? value : max;
    index = take ? at : index;
    take_larger<kTaps - 1>(max, index, in + 1, static_cast<I>(at + 1));
  }
}

// (max, index)[q] updated by kTaps elements of a row: tap s of window q is row[q * stride + s], and
// its index first + q * stride + s. kStride is the stride where known, else 0.
template <int kTaps, int kStride, typename A, typename I>
FASTCONV_PASS void max_taps(A* __restrict max, I* __restrict index, const A* __restrict row,
                            I first, int64_t stride, int64_t n) {
  const int64_t distance = kStride > 0 ? kStride : stride;
  for (int64_t q = 0; q < n; ++q) {
    A m = max[q];
    I at = index[q];
    take_larger<kTaps>(m, at, row + q * distance,
                       static_cast<I>(first + static_cast<I>(q) * static_cast<I>(distance)));
    max[q] = m;
    index[q] = at;
  }
}

template <typename A, typename I>
static inline void max_padded_row(A* max, I* index, const A* row, I first, const CpuPoolAxis& w) {
  const int64_t n = w.y_size;
  if (w.taps == 3 && w.stride == 2 && w.dilation == 1) {
    return max_taps<3, 2>(max, index, row, first, 2, n);
  }
  if (w.taps == 2 && w.stride == 2 && w.dilation == 1) {
    return max_taps<2, 2>(max, index, row, first, 2, n);
  }
  for (int64_t s = 0; s < w.taps; ++s, row += w.dilation, first += static_cast<I>(w.dilation)) {
    if (w.stride == 1) {
      max_taps<1, 1>(max, index, row, first, 1, n);
    } else {
      max_taps<1, 0>(max, index, row, first, w.stride, n);
    }
  }
}

// The same for windows of any kind, one after the other. The maximum of a run is found in vector
// lanes, its place by looking for it.
template <typename A, typename I>
void max_windows(A* max, I* index, const A* row, I first, const CpuPoolAxis& w) {
  for (int64_t q = 0; q < w.y_size; ++q) {
    const PoolWindow<int64_t>& window = w.windows[q];
    const A* const run = row + window.begin;
    const A value = reduce_run<Maximum>(run, w.dilation, window.count);
    if (!Maximum::takes(max[q], value)) continue;
    int64_t s = 0;
    if (value == value) {
      while (run[s * w.dilation] != value) ++s;
    } else {
      s = window.count - 1;
      while (run[s * w.dilation] == run[s * w.dilation]) --s;
    }
    max[q] = run[s * w.dilation];
    index[q] = static_cast<I>(first + static_cast<I>(window.begin + s * w.dilation));
  }
}

template <typename T, typename I>
void fwd_rows(const CpuPoolArgs& o) {
  using A = accumulator_t<T>;
  const CpuPoolAxis &h = o.h, &w = o.w;
  const int64_t P = h.y_size, Q = w.y_size, W = w.x_size;
  const int64_t padded = max64(W, w.padded_size);
  const bool reads_in_place =
      std::is_same_v<T, A> && o.x.strides.w == 1 && w.pad == 0 && padded == W;
  const int64_t bytes = ScratchArrays::bytes_of<A>(padded) + ScratchArrays::bytes_of<A>(Q) +
                        ScratchArrays::bytes_of<I>(Q);
  const int64_t work = (P > 0 ? h.windows[P / 2].count : 1) * (W + w.taps * Q) + Q;
  for_rows(o, P, work, [&](int64_t n, int64_t c, int64_t p) {
    ScratchArrays arrays(ScratchSlot::kTask, bytes);
    A *const buffer = arrays.take<A>(padded), *const max = arrays.take<A>(Q);
    I* const index = arrays.take<I>(Q);
    const PoolWindow<int64_t>& rows = h.windows[p];
    fill_row(max, 1, Maximum::identity<A>(), Q);
    for (int64_t q = 0; q < Q; ++q) {
      index[q] = static_cast<I>(rows.begin * W + w.windows[q].begin);
    }
    fill_row(buffer, 1, Maximum::identity<A>(), w.pad);
    fill_row(buffer + w.pad + W, 1, Maximum::identity<A>(), padded - w.pad - W);
    for (int64_t r = 0; r < rows.count; ++r) {
      const int64_t i = rows.begin + r * h.dilation;
      const T* const x = o.x.at<T>(n, c, i, 0);
      const A* row = buffer;
      if (reads_in_place) {
        row = reinterpret_cast<const A*>(x);
      } else {
        load_row(buffer + w.pad, x, o.x.strides.w, W);
      }
      if (w.taps > 0) {
        max_padded_row(max, index, row, static_cast<I>(i * W - w.pad), w);
      } else {
        max_windows(max, index, row, static_cast<I>(i * W), w);
      }
    }
    store_row(o.y.at<T>(n, c, p, 0), o.y.strides.w, max, Q);
    store_indices(o.indices.at<int64_t>(n, c, p, 0), o.indices.strides.w, index, Q);
  });
}

// ---- fwd, lanes along channels ---------------------------------------------------------------

template <typename T, typename I>
FASTCONV_PASS void max_lanes(accumulator_t<T>* __restrict max, I* __restrict index,
                             const T* __restrict in, I at, int64_t lanes) {
  for (int64_t l = 0; l < lanes; ++l) {
    const auto value = to_accumulator(in[l]);
    const bool take = Maximum::takes(max[l], value);
    max[l] = take ? value : max[l];
    index[l] = take ? at : index[l];
  }
}

// A row of x passes by all windows that it belongs to before the next: memory is read in the order
// in which it lies.
template <typename T, typename I>
void fwd_channels(const CpuPoolArgs& o) {
  using A = accumulator_t<T>;
  const CpuPoolAxis &h = o.h, &w = o.w;
  const int64_t W = w.x_size, Q = w.y_size;
  const int64_t taps = h.y_size > 0 ? h.windows[h.y_size / 2].count * w.windows[Q / 2].count : 0;
  for_channel_rows(
      o, h.y_size, Q * (taps + 1), [&](int64_t n, int64_t c0, int64_t lanes, int64_t p) {
        ScratchArrays arrays(ScratchSlot::kTask, ScratchArrays::bytes_of<A>(Q * lanes) +
                                                     ScratchArrays::bytes_of<I>(Q * lanes));
        A* const max = arrays.take<A>(Q * lanes);
        I* const index = arrays.take<I>(Q * lanes);
        const PoolWindow<int64_t>& rows = h.windows[p];
        fill_row(max, 1, Maximum::identity<A>(), Q * lanes);
        for (int64_t q = 0; q < Q; ++q) {
          fill_row(index + q * lanes, 1, static_cast<I>(rows.begin * W + w.windows[q].begin),
                   lanes);
        }
        for (int64_t r = 0; r < rows.count; ++r) {
          const int64_t i = rows.begin + r * h.dilation;
          for (int64_t q = 0; q < Q; ++q) {
            for (int64_t s = 0; s < w.windows[q].count; ++s) {
              const int64_t j = w.windows[q].begin + s * w.dilation;
              max_lanes(max + q * lanes, index + q * lanes,
                        static_cast<const T*>(o.x.at<T>(n, c0, i, j)), static_cast<I>(i * W + j),
                        lanes);
            }
          }
        }
        for (int64_t q = 0; q < Q; ++q) {
          store_row(o.y.at<T>(n, c0, p, q), o.y.strides.c, max + q * lanes, lanes);
          store_indices(o.indices.at<int64_t>(n, c0, p, q), o.indices.strides.c, index + q * lanes,
                        lanes);
        }
      });
}

template <typename T, typename I>
void fwd_with_indices(const CpuPoolArgs& o) {
  if (channels_adjacent(o.x.strides, o.C)) return fwd_channels<T, I>(o);
  return fwd_rows<T, I>(o);
}

template <typename T>
void fwd(const CpuPoolArgs& o) {
  using A = accumulator_t<T>;
  if (o.indices.data != nullptr) {
    if (lane_indices_fit(o)) return fwd_with_indices<T, typename LaneIndexOf<A>::type>(o);
    return fwd_with_indices<T, int64_t>(o);
  }
  if (channels_adjacent(o.x.strides, o.C)) {
    return pool_channels<Maximum, T>(o, [](A*, int64_t, int64_t, int64_t) {});
  }
  return pool_rows<Maximum, T>(o, [](A*, int64_t) {});
}

}  // namespace

void pool2d_max_fwd(const CpuPoolArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { fwd<decltype(tag)>(args); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
