// Average pooling.
//   fwd: y[p,q]  = sum over the window of x / divisor(p, q)
//   bwd: dx[h,w] = sum over the windows (p,q) that hold (h,w) of dy[p,q] / divisor(p, q)
// with divisor(p, q) = extent_h[p] * extent_w[q], or one number for all. bwd gathers: each task
// owns rows of dx, nothing is added from two sides. Bound: bytes.
#include "cpu/kernels.h"
#include "cpu/pool2d_reduce.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

struct Sum {
  template <typename A>
  static A identity() {
    return 0;
  }
  template <typename A>
  static A combine(A sum, A value) {
    return sum + value;
  }
};

// The divisor of the averages as the product of a factor of the row and one of the column.
template <typename A>
class Divisors {
 public:
  explicit Divisors(const PoolArgs& o) : h_(o.h.windows), divisor_(static_cast<A>(o.divisor)) {
    const int64_t Q = o.w.out_size;
    A* const columns =
        static_cast<A*>(scratch(ScratchSlot::kShared, Q * static_cast<int64_t>(sizeof(A))));
    for (int64_t q = 0; q < Q; ++q) {
      columns[q] = o.divisor != 0 ? A{1} : static_cast<A>(o.w.windows[q].extent);
    }
    columns_ = columns;
  }
  A row(int64_t p) const { return divisor_ != 0 ? divisor_ : static_cast<A>(h_[p].extent); }
  const A* columns() const { return columns_; }

 private:
  const PoolWindow* h_;
  A divisor_;
  const A* columns_;
};

template <typename T>
void fwd(const PoolArgs& o) {
  using A = accumulator_t<T>;
  const Divisors<A> divisors(o);
  const A* const columns = divisors.columns();
  if (channels_adjacent(o.x.strides, o.C)) {
    pool_channels<Sum, T>(o, [&](A* sums, int64_t lanes, int64_t p, int64_t q) {
      const A divisor = divisors.row(p) * columns[q];
      for (int64_t l = 0; l < lanes; ++l) sums[l] /= divisor;
    });
  } else {
    pool_rows<Sum, T>(o, [&](A* sums, int64_t p) {
      const A divisor = divisors.row(p);
      for (int64_t q = 0; q < o.w.out_size; ++q) sums[q] /= divisor * columns[q];
    });
  }
}

// ---- bwd, lanes along rows -------------------------------------------------------------------

// sums[q] = sum over the windows p that hold row h of dy[p,q] / divisor(p, q)
template <typename T>
void sum_window_rows(const PoolArgs& o, const Divisors<accumulator_t<T>>& divisors, int64_t n,
                     int64_t c, int64_t h, accumulator_t<T>* __restrict sums) {
  using A = accumulator_t<T>;
  const PoolWindow& cover = o.h.covers[h];
  const A* const columns = divisors.columns();
  const int64_t Q = o.w.out_size, step = o.y.strides.w;
  fill_row(sums, 1, A{0}, Q);
  for (int64_t p = cover.begin; p < cover.begin + cover.count; ++p) {
    const T* const dy = o.y.at<T>(n, c, p, 0);
    const A divisor = divisors.row(p);
    if (step == 1) {
      for (int64_t q = 0; q < Q; ++q) sums[q] += to_accumulator(dy[q]) / (divisor * columns[q]);
    } else {
      for (int64_t q = 0; q < Q; ++q) {
        sums[q] += to_accumulator(dy[q * step]) / (divisor * columns[q]);
      }
    }
  }
}

// Spreading windows back over a row of x: position q * stride + s of the padded row gets what tap s
// of window q holds. Positions that are alike modulo the stride form a phase; a tap adds to one
// phase with unit steps, and the phases are interleaved at the end.
template <typename A>
class Phases {
 public:
  explicit Phases(const PoolAxis& w)
      : stride_(w.stride), length_(w.out_size + div_up(w.taps, w.stride)) {}

  int64_t size() const { return stride_ * length_; }
  void clear(A* memory) {
    memory_ = memory;
    fill_row(memory, 1, A{0}, size());
  }
  // Where tap s of window 0 adds; window q is q elements further.
  A* tap(int64_t s) const { return memory_ + s % stride_ * length_ + s / stride_; }

  // The padded row: `phases` themselves where there is one, else interleaved into `row`.
  const A* interleave(A* __restrict row) const {
    if (stride_ == 1) return memory_;
    const A* __restrict const phases = memory_;
    if (stride_ == 2) {
      for (int64_t i = 0; i < length_; ++i) {
        row[2 * i] = phases[i];
        row[2 * i + 1] = phases[length_ + i];
      }
    } else {
      for (int64_t i = 0; i < length_; ++i) {
        for (int64_t phase = 0; phase < stride_; ++phase) {
          row[i * stride_ + phase] = phases[phase * length_ + i];
        }
      }
    }
    return row;
  }

