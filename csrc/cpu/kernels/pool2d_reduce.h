// Pooling without indices, for any operation that may take the elements of a window in any order.
//
//   lanes along rows:     one output row = the window's rows reduced to one row of columns, in a
//                         buffer with the padding around it, and then that row reduced tap by tap.
//                         No tap of no window needs a bounds check.
//   lanes along channels: the same with a row of pixels, each of many channels.
//
// An Op has identity<A>() and combine(result, element). The order is fixed by the sizes alone.
// The maximum of 0 and -0 is the one that comes first. For an Op whose result can depend on the
// order like that (Op::kTellsOrder), order_shows(elements, n) says whether it can for these
// elements, and settle<T>(...) then makes it the result of the window's own order.
#pragma once

#include "cpu/runtime/pool2d_args.h"
#include "cpu/vectors/rows.h"
#include "cpu/vectors/vectors.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kChannelBlock = 64;
constexpr int64_t kTaskWork = 1 << 14;  // element operations that are worth handing out as a task

// body(i) for i in [0, items) as tasks of adjacent items; an item costs `work` element operations.
template <typename Body>
static void parallel_items(int64_t items, int64_t work, int num_threads, const Body& body) {
  const int64_t chunk = max64(1, kTaskWork / max64(1, work));
  parallel_for(div_up(items, chunk), num_threads, [&](int64_t task) {
    const int64_t end = min64(items, (task + 1) * chunk);
    for (int64_t item = task * chunk; item < end; ++item) body(item);
  });
}

// body(n, c, row) for the rows of all planes.
template <typename Body>
static void for_rows(const CpuPoolArgs& o, int64_t rows, int64_t work, const Body& body) {
  const int64_t items = o.N * o.C * rows, chunk = max64(1, kTaskWork / max64(1, work));
  parallel_for(div_up(items, chunk), o.num_threads, [&](int64_t task) {
    const int64_t first = task * chunk, end = min64(items, first + chunk);
    int64_t row = first % rows, c = first / rows % o.C, n = first / rows / o.C;
    for (int64_t item = first; item < end; ++item) {
      body(n, c, row);
      if (++row < rows) continue;
      row = 0;
      if (++c < o.C) continue;
      c = 0;
      ++n;
    }
  });
}

// Consecutive arrays in one block of scratch memory.
class ScratchArrays {
 public:
  ScratchArrays(ScratchSlot slot, int64_t bytes)
      : next_(static_cast<char*>(scratch(slot, bytes))) {}
  template <typename A>
  A* take(int64_t n) {
    A* const array = reinterpret_cast<A*>(next_);
    next_ += bytes_of<A>(n);
    return array;
  }
  template <typename A>
  static int64_t bytes_of(int64_t n) {  // rounded up, so that every array is aligned
    return div_up(n * static_cast<int64_t>(sizeof(A)), 64) * 64;
  }

 private:
  char* next_;
};

template <typename A>
static inline void fill_row(A* out, int64_t step, A value, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i * step] = value;
}

// ---- lanes along rows ------------------------------------------------------------------------

// The passes below are not inlined: the vectoriser then still knows what __restrict promises.
#define FASTCONV_PASS static __attribute__((noinline))

// Op(result, in[0], in[step], ...) for kCount elements; recursion, since a loop inside a loop keeps
// the compiler from vectorising the outer one.
template <typename Op, int kCount, typename A, typename T>
static inline A combine_elements(A result, const T* in, int64_t step) {
  if constexpr (kCount > 0) {
    return combine_elements<Op, kCount - 1>(Op::combine(result, to_accumulator(*in)), in + step,
                                            step);
  } else {
    return result;
  }
}

// out[i] = Op over r of x[r * row_step + i * step], on top of out[i] where kAdd. kStep is the step
// where it is known, else 0.
template <typename Op, int kRows, bool kAdd, int kStep, typename T>
FASTCONV_PASS void reduce_rows_stepping(accumulator_t<T>* __restrict out, const T* __restrict x,
                                        int64_t row_step, int64_t step, int64_t n) {
  using A = accumulator_t<T>;
  for (int64_t i = 0; i < n; ++i) {
    const T* const column = x + i * (kStep > 0 ? kStep : step);
    if constexpr (kAdd) {
      out[i] = combine_elements<Op, kRows>(out[i], column, row_step);
    } else {
      const A first = to_accumulator(*column);
      out[i] = combine_elements<Op, kRows - 1>(first, column + row_step, row_step);
    }
  }
}

