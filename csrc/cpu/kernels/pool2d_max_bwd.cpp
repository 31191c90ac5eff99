// Max pooling backward: dx[indices[p,q]] += dy[p,q]; one task owns a plane, or a block of an
// image's channels. Bound: bytes.
#include "cpu/kernels/pool2d_reduce.h"
#include "cpu/runtime/kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// plane[indices[i] * step + i * kApart] += dy[i]; windows that share a maximum come one by one.
// kApart is 0 for n windows of one plane, 1 for a window of each of n planes whose channels are
// adjacent. Returns false where an index is none of the plane's `size` positions; such a one is
// left out.
template <int kApart, typename S, typename T>
FASTCONV_PASS bool scatter_add(S* plane, int64_t step, int64_t size, const T* __restrict dy,
                               int64_t dy_step, const int64_t* __restrict indices,
                               int64_t indices_step, int64_t n) {
  bool valid = true;
  const auto pass = [&](int64_t dy_by, int64_t indices_by) {
    for (int64_t i = 0; i < n; ++i) {
      const int64_t index = indices[i * indices_by];
      if (static_cast<uint64_t>(index) < static_cast<uint64_t>(size)) {
        S& sum = plane[index * step + i * kApart];
        sum = from_accumulator<S>(to_accumulator(sum) + to_accumulator(dy[i * dy_by]));
      } else {
        valid = false;
      }
    }
  };
  dy_step == 1 && indices_step == 1 ? pass(1, 1) : pass(dy_step, indices_step);
  return valid;
}

// Whether no two windows of an axis have a position in common. One without elements counts as the
// position that its index names.
static inline bool windows_are_apart(const CpuPoolAxis& axis) {
  for (int64_t i = 0; i + 1 < axis.y_size; ++i) {
    const PoolWindow<int64_t>& window = axis.windows[i];
    if (window.begin + max64(0, window.count - 1) * axis.dilation >= axis.windows[i + 1].begin)
      return false;
  }
  return true;
}

// Whether index * dx.w leads to an element of dx.
static inline bool is_flat(const CpuPoolArgs& o) { return rows_join(o.x, o.h.x_size, o.w.x_size); }

// The gradient of `lanes` channels of an image is summed where it belongs, if dx is flat and S, the
// type of sums, is its type; else in a plane of scratch memory, channels adjacent, and S is the
// accumulator type.
template <typename S, typename T>
void bwd_summing(const CpuPoolArgs& o) {
  const CpuPoolAxis &h = o.h, &w = o.w;
  const Strides &dx = o.x.strides, &dy = o.y.strides, &index = o.indices.strides;
  const int64_t H = h.x_size, W = w.x_size, P = h.y_size, Q = w.y_size;
  const int64_t block = channels_adjacent(dx, o.C) ? channels_of_task(o.N, o.C) : 1;
  const int64_t blocks = div_up(o.C, block);
  const bool in_place = std::is_same_v<S, T> && is_flat(o);
  parallel_items(o.N * blocks, block * (H * W + 2 * P * Q), o.num_threads, [&](int64_t item) {
    const int64_t n = item / blocks, c0 = item % blocks * block, lanes = min64(block, o.C - c0);
    const int64_t step = in_place ? dx.w : lanes;
    S* const plane =
        in_place ? reinterpret_cast<S*>(o.x.at<T>(n, c0, 0, 0))
                 : static_cast<S*>(scratch(ScratchSlot::kTask,
                                           H * W * lanes * static_cast<int64_t>(sizeof(S))));
    if (step == lanes) {
      fill_row(plane, 1, S{}, H * W * lanes);
    } else {
      for (int64_t i = 0; i < H * W; ++i) fill_row(plane + i * step, 1, S{}, lanes);
    }
    bool valid = true;
    for (int64_t p = 0; p < P; ++p) {
      const T* const dy_row = o.y.at<T>(n, c0, p, 0);
      const int64_t* const indices = o.indices.at<int64_t>(n, c0, p, 0);
      if (block == 1) {
        valid &= scatter_add<0>(plane, step, H * W, dy_row, dy.w, indices, index.w, Q);
      } else {
        for (int64_t q = 0; q < Q; ++q) {
          valid &= scatter_add<1>(plane, step, H * W, dy_row + q * dy.w, dy.c,
                                  indices + q * index.w, index.c, lanes);
        }
      }
    }
    if (!valid) throw_bad_pool_index();
    if (in_place) return;
    if constexpr (std::is_same_v<S, accumulator_t<T>>) {
      const S* from = plane;
      for (int64_t i = 0; i < H; ++i) {
        if (block == 1) {
          store_row(o.x.at<T>(n, c0, i, 0), dx.w, from, W);
          from += W;
          continue;
        }
        for (int64_t j = 0; j < W; ++j, from += lanes) {
          store_row(o.x.at<T>(n, c0, i, j), dx.c, from, lanes);
        }
      }
    }
  });
}

template <typename T>
void bwd(const CpuPoolArgs& o) {
  using A = accumulator_t<T>;
  if constexpr (!std::is_same_v<T, A>) {
    // An element gets one gradient at most, which needs no rounding.
    if (is_flat(o) && windows_are_apart(o.h) && windows_are_apart(o.w)) {
      return bwd_summing<T, T>(o);
    }
  }
  return bwd_summing<A, T>(o);
}

}  // namespace

void pool2d_max_bwd(const CpuPoolArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { bwd<decltype(tag)>(args); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
