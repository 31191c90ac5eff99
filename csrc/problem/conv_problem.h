// The convolution vocabulary: x (N,C,H,W), w (K,C/groups,R,S), y (N,K,P,Q), and what follows from
// these sizes: output size, implicit GEMM shape, FLOPs and bytes.
//
//            fprop          dgrad          wgrad           one GEMM a group
//   gemm_m   N*P*Q          N*H*W          K/groups
//   gemm_n   K/groups       C/groups       R*S*C/groups
//   gemm_k   R*S*C/groups   R*S*K/groups   N*P*Q
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "problem/checked_math.h"

namespace fastconv {

enum class ConvOp { fprop, dgrad, wgrad };

struct GemmShape {
  int64_t gemm_m = 0;
  int64_t gemm_n = 0;
  int64_t gemm_k = 0;
};

// Number of window positions along one axis (floor mode). Same formula as torch.nn.Conv2d:
//   P = floor((H + 2*pad - dilation*(R-1) - 1) / stride) + 1, and 0 where no window fits.
inline int64_t conv_out_size(int64_t in, int64_t kernel, int64_t stride, int64_t pad,
                             int64_t dilation) {
  const int64_t padded = checked_add(in, checked_mul(2, pad, "padding"), "padded input size");
  const int64_t reach =
      checked_add(checked_mul(dilation, kernel - 1, "dilation * (kernel - 1)"), 1, "kernel reach");
  return padded < reach ? 0 : (padded - reach) / stride + 1;
}

struct ConvProblem {
  int64_t N = 1, C = 1, H = 1, W = 1, K = 1, R = 1, S = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t groups = 1;

  int64_t P() const { return conv_out_size(H, R, stride_h, pad_h, dilation_h); }
  int64_t Q() const { return conv_out_size(W, S, stride_w, pad_w, dilation_w); }
  int64_t channels_per_group() const { return C / groups; }
  int64_t filters_per_group() const { return K / groups; }
  bool is_depthwise() const { return groups == C && groups > 1; }

  int64_t x_elements() const { return checked_product("x elements", N, C, H, W); }
  int64_t w_elements() const { return checked_product("w elements", K, C / groups, R, S); }
  int64_t y_elements() const { return checked_product("y elements", N, K, P(), Q()); }

  GemmShape gemm_shape(ConvOp op) const {
    const int64_t crs = checked_product("R*S*C/groups", R, S, C / groups);
    const int64_t krs = checked_product("R*S*K/groups", R, S, K / groups);
    const int64_t npq = checked_product("N*P*Q", N, P(), Q());
    switch (op) {
      case ConvOp::fprop:
        return {npq, K / groups, crs};
      case ConvOp::dgrad:
        return {checked_product("N*H*W", N, H, W), C / groups, krs};
      case ConvOp::wgrad:
        return {K / groups, crs, npq};
    }
    throw std::logic_error("gemm_shape: unknown ConvOp " + std::to_string(static_cast<int>(op)));
  }

  // Two per multiply-add of the definition, padding taps included; the same for all three passes.
  int64_t flops(ConvOp) const {
    return checked_product("flops", 2, N, P(), Q(), K, R, S, C / groups);
  }

  // Compulsory traffic: each of x, w, y (or their gradients) crosses memory once.
  int64_t bytes(ConvOp, int64_t element_size) const {
    const int64_t elements =
        checked_add(checked_add(x_elements(), w_elements(), "elements"), y_elements(), "elements");
    return checked_mul(elements, element_size, "bytes");
  }

  // Throws std::invalid_argument unless the sizes describe a convolution that kernels may run.
  void validate() const {
    const auto require = [](bool ok, const char* message) {
      if (!ok) throw std::invalid_argument(std::string("ConvProblem: ") + message);
    };
    require(N >= 0 && C >= 0 && H >= 0 && W >= 0 && K >= 0,
            "N, C, H, W and K must not be negative");
    require(R >= 1 && S >= 1, "R and S must be positive");
    require(stride_h >= 1 && stride_w >= 1, "the stride must be positive");
    require(pad_h >= 0 && pad_w >= 0, "the padding must not be negative");
    require(dilation_h >= 1 && dilation_w >= 1, "the dilation must be positive");
    require(groups >= 1, "groups must be positive");
    require(C % groups == 0 && K % groups == 0, "C and K must be multiples of groups");
    x_elements();
    w_elements();
    y_elements();
  }
};

}  // namespace fastconv