template <typename Op, int kRows, bool kAdd, typename T>
static inline void reduce_rows_pass(accumulator_t<T>* out, const T* x, int64_t row_step,
                                    int64_t step, int64_t n) {
  if (step == 1) {
    reduce_rows_stepping<Op, kRows, kAdd, 1>(out, x, row_step, step, n);
  } else {
    reduce_rows_stepping<Op, kRows, kAdd, 0>(out, x, row_step, step, n);
  }
}

// out[i] = Op over all `rows` rows.
template <typename Op, typename T>
static inline void reduce_columns(accumulator_t<T>* out, const T* x, int64_t row_step, int64_t step,
                                  int64_t rows, int64_t n) {
  int64_t done = rows < 3 ? rows : 3;
  switch (done) {
    case 0:
      return fill_row(out, 1, Op::template identity<accumulator_t<T>>(), n);
    case 1:
      reduce_rows_pass<Op, 1, false>(out, x, row_step, step, n);
      break;
    case 2:
      reduce_rows_pass<Op, 2, false>(out, x, row_step, step, n);
      break;
    default:
      reduce_rows_pass<Op, 3, false>(out, x, row_step, step, n);
  }
  for (; done + 2 <= rows; done += 2) {
    reduce_rows_pass<Op, 2, true>(out, x + done * row_step, row_step, step, n);
  }
  if (done < rows) reduce_rows_pass<Op, 1, true>(out, x + done * row_step, row_step, step, n);
}

// out[q] = Op over s of row[q * kStride + s], one pass for all taps.
template <typename Op, int kTaps, int kStride, typename A>
FASTCONV_PASS void reduce_taps(A* __restrict out, const A* __restrict row, int64_t n) {
  for (int64_t q = 0; q < n; ++q) {
    out[q] = combine_elements<Op, kTaps - 1>(row[q * kStride], row + q * kStride + 1, 1);
  }
}

// The same for any number of taps and any stride, a pass for each tap.
template <typename Op, typename A>
FASTCONV_PASS void reduce_each_tap(A* __restrict out, const A* __restrict row,
                                   const CpuPoolAxis& w) {
  const int64_t n = w.y_size, stride = w.stride;
  for (int64_t q = 0; q < n; ++q) out[q] = row[q * stride];
  for (int64_t s = 1; s < w.taps; ++s) {
    const A* __restrict const tap = row + s * w.dilation;
    if (stride == 1) {
      for (int64_t q = 0; q < n; ++q) out[q] = Op::combine(out[q], tap[q]);
    } else {
      for (int64_t q = 0; q < n; ++q) out[q] = Op::combine(out[q], tap[q * stride]);
    }
  }
}

template <typename Op, typename A>
static inline void reduce_padded_row(A* out, const A* row, const CpuPoolAxis& w) {
  const int64_t n = w.y_size;
  if (w.dilation == 1) {
    if (w.taps == 2 && w.stride == 2) return reduce_taps<Op, 2, 2>(out, row, n);
    if (w.taps == 3 && w.stride == 2) return reduce_taps<Op, 3, 2>(out, row, n);
    if (w.taps == 3 && w.stride == 1) return reduce_taps<Op, 3, 1>(out, row, n);
  }
  return reduce_each_tap<Op>(out, row, w);
}

template <typename A, int kCount>
struct LanesOf {
  typedef A type __attribute__((vector_size(kCount * sizeof(A))));
};

// Op over the lanes of a vector, halves first.
template <typename Op, typename A, int kCount>
static inline A reduce_lanes(typename LanesOf<A, kCount>::type lanes) {
  if constexpr (kCount == 2) {
    return Op::combine(lanes[0], lanes[1]);
  } else {
    typename LanesOf<A, kCount / 2>::type low, high;
    __builtin_memcpy(&low, &lanes, sizeof low);
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&lanes) + sizeof low, sizeof high);
    return reduce_lanes<Op, A, kCount / 2>(Op::combine(low, high));
  }
}

