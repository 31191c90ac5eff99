// The pooling vocabulary: x (N,C,H,W), y (N,C,P,Q), window R x S, or windows that follow from the
// sizes of x and y (adaptive pooling).
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "problem/checked_math.h"
#include "problem/math.h"

namespace fastconv {

// Number of pooling windows along one axis. Same formula as torch.nn.MaxPool2d; with ceil_mode the
// last window may be partial, but is dropped where it would start in the padding on the far side.
inline int64_t pool_out_size(int64_t in, int64_t kernel, int64_t stride, int64_t pad,
                             int64_t dilation, bool ceil_mode) {
  const int64_t padded = checked_add(in, checked_mul(2, pad, "padding"), "padded input size");
  const int64_t reach =
      checked_add(checked_mul(dilation, kernel - 1, "dilation * (kernel - 1)"), 1, "kernel reach");
  const int64_t slack =
      checked_add(padded - reach, ceil_mode ? stride - 1 : 0, "padded input size + stride");
  if (slack < 0) return 0;
  int64_t out = slack / stride + 1;
  if (ceil_mode && (out - 1) * stride >= in + pad) --out;
  return out;
}

struct PoolProblem {
  int64_t N = 1, C = 1, H = 1, W = 1, R = 1, S = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  bool ceil_mode = false;

  int64_t P() const { return pool_out_size(H, R, stride_h, pad_h, dilation_h, ceil_mode); }
  int64_t Q() const { return pool_out_size(W, S, stride_w, pad_w, dilation_w, ceil_mode); }

  int64_t x_elements() const { return checked_product("x elements", N, C, H, W); }
  int64_t y_elements() const { return checked_product("y elements", N, C, P(), Q()); }

  // One comparison or addition for each window element; the same forward and backward.
  int64_t flops() const { return checked_product("flops", y_elements(), R, S); }

  // Compulsory traffic of a pass over x and y (or their gradients), without indices.
  int64_t bytes(int64_t element_size) const {
    return checked_mul(checked_add(x_elements(), y_elements(), "elements"), element_size, "bytes");
  }

  // Throws std::invalid_argument unless the sizes describe a pooling that kernels may run.
  void validate() const {
    const auto require = [](bool ok, const char* message) {
      if (!ok) throw std::invalid_argument(std::string("PoolProblem: ") + message);
    };
    require(N >= 0 && C >= 0, "N and C must not be negative");
    require(H >= 1 && W >= 1, "H and W must be positive");
    require(R >= 1 && S >= 1, "the kernel size must be positive");
    require(stride_h >= 1 && stride_w >= 1, "the stride must be positive");
    for (const int64_t value : {R, S, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w}) {
      require(value <= INT32_MAX, "kernel size, stride, padding and dilation must fit 32 bits");
    }
    require(pad_h >= 0 && pad_w >= 0, "the padding must not be negative");
    require(dilation_h >= 1 && dilation_w >= 1, "the dilation must be positive");
    const int64_t p = P(), q = Q();  // from here on dilation * (kernel - 1) is known to fit
    require(pad_h <= (dilation_h * (R - 1) + 1) / 2 && pad_w <= (dilation_w * (S - 1) + 1) / 2,
            "the padding must be at most half of the dilated kernel size");
    x_elements();
    checked_product("y elements", N, C, p, q);
  }
};

// Adaptive pooling. Same formula as torch.nn.AdaptiveAvgPool2d: window p of an axis of H positions
// begins at floor(p * H / P) and ends before ceil((p + 1) * H / P).
struct AdaptivePoolProblem {
  int64_t N = 1, C = 1, H = 1, W = 1, P = 1, Q = 1;

  static int64_t window_begin(int64_t in, int64_t out, int64_t position) {
    return position * in / out;
  }
  static int64_t window_end(int64_t in, int64_t out, int64_t position) {
    return div_up((position + 1) * in, out);
  }

  int64_t x_elements() const { return checked_product("x elements", N, C, H, W); }
  int64_t y_elements() const { return checked_product("y elements", N, C, P, Q); }

  // Throws std::invalid_argument unless the sizes describe a pooling that kernels may run.
  void validate() const {
    const auto require = [](bool ok, const char* message) {
      if (!ok) throw std::invalid_argument(std::string("AdaptivePoolProblem: ") + message);
    };
    require(N >= 0 && C >= 0 && H >= 0 && W >= 0 && P >= 0 && Q >= 0,
            "N, C, H, W, P and Q must not be negative");
    require((H > 0 || P == 0) && (W > 0 || Q == 0), "a window needs H and W to be positive");
    x_elements();
    y_elements();
    // Largest terms of the window formula.
    checked_add(checked_mul(H, checked_add(P, 1, "P + 1"), "H * P"), P, "H * P + P");
    checked_add(checked_mul(W, checked_add(Q, 1, "Q + 1"), "W * Q"), Q, "W * Q + Q");
  }
};

}  // namespace fastconv
