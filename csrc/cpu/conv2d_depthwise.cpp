// Depthwise convolution (one channel per group) with vector lanes along channels, for
// channels_last.
//
//   fprop, dgrad: one task = one row of y (dx); each pixel's kChannelBlock sums stay in registers
//                 while the taps pass by. The filter is packed once a call to [multiplier][tap][c].
//   wgrad:        one task = kWgradChannels channels; x and dy are read once a task, the sums of a
//                 row of pixels are float and are then added to sums in double.
//
// Bound: bytes. Any strides are right; adjacent channels are what makes it fast.
#include "cpu/epilogue.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kChannelBlock = 64;
constexpr int64_t kWgradChannels = 32;

// sums[l] += a[l * a_step] * b[l * b_step] for n lanes; the full block gets constant bounds, so
// that the compiler keeps its sums in registers.
template <int64_t kBlock, typename A, typename TA, typename TB>
static inline void multiply_add_lanes(A* __restrict sums, const TA* __restrict a, int64_t a_step,
                                      const TB* __restrict b, int64_t b_step, int64_t n) {
  if (n == kBlock && a_step == 1 && b_step == 1) {
    for (int64_t l = 0; l < kBlock; ++l) sums[l] += to_accumulator(a[l]) * to_accumulator(b[l]);
  } else {
    for (int64_t l = 0; l < n; ++l) {
      sums[l] += to_accumulator(a[l * a_step]) * to_accumulator(b[l * b_step]);
    }
  }
}

// The filter as [multiplier][tap][channel] in accumulator type.
template <typename T>
const accumulator_t<T>* pack_filter(const ConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t taps = o.R * o.S, multiplier = o.filters_per_group();
  A* const packed =
      static_cast<A*>(scratch(ScratchSlot::kShared, o.K * taps * static_cast<int64_t>(sizeof(A))));
  for (int64_t k = 0; k < o.K; ++k) {
    const int64_t c = k / multiplier, m = k % multiplier;
    for (int64_t tap = 0; tap < taps; ++tap) {
      packed[(m * taps + tap) * o.C + c] =
          to_accumulator(*args.w.at<T>(k, 0, tap / o.S, tap % o.S));
    }
  }
  return packed;
}

template <typename T>
void fprop(const ConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), taps = o.R * o.S, multiplier = o.filters_per_group();
  const A* const filter = pack_filter<T>(args);
  const Epilogue& epilogue = args.epilogue;
  const TensorView& residual = epilogue.residual;

  parallel_for(o.N * P, args.num_threads, [&](int64_t task) {
    const int64_t n = task / P, p = task % P;
    for (int64_t m = 0; m < multiplier; ++m) {
      for (int64_t c0 = 0; c0 < o.C; c0 += kChannelBlock) {
        const int64_t lanes = min64(kChannelBlock, o.C - c0), k0 = c0 * multiplier + m;
        A bias[kChannelBlock] = {};
        if (epilogue.bias != nullptr) {
          load_row(bias, static_cast<const T*>(epilogue.bias) + k0, multiplier, lanes);
        }
        for (int64_t q = 0; q < Q; ++q) {
          A sums[kChannelBlock] = {};
          for (int64_t r = 0; r < o.R; ++r) {
            const int64_t h = p * o.stride_h - o.pad_h + r * o.dilation_h;
            if (h < 0 || h >= o.H) continue;
            for (int64_t s = 0; s < o.S; ++s) {
              const int64_t w = q * o.stride_w - o.pad_w + s * o.dilation_w;
              if (w < 0 || w >= o.W) continue;
              multiply_add_lanes<kChannelBlock>(sums, args.x.at<T>(n, c0, h, w), args.x.strides.c,
                                                filter + (m * taps + r * o.S + s) * o.C + c0, 1,
                                                lanes);
            }
          }
          for (int64_t l = 0; l < lanes; ++l) sums[l] += bias[l];
          store_epilogue<T>(sums, lanes, epilogue, nullptr, 0,
                            residual.data ? residual.at<T>(n, k0, p, q) : nullptr,
                            residual.strides.c * multiplier, args.y.at<T>(n, k0, p, q),
                            args.y.strides.c * multiplier);
        }
      }
    }
  });
}

