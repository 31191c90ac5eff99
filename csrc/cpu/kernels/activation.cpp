// The activation on its own, and the backward of the epilogue: dz = dy * activation'(saved) and
// db[k] = sum of dz over n, p, q, in one pass over dy. Bound: bytes.
#include "cpu/runtime/kernels.h"
#include "cpu/staging/epilogue.h"
#include "cpu/vectors/rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kChannelBlock = 16;  // channels of one task; fixed, for it sets the order of sums

// dz[i] from dy[i] and saved[i], stored where wanted; returns them in accumulator type in `out`.
// The buffer, like out, holds count elements.
template <typename T>
static void backward_run(const EpilogueBackwardArgs& o, int64_t n, int64_t k, int64_t p, int64_t q,
                         int64_t Strides::* axis, int64_t count, accumulator_t<T>* out,
                         accumulator_t<T>* buffer) {
  load_row(out, static_cast<const T*>(o.dy.at<T>(n, k, p, q)), o.dy.strides.*axis, count);
  if (o.activation != Activation::none) {
    activation_gradient_row(out,
                            unit_row(buffer, static_cast<const T*>(o.saved.at<T>(n, k, p, q)),
                                     o.saved.strides.*axis, count),
                            count, o.activation);
  }
  if (o.dz.data != nullptr) {
    T* const dz = o.dz.at<T>(n, k, p, q);
    for (int64_t i = 0; i < count; ++i) dz[i * (o.dz.strides.*axis)] = from_accumulator<T>(out[i]);
  }
}

// Sums of a run are in accumulator type, sums over runs in double.
template <typename T>
void backward(const EpilogueBackwardArgs& o) {
  using A = accumulator_t<T>;
  const bool channels_adjacent = o.dy.strides.c == 1 && o.K > 1;
  parallel_for(div_up(o.K, kChannelBlock), o.num_threads, [&](int64_t task) {
    const int64_t k0 = task * kChannelBlock, channels = min64(kChannelBlock, o.K - k0);
    double sums[kChannelBlock] = {};
    const int64_t longest = max64(kChannelBlock, o.Q);
    A* const run =
        static_cast<A*>(scratch(ScratchSlot::kTask, 2 * longest * static_cast<int64_t>(sizeof(A))));
    A* const buffer = run + longest;
    for (int64_t n = 0; n < o.N; ++n) {
      for (int64_t p = 0; p < o.P; ++p) {
        if (channels_adjacent) {
          A row_sums[kChannelBlock] = {};
          for (int64_t q = 0; q < o.Q; ++q) {
            backward_run<T>(o, n, k0, p, q, &Strides::c, channels, run, buffer);
            for (int64_t k = 0; k < channels; ++k) row_sums[k] += run[k];
          }
          for (int64_t k = 0; k < channels; ++k) sums[k] += static_cast<double>(row_sums[k]);
        } else {
          for (int64_t k = 0; k < channels; ++k) {
            backward_run<T>(o, n, k0 + k, p, 0, &Strides::w, o.Q, run, buffer);
            A row_sum = 0;
            for (int64_t q = 0; q < o.Q; ++q) row_sum += run[q];
            sums[k] += static_cast<double>(row_sum);
          }
        }
      }
    }
    if (o.db != nullptr) {
      for (int64_t k = 0; k < channels; ++k) {
        static_cast<T*>(o.db)[k0 + k] = from_accumulator<T>(static_cast<A>(sums[k]));
      }
    }
  });
}

template <typename T>
void forward(const ActivationArgs& o) {
  using A = accumulator_t<T>;
  const bool channels_adjacent = o.y.strides.c == 1 && o.K > 1;
  Epilogue epilogue;
  epilogue.activation = o.activation;
  parallel_for(o.N * o.P, o.num_threads, [&](int64_t task) {
    const int64_t n = task / o.P, p = task % o.P;
    const int64_t outer = channels_adjacent ? o.Q : o.K, inner = channels_adjacent ? o.K : o.Q;
    A* const run =
        static_cast<A*>(scratch(ScratchSlot::kTask, inner * static_cast<int64_t>(sizeof(A))));
    for (int64_t i = 0; i < outer; ++i) {
      const int64_t k = channels_adjacent ? 0 : i, q = channels_adjacent ? i : 0;
      const auto axis = channels_adjacent ? &Strides::c : &Strides::w;
      load_row(run, static_cast<const T*>(o.z.at<T>(n, k, p, q)), o.z.strides.*axis, inner);
      store_epilogue<T>(run, inner, epilogue, nullptr, 0, nullptr, 0, o.y.at<T>(n, k, p, q),
                        o.y.strides.*axis);
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
