// The oracle of every other kernel: the definition of a convolution, written as plain loops with
// sums in double. Compiled once, without vector instruction sets.
//   fprop: y[n,k,p,q]  = sum over c,r,s of x[n,c,h,w] * w[k,c,r,s]
//   dgrad: dx[n,c,h,w] = sum over k,p,q,r,s that meet (h,w) of dy[n,k,p,q] * w[k,c,r,s]
//   wgrad: dw[k,c,r,s] = sum over n,p,q of dy[n,k,p,q] * x[n,c,h,w]
// with h = p*stride_h - pad_h + r*dilation_h, w alike, and c counted inside the filter's group.
#include "cpu/reference/activation_reference.h"
#include "cpu/reference/elements.h"
#include "cpu/runtime/kernels.h"
#include "cpu/vectors/isa.h"

namespace fastconv {
namespace {

using namespace cpu::FASTCONV_ISA;

// Stores activation(sum + bias + residual).
template <typename T>
void finish(double sum, const Epilogue& epilogue, const TensorView& out, int64_t n, int64_t channel,
            int64_t h, int64_t w) {
  if (epilogue.bias != nullptr) {
    sum += static_cast<double>(to_accumulator(static_cast<const T*>(epilogue.bias)[channel]));
  }
  if (epilogue.residual.data != nullptr) sum += load<T>(epilogue.residual, n, channel, h, w);
  store<T>(out, n, channel, h, w, reference::activate(sum, epilogue.activation));
}

template <typename T>
void fprop(const CpuConvArgs& args) {
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), Cg = o.channels_per_group(), Kg = o.filters_per_group();
  parallel_for(o.N * o.K, args.num_threads, [&](int64_t task) {
    const int64_t n = task / o.K, k = task % o.K, first_c = k / Kg * Cg;
    for (int64_t p = 0; p < P; ++p) {
      for (int64_t q = 0; q < Q; ++q) {
        double sum = 0;
        for (int64_t c = 0; c < Cg; ++c) {
          for (int64_t r = 0; r < o.R; ++r) {
            const int64_t h = p * o.stride_h - o.pad_h + r * o.dilation_h;
            if (h < 0 || h >= o.H) continue;
            for (int64_t s = 0; s < o.S; ++s) {
              const int64_t w = q * o.stride_w - o.pad_w + s * o.dilation_w;
              if (w < 0 || w >= o.W) continue;
              sum += load<T>(args.x, n, first_c + c, h, w) * load<T>(args.w, k, c, r, s);
            }
          }
        }
        finish<T>(sum, args.epilogue, args.y, n, k, p, q);
      }
    }
  });
}

template <typename T>
void dgrad(const CpuConvArgs& args) {
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), Cg = o.channels_per_group(), Kg = o.filters_per_group();
  parallel_for(o.N * o.C, args.num_threads, [&](int64_t task) {
    const int64_t n = task / o.C, c = task % o.C, first_k = c / Cg * Kg;
    for (int64_t h = 0; h < o.H; ++h) {
      for (int64_t w = 0; w < o.W; ++w) {
        double sum = 0;
        for (int64_t r = 0; r < o.R; ++r) {
          const int64_t p_scaled = h + o.pad_h - r * o.dilation_h;
          if (p_scaled < 0 || p_scaled % o.stride_h != 0 || p_scaled / o.stride_h >= P) continue;
          for (int64_t s = 0; s < o.S; ++s) {
            const int64_t q_scaled = w + o.pad_w - s * o.dilation_w;
            if (q_scaled < 0 || q_scaled % o.stride_w != 0 || q_scaled / o.stride_w >= Q) continue;
            for (int64_t k = first_k; k < first_k + Kg; ++k) {
              sum += load<T>(args.y, n, k, p_scaled / o.stride_h, q_scaled / o.stride_w) *
                     load<T>(args.w, k, c % Cg, r, s);
            }
          }
        }
        finish<T>(sum, args.epilogue, args.x, n, c, h, w);
      }
    }
  });
}

template <typename T>
void wgrad(const CpuConvArgs& args) {
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), Cg = o.channels_per_group(), Kg = o.filters_per_group();
  parallel_for(o.K * Cg, args.num_threads, [&](int64_t task) {
    const int64_t k = task / Cg, c = task % Cg, x_channel = k / Kg * Cg + c;
    for (int64_t r = 0; r < o.R; ++r) {
      for (int64_t s = 0; s < o.S; ++s) {
        double sum = 0;
        for (int64_t n = 0; n < o.N; ++n) {
          for (int64_t p = 0; p < P; ++p) {
            const int64_t h = p * o.stride_h - o.pad_h + r * o.dilation_h;
            if (h < 0 || h >= o.H) continue;
            for (int64_t q = 0; q < Q; ++q) {
              const int64_t w = q * o.stride_w - o.pad_w + s * o.dilation_w;
              if (w < 0 || w >= o.W) continue;
              sum += load<T>(args.y, n, k, p, q) * load<T>(args.x, n, x_channel, h, w);
            }
          }
        }
        store<T>(args.w, k, c, r, s, sum);
      }
    }
  });
}

}  // namespace

void conv2d_reference(ConvOp op, const CpuConvArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (op == ConvOp::fprop) return fprop<T>(args);
    if (op == ConvOp::dgrad) return dgrad<T>(args);
    return wgrad<T>(args);
  });
}

}  // namespace fastconv
