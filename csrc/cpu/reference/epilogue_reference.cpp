// The oracle of the epilogue's backward and of the activation on its own, in double:
//   y = activation(z)    dz = dy * activation'(saved)    db[k] = sum of dz over n, p, q
#include "cpu/reference/activation_reference.h"
#include "cpu/reference/elements.h"
#include "cpu/runtime/kernels.h"
#include "cpu/vectors/isa.h"

namespace fastconv {
namespace {

using namespace cpu::FASTCONV_ISA;

template <typename T>
void backward(const EpilogueBackwardArgs& args) {
  parallel_for(args.K, args.num_threads, [&](int64_t k) {
    double sum = 0;
    for (int64_t n = 0; n < args.N; ++n) {
      for (int64_t p = 0; p < args.P; ++p) {
        for (int64_t q = 0; q < args.Q; ++q) {
          double dz = load<T>(args.dy, n, k, p, q);
          if (args.saved.data != nullptr) {
            dz = reference::activation_gradient(dz, load<T>(args.saved, n, k, p, q),
                                                args.activation);
          }
          if (args.dz.data != nullptr) store<T>(args.dz, n, k, p, q, dz);
          sum += dz;
        }
      }
    }
    if (args.db != nullptr) {
      static_cast<T*>(args.db)[k] = from_accumulator<T>(static_cast<accumulator_t<T>>(sum));
    }
  });
}

template <typename T>
void forward(const ActivationArgs& args) {
  parallel_for(args.N * args.K, args.num_threads, [&](int64_t task) {
    const int64_t n = task / args.K, k = task % args.K;
    for (int64_t p = 0; p < args.P; ++p) {
      for (int64_t q = 0; q < args.Q; ++q) {
        store<T>(args.y, n, k, p, q,
                 reference::activate(load<T>(args.z, n, k, p, q), args.activation));
      }
    }
  });
}

}  // namespace

void epilogue_backward_reference(const EpilogueBackwardArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { backward<decltype(tag)>(args); });
}

void activation_forward_reference(const ActivationArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { forward<decltype(tag)>(args); });
}

}  // namespace fastconv
