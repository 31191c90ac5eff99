// The oracle of the pooling kernels: the definitions as plain loops over taps, with every bound
// checked and averages in double. Compiled once, without vector instruction sets.
//   max fwd: y[n,c,p,q] = the element that stays when the window passes by row after row and one
//            replaces another where it is larger or NaN; its index is h * W + w
//   max bwd: dx[n,c,h,w] = sum over p,q with indices[n,c,p,q] = h * W + w of dy[n,c,p,q]
//   avg fwd: y[n,c,p,q] = sum over the window of x[n,c,h,w] / divisor(p, q)
//   avg bwd: dx[n,c,h,w] = sum over the windows that hold (h, w) of dy[n,c,p,q] / divisor(p, q)
#include "cpu/reference/elements.h"
#include "cpu/runtime/kernels.h"
#include "cpu/vectors/isa.h"

namespace fastconv {
namespace {

using namespace cpu::FASTCONV_ISA;

// One window along one axis before it is clipped: first, first + step, ..., `count` positions.
struct Taps {
  int64_t first, step, count, size, pad;

  int64_t at(int64_t tap) const { return first + tap * step; }
  bool inside(int64_t tap) const { return at(tap) >= 0 && at(tap) < size; }
  // Where a window that holds no element is counted: beside its taps, inside the tensor.
  int64_t fallback() const {
    const int64_t position = first < 0 ? first + div_up(-first, step) * step : first;
    return position < size ? position : size - 1;
  }
  int64_t extent(bool count_include_pad) const {
    int64_t result = 0;
    for (int64_t tap = 0; tap < count; ++tap) {
      result += count_include_pad ? at(tap) < size + pad : inside(tap);
    }
    return result;
  }
};

Taps taps_h(const PoolProblem& o, int64_t p) {
  return {p * o.stride_h - o.pad_h, o.dilation_h, o.R, o.H, o.pad_h};
}
Taps taps_w(const PoolProblem& o, int64_t q) {
  return {q * o.stride_w - o.pad_w, o.dilation_w, o.S, o.W, o.pad_w};
}
Taps adaptive_taps(int64_t in, int64_t out, int64_t position) {
  const int64_t begin = AdaptivePoolProblem::window_begin(in, out, position);
  return {begin, 1, AdaptivePoolProblem::window_end(in, out, position) - begin, in, 0};
}
Taps taps_h(const AdaptivePoolProblem& o, int64_t p) { return adaptive_taps(o.H, o.P, p); }
Taps taps_w(const AdaptivePoolProblem& o, int64_t q) { return adaptive_taps(o.W, o.Q, q); }

int64_t rows_of(const PoolProblem& o) { return o.P(); }
int64_t columns_of(const PoolProblem& o) { return o.Q(); }
int64_t rows_of(const AdaptivePoolProblem& o) { return o.P; }
int64_t columns_of(const AdaptivePoolProblem& o) { return o.Q; }

// body(h, w) for the elements of a window that lie inside the plane, row after row.
template <typename Body>
void for_window(const Taps& rows, const Taps& columns, const Body& body) {
  for (int64_t r = 0; r < rows.count; ++r) {
    if (!rows.inside(r)) continue;
    for (int64_t s = 0; s < columns.count; ++s) {
      if (columns.inside(s)) body(rows.at(r), columns.at(s));
    }
  }
}

template <typename T>
void max_fwd_window(const CpuPoolArgs& args, const Taps& rows, const Taps& columns, int64_t n,
                    int64_t c, int64_t p, int64_t q) {
  bool found = false;
  double max = -static_cast<double>(__builtin_inf());
  int64_t index = rows.fallback() * columns.size + columns.fallback();
  for_window(rows, columns, [&](int64_t h, int64_t w) {
    const double value = load<T>(args.x, n, c, h, w);
    if (!found || value > max || value != value) {
      found = true;
      max = value;
      index = h * columns.size + w;
    }
  });
  store<T>(args.y, n, c, p, q, max);
  if (args.indices.data != nullptr) *args.indices.at<int64_t>(n, c, p, q) = index;
}

template <typename T, typename Problem>
void plane(PoolOp op, const Problem& o, const CpuPoolArgs& args, bool count_include_pad, int64_t n,
           int64_t c) {
  const bool bwd = is_bwd(op);
  double* const dx = static_cast<double*>(
      scratch(ScratchSlot::kTask, bwd ? o.H * o.W * static_cast<int64_t>(sizeof(double)) : 0));
  for (int64_t i = 0; bwd && i < o.H * o.W; ++i) dx[i] = 0;

  const auto window = [&](const Taps& rows, const Taps& columns, int64_t p, int64_t q) {
    const auto divisor = [&] {
      const int64_t elements = rows.extent(count_include_pad) * columns.extent(count_include_pad);
      return args.divisor != 0 ? args.divisor : static_cast<double>(elements);
    };
    switch (op) {
      case PoolOp::max_fwd:
        return max_fwd_window<T>(args, rows, columns, n, c, p, q);
      case PoolOp::max_bwd: {
        const int64_t index = *args.indices.at<int64_t>(n, c, p, q);
        if (index < 0 || index >= o.H * o.W) throw_bad_pool_index();
        dx[index] += load<T>(args.y, n, c, p, q);
        return;
      }
      case PoolOp::avg_fwd: {
        double sum = 0;
        for_window(rows, columns,
                   [&](int64_t h, int64_t w) { sum += load<T>(args.x, n, c, h, w); });
        return store<T>(args.y, n, c, p, q, sum / divisor());
      }
      case PoolOp::avg_bwd: {
        const double share = load<T>(args.y, n, c, p, q) / divisor();
        return for_window(rows, columns, [&](int64_t h, int64_t w) { dx[h * o.W + w] += share; });
      }
    }
  };
  for (int64_t p = 0; p < rows_of(o); ++p) {
    for (int64_t q = 0; q < columns_of(o); ++q) window(taps_h(o, p), taps_w(o, q), p, q);
  }
  for (int64_t i = 0; bwd && i < o.H * o.W; ++i) store<T>(args.x, n, c, i / o.W, i % o.W, dx[i]);
}

template <typename Problem>
void run(PoolOp op, const Problem& o, const CpuPoolArgs& args, bool count_include_pad) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    parallel_for(o.N * o.C, args.num_threads, [&](int64_t task) {
      plane<decltype(tag)>(op, o, args, count_include_pad, task / o.C, task % o.C);
    });
  });
}

}  // namespace

void pool2d_reference(PoolOp op, const PoolProblem& problem, const CpuPoolArgs& args,
                      bool count_include_pad) {
  run(op, problem, args, count_include_pad);
}

void pool2d_reference(PoolOp op, const AdaptivePoolProblem& problem, const CpuPoolArgs& args,
                      bool count_include_pad) {
  run(op, problem, args, count_include_pad);
}

}  // namespace fastconv