// Op over in[i * step], i < n, in a vector of partial results.
template <typename Op, typename T>
static inline accumulator_t<T> reduce_run(const T* in, int64_t step, int64_t n) {
  using A = accumulator_t<T>;
  A result = Op::template identity<A>();
  int64_t i = 0;
  if (step == 1 && n >= kLanes<A>) {
    vector_t<A> lanes = load_vector(in);
    for (i = kLanes<A>; i + kLanes<A> <= n; i += kLanes<A>) {
      lanes = Op::combine(lanes, load_vector(in + i));
    }
    result = reduce_lanes<Op, A, kLanes<A>>(lanes);
  }
  for (; i < n; ++i) result = Op::combine(result, to_accumulator(in[i * step]));
  return result;
}

// finish(results, p) may change the Q results of an output row before they are stored.
template <typename Op, typename T, typename Finish>
static void pool_rows(const CpuPoolArgs& o, const Finish& finish) {
  using A = accumulator_t<T>;
  const CpuPoolAxis &h = o.h, &w = o.w;
  const int64_t P = h.y_size, Q = w.y_size, W = w.x_size;
  const int64_t padded = max64(W, w.padded_size);
  const bool lies_as_read = o.x.strides.w == 1 && w.pad == 0 && padded == W;
  // A window that is a run of a plane, most often all of it: so little work for each that preparing
  // rows would dominate.
  if (P == 1 && Q == 1 && lies_as_read && h.windows[0].count == 1) {
    const PoolWindow<int64_t> run = w.windows[0];
    constexpr int64_t kAtOnce = 4;  // elements that take the time of one operation elsewhere
    return for_rows(o, 1, div_up(run.count, kAtOnce), [&](int64_t n, int64_t c, int64_t) {
      A result =
          reduce_run<Op>(o.x.at<T>(n, c, h.windows[0].begin, run.begin), w.dilation, run.count);
      if constexpr (Op::kTellsOrder) Op::template settle<T>(o, n, c, 0, 0, result);
      finish(&result, 0);
      *o.y.at<T>(n, c, 0, 0) = from_accumulator<T>(result);
    });
  }
  const int64_t work = max64(1, W) * (P > 0 ? h.windows[P / 2].count : 1) + Q;
  for_rows(o, P, work, [&](int64_t n, int64_t c, int64_t p) {
    ScratchArrays arrays(ScratchSlot::kTask,
                         ScratchArrays::bytes_of<A>(padded) + ScratchArrays::bytes_of<A>(Q));
    A* const buffer = arrays.take<A>(padded);
    const PoolWindow<int64_t>& rows = h.windows[p];
    const T* const x = o.x.at<T>(n, c, rows.begin, 0);
    const A* row = buffer;
    if (std::is_same_v<T, A> && lies_as_read && rows.count == 1) {
      row = reinterpret_cast<const A*>(x);
    } else {
      fill_row(buffer, 1, Op::template identity<A>(), w.pad);
      fill_row(buffer + w.pad + W, 1, Op::template identity<A>(), padded - w.pad - W);
      reduce_columns<Op>(buffer + w.pad, x, h.dilation * o.x.strides.h, o.x.strides.w, rows.count,
                         W);
    }
    T* const y = o.y.at<T>(n, c, p, 0);
    A* results = arrays.take<A>(Q);
    if constexpr (std::is_same_v<T, A>) {
      if (o.y.strides.w == 1) results = y;
    }
    if (w.taps > 0) {
      reduce_padded_row<Op>(results, row, w);
    } else {
      for (int64_t q = 0; q < Q; ++q) {
        results[q] = reduce_run<Op>(row + w.windows[q].begin, w.dilation, w.windows[q].count);
      }
    }
    if constexpr (Op::kTellsOrder) {
      if (Op::order_shows(row, padded)) {
        for (int64_t q = 0; q < Q; ++q) Op::template settle<T>(o, n, c, p, q, results[q]);
      }
    }
    finish(results, p);
    if (static_cast<void*>(results) != y) store_row(y, o.y.strides.w, results, Q);
  });
}

