#include "cpu/runtime/pool2d_windows.h"

#include <algorithm>
#include <stdexcept>

namespace fastconv {
namespace {

// Lanes along the windows read a padded copy of a row; it may be this many times the row.
constexpr int64_t kPaddedRowLimit = 2;
constexpr int64_t kPaddedRowSlack = 64;  // elements; for rows so short that the factor says little

}  // namespace

void throw_bad_pool_index() {
  throw std::invalid_argument("max pooling backward: an index lies outside of its plane");
}

void PoolWindows::fill(Axis& axis, int64_t in, int64_t kernel, int64_t stride, int64_t pad,
                       int64_t dilation, int64_t out, bool count_include_pad) {
  axis.windows.resize(static_cast<size_t>(out));
  for (int64_t position = 0; position < out; ++position) {
    const int64_t start = position * stride - pad;
    // Taps before the tensor are skipped, and taps past its end dropped.
    const int64_t skipped = start < 0 ? div_up(-start, dilation) : 0;
    const int64_t begin = start + skipped * dilation;
    const int64_t inside = begin < in ? (in - 1 - begin) / dilation + 1 : 0;
    const int64_t count = std::clamp<int64_t>(kernel - skipped, 0, inside);
    const int64_t with_padding = std::min(start + kernel, in + pad) - start;
    axis.windows[static_cast<size_t>(position)] = {std::min(begin, in - 1), count,
                                                   count_include_pad ? with_padding : count};
  }
  const int64_t padded_size = out > 0 ? (out - 1) * stride + (kernel - 1) * dilation + 1 : 0;
  const bool lanes_along_windows =
      kernel <= out && stride <= in && padded_size <= kPaddedRowLimit * in + kPaddedRowSlack;
  axis.axis.in_size = in;
  axis.axis.out_size = out;
  axis.axis.step = dilation;
  if (lanes_along_windows) {
    axis.axis.taps = kernel;
    axis.axis.stride = stride;
    axis.axis.pad = pad;
    axis.axis.padded_size = std::max(padded_size, pad + in);
  }
}

void PoolWindows::fill_adaptive(Axis& axis, int64_t in, int64_t out) {
  axis.windows.resize(static_cast<size_t>(out));
  for (int64_t position = 0; position < out; ++position) {
    const int64_t begin = AdaptivePoolProblem::window_begin(in, out, position);
    const int64_t count = AdaptivePoolProblem::window_end(in, out, position) - begin;
    axis.windows[static_cast<size_t>(position)] = {begin, count, count};
  }
  axis.axis.in_size = in;
  axis.axis.out_size = out;
}

// Windows without dilation begin and end in rising order, so those that hold a position are
// adjacent.
void PoolWindows::fill_covers(Axis& axis) {
  const auto& windows = axis.windows;
  const int64_t out = axis.axis.out_size;
  axis.covers.resize(static_cast<size_t>(axis.axis.in_size));
  int64_t first = 0, last = 0;
  for (int64_t position = 0; position < axis.axis.in_size; ++position) {
    const auto end = [&](int64_t i) {
      const PoolWindow& window = windows[static_cast<size_t>(i)];
      return window.begin + window.count;
    };
    while (first < out && end(first) <= position) ++first;
    last = std::max(first, last);
    while (last < out && windows[static_cast<size_t>(last)].begin <= position) ++last;
    axis.covers[static_cast<size_t>(position)] = {first, last - first, 0};
  }
}

// One window over the whole of planes without gaps is one window over rows of H*W elements: the
// kernels then need not go row by row. Flat indices are the same either way.
void PoolWindows::finish(const Strides& x, int64_t channels, bool covers) {
  const auto whole = [](const Axis& axis) {
    return axis.axis.out_size == 1 && axis.windows[0].count == axis.axis.in_size &&
           axis.axis.step == 1;
  };
  if (whole(h_) && whole(w_) && x.h == w_.axis.in_size * x.w && !channels_adjacent(x, channels)) {
    const int64_t elements = h_.axis.in_size * w_.axis.in_size;
    w_.windows[0] = {0, elements, w_.windows[0].extent};
    h_.windows[0] = {0, 1, h_.windows[0].extent};
    w_.axis = {.in_size = elements, .out_size = 1};
    h_.axis = {.in_size = 1, .out_size = 1};
  }
  if (covers && h_.axis.step == 1 && w_.axis.step == 1) {
    fill_covers(h_);
    fill_covers(w_);
  }
  for (Axis* axis : {&h_, &w_}) {
    axis->axis.windows = axis->windows.data();
    axis->axis.covers = axis->covers.empty() ? nullptr : axis->covers.data();
  }
}

PoolWindows::PoolWindows(const PoolProblem& o, const Strides& x, bool count_include_pad,
                         bool covers) {
  const bool empty = o.y_elements() == 0;  // then no table need be as long as the other axis is
  fill(h_, o.H, o.R, o.stride_h, o.pad_h, o.dilation_h, empty ? 0 : o.P(), count_include_pad);
  fill(w_, o.W, o.S, o.stride_w, o.pad_w, o.dilation_w, empty ? 0 : o.Q(), count_include_pad);
  finish(x, o.C, covers);
}

PoolWindows::PoolWindows(const AdaptivePoolProblem& o, const Strides& x, bool, bool covers) {
  const bool empty = o.y_elements() == 0;
  fill_adaptive(h_, o.H, empty ? 0 : o.P);
  fill_adaptive(w_, o.W, empty ? 0 : o.Q);
  finish(x, o.C, covers);
}

}  // namespace fastconv
