// The activation on its own, and the backward of the epilogue: dz = dy * activation'(saved) and
// db[k] = sum of dz over n, p, q, in one pass over dy. Bound: bytes.
#include "cpu/runtime/kernels.h"
#include "cpu/staging/epilogue.h"
#include "cpu/vectors/rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kChannelBlock = 16;  // channels of one task; fixed, for it sets the order of sums

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

template <typename T>
void forward(const ActivationArgs& args) {
  using A = accumulator_t<T>;
  const bool channels_adjacent = args.y.strides.c == 1 && args.K > 1;
  Epilogue epilogue;
  epilogue.activation = args.activation;
  parallel_for(args.N * args.P, args.num_threads, [&](int64_t task) {
    const int64_t n = task / args.P, p = task % args.P;
    const int64_t outer = channels_adjacent ? args.Q : args.K,
                  inner = channels_adjacent ? args.K : args.Q;
    A* const run =
        static_cast<A*>(scratch(ScratchSlot::kTask, inner * static_cast<int64_t>(sizeof(A))));
    for (int64_t i = 0; i < outer; ++i) {
      const int64_t k = channels_adjacent ? 0 : i, q = channels_adjacent ? i : 0;
      const auto axis = channels_adjacent ? &Strides::c : &Strides::w;
      load_row(run, static_cast<const T*>(args.z.at<T>(n, k, p, q)), args.z.strides.*axis, inner);
      store_epilogue<T>(run, inner, epilogue, nullptr, 0, nullptr, 0, args.y.at<T>(n, k, p, q),
                        args.y.strides.*axis);
    }
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
