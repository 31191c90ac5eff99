// Average pooling.
//   fwd: y[p,q]  = sum over the window of x / divisor(p, q)
//   bwd: dx[h,w] = sum over the windows (p,q) that hold (h,w) of dy[p,q] / divisor(p, q)
// with divisor(p, q) = extent_h[p] * extent_w[q], or one number for all. Each task of bwd owns rows
// of dx, so that no two tasks add to the same element. Bound: bytes.
#include "cpu/kernels/pool2d_phases.h"
#include "cpu/kernels/pool2d_reduce.h"
#include "cpu/runtime/kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kEnoughPlanes = 16;  // to give every thread whole planes

struct Sum {
  static constexpr bool kTellsOrder = false;

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
  explicit Divisors(const CpuPoolArgs& o) : h_(o.h.windows), divisor_(static_cast<A>(o.divisor)) {
    const int64_t Q = o.w.y_size;
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
  const PoolWindow<int64_t>* h_;
  A divisor_;
  const A* columns_;
};

template <typename T>
void fwd(const CpuPoolArgs& o) {
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
      for (int64_t q = 0; q < o.w.y_size; ++q) sums[q] /= divisor * columns[q];
    });
  }
}

// ---- bwd, lanes along rows -------------------------------------------------------------------

// quotients[q] = dy[p,q] / divisor(p, q)
template <typename T>
FASTCONV_PASS void divide_row(accumulator_t<T>* __restrict quotients, const T* __restrict dy,
                              int64_t step, accumulator_t<T> divisor,
                              const accumulator_t<T>* __restrict columns, int64_t Q) {
  if (step == 1) {
    for (int64_t q = 0; q < Q; ++q) quotients[q] = to_accumulator(dy[q]) / (divisor * columns[q]);
  } else {
    for (int64_t q = 0; q < Q; ++q) {
      quotients[q] = to_accumulator(dy[q * step]) / (divisor * columns[q]);
    }
  }
}

// A row of quotients added to the positions of a row of x that their windows hold. spread() returns
// the sums from position 0 on, positions() of them; the positions behind those get nothing.
template <typename A>
class SpreadRow {
 public:
  SpreadRow(const CpuPoolAxis& w, int64_t quotients)
      : w_(w),
        phases_(w),
        size_(w.taps == 0 ? w.x_size : max64(phases_.size(), w.taps * quotients)) {}

  int64_t bytes() const { return 2 * ScratchArrays::bytes_of<A>(size_); }
  int64_t positions() const { return w_.taps == 0 ? w_.x_size : min64(w_.x_size, end() - w_.pad); }

  const A* spread(const A* __restrict quotients, A* __restrict row, A* memory) {
    const int64_t Q = w_.y_size;
    if (w_.taps == 0) {
      fill_row(row, 1, A{0}, w_.x_size);
      for (int64_t q = 0; q < Q; ++q) {
        A* const window = row + w_.windows[q].begin;
        for (int64_t s = 0; s < w_.windows[q].count; ++s) window[s] += quotients[q];
      }
      return row;
    }
    if (side_by_side()) {
      if (w_.stride == 2) {
        for (int64_t q = 0; q < Q; ++q) row[2 * q] = row[2 * q + 1] = quotients[q];
      } else {
        for (int64_t q = 0; q < Q; ++q) {
          for (int64_t s = 0; s < w_.taps; ++s) row[q * w_.stride + s] = quotients[q];
        }
      }
      return row + w_.pad;
    }
    phases_.clear(memory);
    for (int64_t s = 0; s < w_.taps; ++s) axpy_scatter(phases_.tap(s), 1, A{1}, quotients, Q);
    return phases_.interleave(row) + w_.pad;
  }

 private:
  bool side_by_side() const { return w_.taps == w_.stride; }
  int64_t end() const { return side_by_side() ? w_.y_size * w_.stride : phases_.size(); }

  const CpuPoolAxis& w_;
  Phases<A> phases_;
  int64_t size_;
};