// ---- lanes along channels --------------------------------------------------------------------

// Channels that a task takes: all, so that memory is read in order, unless tasks would be too few.
// No result depends on it.
static inline int64_t channels_of_task(int64_t tasks, int64_t channels) {
  constexpr int64_t kEnoughTasks = 8;
  return tasks >= kEnoughTasks ? channels : min64(channels, kChannelBlock);
}

// body(n, c0, lanes, row) for the rows of all images, `lanes` channels at a time.
template <typename Body>
static void for_channel_rows(const CpuPoolArgs& o, int64_t rows, int64_t work, const Body& body) {
  const int64_t channels = channels_of_task(o.N * rows, o.C), spans = div_up(o.C, channels);
  parallel_items(o.N * rows * spans, work * channels, o.num_threads, [&](int64_t item) {
    const int64_t c0 = item % spans * channels;
    body(item / spans / rows, c0, min64(channels, o.C - c0), item / spans % rows);
  });
}

// An output row = the window's rows reduced to one row of pixels, in a buffer unless it is a single
// row, and then that row's pixels reduced for each window: memory is read in the order in which it
// lies.
// finish(results, lanes, p, q) may change the results of a pixel before they are stored.
template <typename Op, typename T, typename Finish>
static void pool_channels(const CpuPoolArgs& o, const Finish& finish) {
  using A = accumulator_t<T>;
  const CpuPoolAxis &h = o.h, &w = o.w;
  const int64_t W = w.x_size, Q = w.y_size;
  const int64_t work = W * (h.y_size > 0 ? h.windows[h.y_size / 2].count : 1) + Q;
  for_channel_rows(o, h.y_size, work, [&](int64_t n, int64_t c0, int64_t lanes, int64_t p) {
    ScratchArrays arrays(ScratchSlot::kTask,
                         ScratchArrays::bytes_of<A>(W * lanes) + ScratchArrays::bytes_of<A>(lanes));
    A *const reduced = arrays.take<A>(W * lanes), *const buffer = arrays.take<A>(lanes);
    const PoolWindow<int64_t>& rows = h.windows[p];
    const T* const x = o.x.at<T>(n, c0, rows.begin, 0);
    const int64_t row_step = h.dilation * o.x.strides.h;
    const int64_t run = o.x.strides.w == lanes ? W * lanes : lanes;  // adjacent elements of a row
    const A* row = reduced;
    int64_t pixel = lanes;  // elements from one to the next
    if (std::is_same_v<T, A> && rows.count == 1) {
      row = reinterpret_cast<const A*>(x);
      pixel = o.x.strides.w;
    } else {
      for (int64_t i = 0; i < W * lanes; i += run) {
        reduce_columns<Op>(reduced + i, x + i / lanes * o.x.strides.w, row_step, 1, rows.count,
                           run);
      }
    }
    bool order_shows = false;
    if constexpr (Op::kTellsOrder) {
      for (int64_t i = 0; i < W * lanes && !order_shows; i += run) {
        order_shows = Op::order_shows(row + i / lanes * pixel, run);
      }
    }
    for (int64_t q = 0; q < Q; ++q) {
      T* const y = o.y.at<T>(n, c0, p, q);
      A* results = buffer;
      if constexpr (std::is_same_v<T, A>) {
        if (o.y.strides.c == 1) results = y;
      }
      reduce_columns<Op>(results, row + w.windows[q].begin * pixel, w.dilation * pixel, 1,
                         w.windows[q].count, lanes);
      if constexpr (Op::kTellsOrder) {
        for (int64_t l = 0; order_shows && l < lanes; ++l) {
          Op::template settle<T>(o, n, c0 + l, p, q, results[l]);
        }
      }
      finish(results, lanes, p, q);
      if (static_cast<void*>(results) != y) store_row(y, o.y.strides.c, results, lanes);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