 private:
  int64_t stride_, length_;
  A* memory_ = nullptr;
};

// Stores the W positions of x from a padded row of `size` elements; those past its end are zero.
template <typename T>
static inline void store_padded_row(T* x, int64_t step, const accumulator_t<T>* row, int64_t size,
                                    const PoolAxis& w) {
  const int64_t stored = min64(w.in_size, size - w.pad);
  store_row(x, step, row + w.pad, stored);
  for (int64_t i = stored; i < w.in_size; ++i) x[i * step] = from_accumulator<T>(0);
}

template <typename T>
void bwd_rows(const PoolArgs& o) {
  using A = accumulator_t<T>;
  const Divisors<A> divisors(o);
  const PoolAxis &h = o.h, &w = o.w;
  const int64_t H = h.in_size, W = w.in_size, Q = w.out_size;
  const int64_t spread = w.taps > 0 ? Phases<A>(w).size() : 0;
  const int64_t row_size = max64(spread, W);
  const int64_t bytes = 2 * ScratchArrays::bytes_of<A>(row_size) + ScratchArrays::bytes_of<A>(Q);
  for_rows(o, H, 2 * W + 2 * Q, [&](int64_t n, int64_t c, int64_t i) {
    ScratchArrays arrays(ScratchSlot::kTask, bytes);
    A *const sums = arrays.take<A>(Q), *const row = arrays.take<A>(row_size);
    sum_window_rows<T>(o, divisors, n, c, i, sums);
    T* const dx = o.x.at<T>(n, c, i, 0);
    if (w.taps > 0) {
      Phases<A> phases(w);
      phases.clear(arrays.take<A>(row_size));
      for (int64_t s = 0; s < w.taps; ++s) axpy_scatter(phases.tap(s), 1, A{1}, sums, Q);
      store_padded_row<T>(dx, o.x.strides.w, phases.interleave(row), spread, w);
    } else {
      fill_row(row, 1, A{0}, W);
      for (int64_t q = 0; q < Q; ++q) {
        A* const window = row + w.windows[q].begin;
        for (int64_t s = 0; s < w.windows[q].count; ++s) window[s] += sums[q];
      }
      store_row(dx, o.x.strides.w, row, W);
    }
  });
}

// ---- bwd, lanes along channels ---------------------------------------------------------------

// sums[l] += dy[l * step] / divisor
template <typename T>
FASTCONV_PASS void add_quotients(accumulator_t<T>* __restrict sums, const T* __restrict dy,
                                 int64_t step, accumulator_t<T> divisor, int64_t lanes) {
  if (step == 1) {
    for (int64_t l = 0; l < lanes; ++l) sums[l] += to_accumulator(dy[l]) / divisor;
  } else {
    for (int64_t l = 0; l < lanes; ++l) sums[l] += to_accumulator(dy[l * step]) / divisor;
  }
}

template <typename T>
void bwd_channels(const PoolArgs& o) {
  using A = accumulator_t<T>;
  const Divisors<A> divisors(o);
  const int64_t W = o.w.in_size;
  for_channel_rows(o, o.h.in_size, 4 * W, [&](int64_t n, int64_t c0, int64_t lanes, int64_t h) {
    A* const buffer =
        static_cast<A*>(scratch(ScratchSlot::kTask, lanes * static_cast<int64_t>(sizeof(A))));
    const PoolWindow& rows = o.h.covers[h];
    for (int64_t w = 0; w < W; ++w) {
      const PoolWindow& columns = o.w.covers[w];
      T* const dx = o.x.at<T>(n, c0, h, w);
      A* sums = buffer;
      if constexpr (std::is_same_v<T, A>) sums = dx;
      fill_row(sums, 1, A{0}, lanes);
      for (int64_t p = rows.begin; p < rows.begin + rows.count; ++p) {
        for (int64_t q = columns.begin; q < columns.begin + columns.count; ++q) {
          add_quotients<T>(sums, o.y.at<T>(n, c0, p, q), o.y.strides.c,
                           divisors.row(p) * divisors.columns()[q], lanes);
        }
      }
      if (static_cast<void*>(sums) != dx) store_row(dx, 1, sums, lanes);
    }
  });
}

}  // namespace

void pool2d_avg_fwd(const PoolArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { fwd<decltype(tag)>(args); });
}

void pool2d_avg_bwd(const PoolArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    channels_adjacent(args.x.strides, args.C) ? bwd_channels<T>(args) : bwd_rows<T>(args);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
