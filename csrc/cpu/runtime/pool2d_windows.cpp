#include "cpu/runtime/pool2d_windows.h"

#include <algorithm>
#include <stdexcept>

namespace fastconv {
namespace {

// Lanes along the windows read a padded copy of a row. It may be this many times as long as the
// row, and longer by this many elements, which matter only where rows are short.
constexpr int64_t kPaddedRowLimit = 2;
constexpr int64_t kPaddedRowSlack = 64;

struct Divide {
  const PoolAxis& axis;

  int64_t by_dilation(int64_t n) const { return n / axis.dilation; }
  int64_t by_y_size(int64_t n) const { return n / axis.y_size; }
};

}  // namespace

void throw_bad_pool_index() {
  throw std::invalid_argument("max pooling backward: an index lies outside of its plane");
}

void PoolWindows::fill(Axis& axis, const PoolAxis& geometry, bool count_include_pad) {
  const PoolAxis& g = geometry;
  axis.windows.resize(static_cast<size_t>(g.y_size));
  for (int64_t p = 0; p < g.y_size; ++p) {
    axis.windows[static_cast<size_t>(p)] = pool_window<int64_t>(g, p, count_include_pad, Divide{g});
  }
  axis.axis.x_size = g.x_size;
  axis.axis.y_size = g.y_size;
  axis.axis.dilation = g.dilation;
  if (g.adaptive) return;
  const int64_t padded_size =
      g.y_size > 0 ? (g.y_size - 1) * g.stride + (g.kernel - 1) * g.dilation + 1 : 0;
  const bool lanes_along_windows = g.kernel <= g.y_size && g.stride <= g.x_size &&
                                   padded_size <= kPaddedRowLimit * g.x_size + kPaddedRowSlack;
  if (lanes_along_windows) {
    axis.axis.taps = g.kernel;
    axis.axis.stride = g.stride;
    axis.axis.pad = g.pad;
    axis.axis.padded_size = std::max(padded_size, g.pad + g.x_size);
  }
}

// Windows without dilation begin and end in rising order, so those that hold a position are
// adjacent.
void PoolWindows::fill_covers(Axis& axis) {
  const auto& windows = axis.windows;
  const int64_t y_size = axis.axis.y_size;
  axis.covers.resize(static_cast<size_t>(axis.axis.x_size));
  int64_t first = 0, last = 0;
  for (int64_t position = 0; position < axis.axis.x_size; ++position) {
    const auto end = [&](int64_t i) {
      const PoolWindow<int64_t>& window = windows[static_cast<size_t>(i)];
      return window.begin + window.count;
    };
    while (first < y_size && end(first) <= position) ++first;
    last = std::max(first, last);
    while (last < y_size && windows[static_cast<size_t>(last)].begin <= position) ++last;
    axis.covers[static_cast<size_t>(position)] = {first, last - first};
  }
}

// One window over the whole of planes without gaps is one window over rows of H*W elements: the
// kernels then need not go row by row. Flat indices are the same either way.
void PoolWindows::join_planes() {
  const int64_t elements = h_.axis.x_size * w_.axis.x_size;
  w_.windows[0] = {.begin = 0, .count = elements, .extent = w_.windows[0].extent};
  h_.windows[0] = {.begin = 0, .count = 1, .extent = h_.windows[0].extent};
  w_.axis = {.x_size = elements, .y_size = 1};
  h_.axis = {.x_size = 1, .y_size = 1};
}

PoolWindows::PoolWindows(const PoolAxes& given, int64_t N, int64_t C, const Strides& x,
                         bool count_include_pad, bool bwd) {
  PoolAxes axes = given;
  // Where y is empty no table need be as long as the other axis is.
  if (N == 0 || C == 0 || axes.h.y_size == 0 || axes.w.y_size == 0) {
    axes.h.y_size = axes.w.y_size = 0;
  }
  fill(h_, axes.h, count_include_pad);
  fill(w_, axes.w, count_include_pad);
  if (is_whole(axes.h) && is_whole(axes.w) && x.h == axes.w.x_size * x.w &&
      !channels_adjacent(x, C)) {
    join_planes();
  }
  if (bwd && axes.h.dilation == 1 && axes.w.dilation == 1) {
    fill_covers(h_);
    fill_covers(w_);
  }
  for (Axis* axis : {&h_, &w_}) {
    axis->axis.windows = axis->windows.data();
    axis->axis.covers = axis->covers.empty() ? nullptr : axis->covers.data();
  }
}

}  // namespace fastconv
