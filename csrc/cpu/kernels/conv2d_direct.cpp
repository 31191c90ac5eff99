// Direct convolution: rows of multiply-adds, no workspace beyond a few rows, any strides.
//
//   fprop: one task = one image, kFilterBlock filters, one output row. For each (c, r) a row of x
//          is read once and, shifted by each tap s, added to kFilterBlock rows of sums.
//   dgrad: one task = one image, kFilterBlock channels, one row of dx; rows of dy are scattered
//          into it, tap by tap. A row of dx belongs to one task, so there are no atomics.
//   wgrad: one task = one (k, c): R*S sums in double, each over dot products of rows.
//
// Bound: 2*kFilterBlock FLOPs for each load from L1. Meant for few channels per group.
#include "cpu/runtime/kernels.h"
#include "cpu/staging/epilogue.h"
#include "cpu/vectors/rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kFilterBlock = 4;
constexpr int64_t kRowTile = 256;  // output positions whose sums stay in L1

// Stores a row of sums, which begins at (channel, h, w) of image n of the output.
template <typename T>
void store_sums(accumulator_t<T>* sums, int64_t count, const Epilogue& epilogue,
                const TensorView& out, int64_t n, int64_t channel, int64_t h, int64_t w) {
  const TensorView& residual = epilogue.residual;
  const T* const bias = static_cast<const T*>(epilogue.bias);
  store_epilogue<T>(sums, count, epilogue, bias == nullptr ? nullptr : bias + channel, 0,
                    residual.data == nullptr ? nullptr : residual.at<T>(n, channel, h, w),
                    residual.strides.w, out.at<T>(n, channel, h, w), out.strides.w);
}

template <typename T>
void fprop(const CpuConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), Cg = o.channels_per_group(), Kg = o.filters_per_group();
  const int64_t blocks = div_up(Kg, kFilterBlock);

  parallel_for(o.N * o.groups * blocks * P, args.num_threads, [&](int64_t task) {
    const int64_t p = task % P, block = task / P % blocks;
    const int64_t group = task / P / blocks % o.groups, n = task / P / blocks / o.groups;
    const int64_t k0 = group * Kg + block * kFilterBlock;
    const int64_t filters = min64(kFilterBlock, (group + 1) * Kg - k0);
    A* const row_buffer = static_cast<A*>(scratch(ScratchSlot::kTask, o.W * sizeof(A)));

    for (int64_t q0 = 0; q0 < Q; q0 += kRowTile) {
      const int64_t q1 = min64(q0 + kRowTile, Q);
      // The columns of x that this tile reads.
      const int64_t w_begin = max64(0, q0 * o.stride_w - o.pad_w);
      const int64_t w_end =
          min64(o.W, (q1 - 1) * o.stride_w - o.pad_w + (o.S - 1) * o.dilation_w + 1);
      A sums[kFilterBlock][kRowTile] = {};
      for (int64_t c = 0; c < Cg && w_begin < w_end; ++c) {
        for (int64_t r = 0; r < o.R; ++r) {
          const int64_t h = p * o.stride_h - o.pad_h + r * o.dilation_h;
          if (h < 0 || h >= o.H) continue;
          const A* const row = unit_row(row_buffer, args.x.at<T>(n, group * Cg + c, h, w_begin),
                                        args.x.strides.w, w_end - w_begin);
          for (int64_t s = 0; s < o.S; ++s) {
            const int64_t offset = s * o.dilation_w - o.pad_w;
            const Range q = valid_range(offset, o.stride_w, o.W, q0, q1);
            if (q.begin == q.end) continue;
            const A* const taps = row + (q.begin * o.stride_w + offset - w_begin);
            for (int64_t j = 0; j < filters; ++j) {
              axpy_gather(sums[j] + (q.begin - q0),
                          A(to_accumulator(*args.w.at<T>(k0 + j, c, r, s))), taps, o.stride_w,
                          q.end - q.begin);
            }
          }
        }
      }
      for (int64_t j = 0; j < filters; ++j) {
        store_sums<T>(sums[j], q1 - q0, args.epilogue, args.y, n, k0 + j, p, q0);
      }
    }
  });
}

