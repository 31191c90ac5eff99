// The activation on its own, and the backward of the epilogue: dz = dy * activation'(saved) and
// db[k] = sum of dz over n, p, q, in one pass over dy. Bound: bytes.
#include "cpu/runtime/kernels.h"
#include "cpu/vectors/activation_vectors.h"
#include "cpu/vectors/rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kChannelBlock = 16;  // channels of one task; fixed, for it sets the order of sums
constexpr int64_t kPiece = 1024;       // elements of a run that are activated at once, in L1

// dz = dy * activation'(saved) for `count` elements along `axis` from (n, k, p, q) on. They go to
// `out` in accumulator type, and to args.dz where the caller wants it. `buffer` is working memory
// for as many elements.
template <typename T>
static void backward_run(const EpilogueBackwardArgs& args, int64_t n, int64_t k, int64_t p,
                         int64_t q, int64_t Strides::* axis, int64_t count, accumulator_t<T>* out,
                         accumulator_t<T>* buffer) {
  load_row(out, static_cast<const T*>(args.dy.at<T>(n, k, p, q)), args.dy.strides.*axis, count);
  if (args.activation.kind != ActivationKind::none) {
    activation_gradient_row(out,
                            unit_row(buffer, static_cast<const T*>(args.saved.at<T>(n, k, p, q)),
                                     args.saved.strides.*axis, count),
                            count, args.activation);
  }
  if (args.dz.data != nullptr) {
    T* const dz = args.dz.at<T>(n, k, p, q);
    for (int64_t i = 0; i < count; ++i)
      dz[i * (args.dz.strides.*axis)] = from_accumulator<T>(out[i]);
  }
}

// Sums of a run are in accumulator type, sums over runs in double.
template <typename T>
void backward(const EpilogueBackwardArgs& args) {
  using A = accumulator_t<T>;
  const bool channels_adjacent = args.dy.strides.c == 1 && args.K > 1;
  parallel_for(div_up(args.K, kChannelBlock), args.num_threads, [&](int64_t task) {
    const int64_t k0 = task * kChannelBlock, channels = min64(kChannelBlock, args.K - k0);
    double sums[kChannelBlock] = {};
    const int64_t longest = max64(kChannelBlock, args.Q);
    A* const run =
        static_cast<A*>(scratch(ScratchSlot::kTask, 2 * longest * static_cast<int64_t>(sizeof(A))));
    A* const buffer = run + longest;
    for (int64_t n = 0; n < args.N; ++n) {
      for (int64_t p = 0; p < args.P; ++p) {
        if (channels_adjacent) {
          A row_sums[kChannelBlock] = {};
          for (int64_t q = 0; q < args.Q; ++q) {
            backward_run<T>(args, n, k0, p, q, &Strides::c, channels, run, buffer);
            for (int64_t k = 0; k < channels; ++k) row_sums[k] += run[k];
          }
          for (int64_t k = 0; k < channels; ++k) sums[k] += static_cast<double>(row_sums[k]);
        } else {
          for (int64_t k = 0; k < channels; ++k) {
            backward_run<T>(args, n, k0 + k, p, 0, &Strides::w, args.Q, run, buffer);
            A row_sum = 0;
            for (int64_t q = 0; q < args.Q; ++q) row_sum += run[q];
            sums[k] += static_cast<double>(row_sum);
          }
        }
      }
    }
    if (args.db != nullptr) {
      for (int64_t k = 0; k < channels; ++k) {
        static_cast<T*>(args.db)[k0 + k] = from_accumulator<T>(static_cast<A>(sums[k]));
      }
    }
  });
}

// An axis of z and y.
struct Axis {
  int64_t extent, z_stride, y_stride;

  // Whether its positions are runs like `inner` that follow each other in both tensors.
  bool continues(const Axis& inner) const {
    return extent == 1 ||
           (z_stride == inner.z_stride * inner.extent && y_stride == inner.y_stride * inner.extent);
  }
};

template <typename T>
void forward(const ActivationArgs& args) {
  using A = accumulator_t<T>;
  const auto axis = [&](int64_t extent, int64_t Strides::* along) {
    return Axis{extent, args.z.strides.*along, args.y.strides.*along};
  };
  const Axis n = axis(args.N, &Strides::n), k = axis(args.K, &Strides::c),
             p = axis(args.P, &Strides::h), q = axis(args.Q, &Strides::w);
  const bool channels_adjacent = args.y.strides.c == 1 && args.K > 1;
  const Axis outer[] = {n, channels_adjacent ? p : k, channels_adjacent ? q : p};
  Axis run = channels_adjacent ? k : q;
  int axes = 3;  // of outer, beside the run: none where both tensors are dense, of one layout
  for (; axes > 0 && (run.extent == 1 || outer[axes - 1].continues(run)); --axes) {
    const Axis& next = outer[axes - 1];
    run = run.extent == 1 ? next : Axis{run.extent * next.extent, run.z_stride, run.y_stride};
  }

  const int64_t pieces = div_up(run.extent, kPiece);
  int64_t tasks = pieces;
  for (int i = 0; i < axes; ++i) tasks *= outer[i].extent;
  parallel_for(tasks, args.num_threads, [&](int64_t task) {
    const int64_t first = task % pieces * kPiece, count = min64(kPiece, run.extent - first);
    const T* z = static_cast<const T*>(args.z.data) + first * run.z_stride;
    T* y = static_cast<T*>(args.y.data) + first * run.y_stride;
    int64_t rest = task / pieces;
    for (int i = axes - 1; i >= 0; rest /= outer[i--].extent) {
      z += rest % outer[i].extent * outer[i].z_stride;
      y += rest % outer[i].extent * outer[i].y_stride;
    }
    const auto activate = [&](A* row) {
      load_row(row, z, run.z_stride, count);
      activate_row(row, count, args.activation);
    };
    if constexpr (std::is_same_v<T, A>) {
      if (run.y_stride == 1) return activate(y);
    }
    A row[kPiece];
    activate(row);
    store_row(y, run.y_stride, row, count);
  });
}

}  // namespace

void epilogue_backward(const EpilogueBackwardArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { backward<decltype(tag)>(args); });
}

void activation_forward(const ActivationArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { forward<decltype(tag)>(args); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