template <typename T>
void dgrad(const ConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), taps = o.R * o.S, multiplier = o.filters_per_group();
  const A* const filter = pack_filter<T>(args);

  parallel_for(o.N * o.H, args.num_threads, [&](int64_t task) {
    const int64_t n = task / o.H, h = task % o.H;
    for (int64_t c0 = 0; c0 < o.C; c0 += kChannelBlock) {
      const int64_t lanes = min64(kChannelBlock, o.C - c0);
      for (int64_t w = 0; w < o.W; ++w) {
        A sums[kChannelBlock] = {};
        for (int64_t r = 0; r < o.R; ++r) {
          const int64_t p_scaled = h + o.pad_h - r * o.dilation_h;
          if (p_scaled < 0 || p_scaled % o.stride_h != 0 || p_scaled / o.stride_h >= P) continue;
          for (int64_t s = 0; s < o.S; ++s) {
            const int64_t q_scaled = w + o.pad_w - s * o.dilation_w;
            if (q_scaled < 0 || q_scaled % o.stride_w != 0 || q_scaled / o.stride_w >= Q) continue;
            for (int64_t m = 0; m < multiplier; ++m) {
              multiply_add_lanes<kChannelBlock>(
                  sums,
                  args.y.at<T>(n, c0 * multiplier + m, p_scaled / o.stride_h,
                               q_scaled / o.stride_w),
                  args.y.strides.c * multiplier, filter + (m * taps + r * o.S + s) * o.C + c0, 1,
                  lanes);
            }
          }
        }
        store_epilogue<T>(sums, lanes, Epilogue{}, nullptr, 0, nullptr, 0,
                          args.x.at<T>(n, c0, h, w), args.x.strides.c);
      }
    }
  });
}

template <typename T>
void wgrad(const ConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), taps = o.R * o.S, multiplier = o.filters_per_group();
  const int64_t blocks = div_up(o.C, kWgradChannels);

  parallel_for(multiplier * blocks, args.num_threads, [&](int64_t task) {
    const int64_t m = task / blocks, c0 = task % blocks * kWgradChannels;
    const int64_t lanes = min64(kWgradChannels, o.C - c0), k0 = c0 * multiplier + m;
    const int64_t cells = taps * kWgradChannels;
    double* const sums = static_cast<double*>(
        scratch(ScratchSlot::kTask, cells * static_cast<int64_t>(sizeof(double) + sizeof(A))));
    A* const row_sums = reinterpret_cast<A*>(sums + cells);
    for (int64_t i = 0; i < cells; ++i) sums[i] = 0;

    for (int64_t n = 0; n < o.N; ++n) {
      for (int64_t p = 0; p < P; ++p) {
        for (int64_t i = 0; i < cells; ++i) row_sums[i] = 0;
        for (int64_t q = 0; q < Q; ++q) {
          const T* const dy = args.y.at<T>(n, k0, p, q);
          for (int64_t r = 0; r < o.R; ++r) {
            const int64_t h = p * o.stride_h - o.pad_h + r * o.dilation_h;
            if (h < 0 || h >= o.H) continue;
            for (int64_t s = 0; s < o.S; ++s) {
              const int64_t w = q * o.stride_w - o.pad_w + s * o.dilation_w;
              if (w < 0 || w >= o.W) continue;
              multiply_add_lanes<kWgradChannels>(
                  row_sums + (r * o.S + s) * kWgradChannels, dy, args.y.strides.c * multiplier,
                  args.x.at<T>(n, c0, h, w), args.x.strides.c, lanes);
            }
          }
        }
        for (int64_t i = 0; i < cells; ++i) sums[i] += static_cast<double>(row_sums[i]);
      }
    }
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t l = 0; l < lanes; ++l) {
        *args.w.at<T>(k0 + l * multiplier, 0, tap / o.S, tap % o.S) =
            from_accumulator<T>(static_cast<A>(sums[tap * kWgradChannels + l]));
      }
    }
  });
}

}  // namespace

void conv2d_depthwise(ConvOp op, const ConvArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (op == ConvOp::fprop) return fprop<T>(args);
    if (op == ConvOp::dgrad) return dgrad<T>(args);
    return wgrad<T>(args);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