template <typename T>
void dgrad(const CpuConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), Cg = o.channels_per_group(), Kg = o.filters_per_group();
  const int64_t blocks = div_up(Cg, kFilterBlock);

  parallel_for(o.N * o.groups * blocks * o.H, args.num_threads, [&](int64_t task) {
    const int64_t h = task % o.H, block = task / o.H % blocks;
    const int64_t group = task / o.H / blocks % o.groups, n = task / o.H / blocks / o.groups;
    const int64_t c0 = block * kFilterBlock;  // inside the group
    const int64_t channels = min64(kFilterBlock, Cg - c0);
    A* const dy_buffer = static_cast<A*>(scratch(ScratchSlot::kTask, Q * sizeof(A)));

    for (int64_t w0 = 0; w0 < o.W; w0 += kRowTile) {
      const int64_t w1 = min64(w0 + kRowTile, o.W);
      A sums[kFilterBlock][kRowTile] = {};
      // The columns of dy that reach this tile.
      const Range reach = {max64(0, div_up(w0 + o.pad_w - (o.S - 1) * o.dilation_w, o.stride_w)),
                           min64(Q, div_down(w1 - 1 + o.pad_w, o.stride_w) + 1)};
      for (int64_t r = 0; r < o.R && reach.begin < reach.end; ++r) {
        const int64_t p_scaled = h + o.pad_h - r * o.dilation_h;
        if (p_scaled < 0 || p_scaled % o.stride_h != 0 || p_scaled / o.stride_h >= P) continue;
        for (int64_t k = group * Kg; k < (group + 1) * Kg; ++k) {
          const A* const row =
              unit_row(dy_buffer, args.y.at<T>(n, k, p_scaled / o.stride_h, reach.begin),
                       args.y.strides.w, reach.end - reach.begin);
          for (int64_t s = 0; s < o.S; ++s) {
            const int64_t offset = s * o.dilation_w - o.pad_w;
            const Range q = valid_range(offset - w0, o.stride_w, w1 - w0, reach.begin, reach.end);
            if (q.begin == q.end) continue;
            for (int64_t j = 0; j < channels; ++j) {
              axpy_scatter(sums[j] + (q.begin * o.stride_w + offset - w0), o.stride_w,
                           A(to_accumulator(*args.w.at<T>(k, c0 + j, r, s))),
                           row + (q.begin - reach.begin), q.end - q.begin);
            }
          }
        }
      }
      for (int64_t j = 0; j < channels; ++j) {
        store_sums<T>(sums[j], w1 - w0, args.epilogue, args.x, n, group * Cg + c0 + j, h, w0);
      }
    }
  });
}

template <typename T>
void wgrad(const CpuConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), Cg = o.channels_per_group(), Kg = o.filters_per_group();

  parallel_for(o.K * Cg, args.num_threads, [&](int64_t task) {
    const int64_t k = task / Cg, c = task % Cg, x_channel = k / Kg * Cg + c;
    const int64_t sums_bytes = o.R * o.S * static_cast<int64_t>(sizeof(double));
    char* const memory = static_cast<char*>(
        scratch(ScratchSlot::kTask, sums_bytes + (Q + o.W) * static_cast<int64_t>(sizeof(A))));
    double* const sums = reinterpret_cast<double*>(memory);
    A* const dy_buffer = reinterpret_cast<A*>(memory + sums_bytes);
    A* const x_buffer = dy_buffer + Q;
    for (int64_t i = 0; i < o.R * o.S; ++i) sums[i] = 0;

    for (int64_t n = 0; n < o.N; ++n) {
      for (int64_t p = 0; p < P; ++p) {
        const A* const dy_row = unit_row(dy_buffer, args.y.at<T>(n, k, p, 0), args.y.strides.w, Q);
        for (int64_t r = 0; r < o.R; ++r) {
          const int64_t h = p * o.stride_h - o.pad_h + r * o.dilation_h;
          if (h < 0 || h >= o.H) continue;
          const A* const x_row =
              unit_row(x_buffer, args.x.at<T>(n, x_channel, h, 0), args.x.strides.w, o.W);
          for (int64_t s = 0; s < o.S; ++s) {
            const int64_t offset = s * o.dilation_w - o.pad_w;
            const Range q = valid_range(offset, o.stride_w, o.W, 0, Q);
            if (q.begin == q.end) continue;
            sums[r * o.S + s] +=
                static_cast<double>(dot(dy_row + q.begin, x_row + (q.begin * o.stride_w + offset),
                                        o.stride_w, q.end - q.begin));
          }
        }
      }
    }
    for (int64_t r = 0; r < o.R; ++r) {
      for (int64_t s = 0; s < o.S; ++s) {
        *args.w.at<T>(k, c, r, s) = from_accumulator<T>(static_cast<A>(sums[r * o.S + s]));
      }
    }
  });
}

}  // namespace

void conv2d_direct(ConvOp op, const CpuConvArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (op == ConvOp::fprop) return fprop<T>(args);
    if (op == ConvOp::dgrad) return dgrad<T>(args);
    return wgrad<T>(args);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