// A plane, or some rows of one where planes are few; a row of dy is spread once for all the rows of
// dx that it reaches.
template <typename T>
void bwd_rows(const CpuPoolArgs& o) {
  using A = accumulator_t<T>;
  const Divisors<A> divisors(o);
  const CpuPoolAxis &h = o.h, &w = o.w;
  const int64_t H = h.x_size, W = w.x_size, Q = w.y_size, planes = o.N * o.C;
  const int64_t rows =
      planes >= kEnoughPlanes ? H : div_up(H, div_up(kEnoughPlanes, max64(1, planes)));
  const int64_t strips = div_up(H, max64(1, rows));
  const bool in_place = std::is_same_v<T, A> && o.x.strides.w == 1;
  parallel_items(planes * strips, rows * 4 * W, o.num_threads, [&](int64_t item) {
    const int64_t plane = item / strips, n = plane / o.C, c = plane % o.C;
    const int64_t begin = item % strips * rows, end = min64(H, begin + rows);
    SpreadRow<A> spreading(w, Q);
    ScratchArrays arrays(ScratchSlot::kTask,
                         ScratchArrays::bytes_of<A>(Q) + spreading.bytes() +
                             ScratchArrays::bytes_of<A>(in_place ? 0 : (end - begin) * W));
    A* const quotients = arrays.take<A>(Q);
    A* const row = arrays.take<A>(spreading.bytes() / 2 / static_cast<int64_t>(sizeof(A)));
    A* const memory = arrays.take<A>(spreading.bytes() / 2 / static_cast<int64_t>(sizeof(A)));
    A* const sums = arrays.take<A>(0);
    const auto dx_row = [&](int64_t i) {
      return in_place ? reinterpret_cast<A*>(o.x.at<T>(n, c, i, 0)) : sums + (i - begin) * W;
    };
    for (int64_t i = begin; i < end; ++i) {
      if (h.covers[i].count == 0) fill_row(dx_row(i), 1, A{0}, W);
    }
    const PoolCover<int64_t>& last = h.covers[end - 1];
    for (int64_t p = h.covers[begin].first; p < last.first + last.count; ++p) {
      divide_row<T>(quotients, o.y.at<T>(n, c, p, 0), o.y.strides.w, divisors.row(p),
                    divisors.columns(), Q);
      const A* const spread = spreading.spread(quotients, row, memory);
      const PoolWindow<int64_t>& window = h.windows[p];
      const int64_t stored = spreading.positions();
      for (int64_t i = max64(begin, window.begin); i < min64(end, window.begin + window.count);
           ++i) {
        A* __restrict const dx = dx_row(i);
        if (h.covers[i].first == p) {  // the first window here
          for (int64_t j = 0; j < stored; ++j) dx[j] = spread[j];
          fill_row(dx + stored, 1, A{0}, W - stored);
        } else {
          for (int64_t j = 0; j < stored; ++j) dx[j] += spread[j];
        }
      }
    }
    for (int64_t i = begin; i < end && !in_place; ++i) {
      store_row(o.x.at<T>(n, c, i, 0), o.x.strides.w, dx_row(i), W);
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
void bwd_channels(const CpuPoolArgs& o) {
  using A = accumulator_t<T>;
  const Divisors<A> divisors(o);
  const int64_t W = o.w.x_size;
  for_channel_rows(o, o.h.x_size, 4 * W, [&](int64_t n, int64_t c0, int64_t lanes, int64_t h) {
    A* const buffer =
        static_cast<A*>(scratch(ScratchSlot::kTask, lanes * static_cast<int64_t>(sizeof(A))));
    const PoolCover<int64_t>& rows = o.h.covers[h];
    for (int64_t w = 0; w < W; ++w) {
      const PoolCover<int64_t>& columns = o.w.covers[w];
      T* const dx = o.x.at<T>(n, c0, h, w);
      A* sums = buffer;
      if constexpr (std::is_same_v<T, A>) sums = dx;
      fill_row(sums, 1, A{0}, lanes);
      for (int64_t p = rows.first; p < rows.first + rows.count; ++p) {
        for (int64_t q = columns.first; q < columns.first + columns.count; ++q) {
          add_quotients<T>(sums, o.y.at<T>(n, c0, p, q), o.y.strides.c,
                           divisors.row(p) * divisors.columns()[q], lanes);
        }
      }
      if (static_cast<void*>(sums) != dx) store_row(dx, 1, sums, lanes);
    }
  });
}

}  // namespace

void pool2d_avg_fwd(const CpuPoolArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { fwd<decltype(tag)>(args); });
}

void pool2d_avg_bwd(const CpuPoolArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    channels_adjacent(args.x.strides, args.C) ? bwd_channels<T>(args) : bwd_rows<T>(args);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
