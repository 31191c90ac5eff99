#include "plan/cuda_pool2d_plan.h"

#include <algorithm>
#include <stdexcept>

#include "problem/layout.h"

namespace fastconv {
namespace {

// Threads beyond this number no longer help to hide latency.
constexpr int64_t kEnoughThreads = 1 << 18;
// So far below 2^31 that no position of a tile or a window of one passes it.
constexpr int64_t kLongestTiledAxis = int64_t{1} << 29;

TensorSize x_size(const CudaPoolCall& call) {
  return {call.N, call.C, call.axes.h.x_size, call.axes.w.x_size};
}
TensorSize y_size(const CudaPoolCall& call) {
  return {call.N, call.C, call.axes.h.y_size, call.axes.w.y_size};
}

void check_positions(const PoolAxis& axis) {
  if (axis.x_size > INT32_MAX || axis.y_size > INT32_MAX) {
    throw std::invalid_argument("pooling on CUDA: an axis has 2^31 positions or more");
  }
}

// Whether 16 bytes of channels can be moved at once. float64 has no such kernels: two numbers are
// not worth one.
bool has_channel_vectors(const CudaPoolCall& call) {
  if (call.dtype == DType::float64) return false;
  const int64_t element = element_size(call.dtype), count = kAccessBytes / element;
  constexpr auto kAlong = &Strides::c;
  if (!has_vectors(call.x, x_size(call), element, kAlong, count) ||
      !has_vectors(call.y, y_size(call), element, kAlong, count)) {
    return false;
  }
  const int64_t place_bytes = call.offsets ? sizeof(int8_t) : sizeof(int64_t);
  return call.places.data == nullptr ||
         has_vectors(call.places, y_size(call), place_bytes, kAlong, count);
}

// A window over the whole of planes without gaps is a window over rows of H * W elements. An offset
// needs the window's rows and columns.
bool planes_join(const CudaPoolCall& call) {
  const PoolAxis &h = call.axes.h, &w = call.axes.w;
  return is_whole(h) && is_whole(w) && rows_join(call.x, h.x_size, w.x_size) &&
         h.x_size <= INT32_MAX / w.x_size && !call.offsets;
}

// Rows for each thread: more share the cost of finding a position, fewer leave nobody idle.
int rows_of_thread(int64_t elements, int64_t height) {
  int rows = 1;
  while (rows < 4 && rows < height && elements / (2 * rows) >= kEnoughThreads) rows *= 2;
  return rows;
}

// How many threads share a window of reduce. `windows` counts them over all vectors of channels.
void share_windows(CudaPoolPlan& plan, const PoolAxes& axes, int64_t windows) {
  constexpr int64_t kTapsOfLane = 8, kMostTapsOfLane = 64, kFarApart = 8;
  const PoolAxis& w = axes.w;
  const int64_t taps_h = longest_window(axes.h), taps_w = longest_window(w);
  const int64_t step_w = w.adaptive ? w.x_size / w.y_size : w.stride;
  // Neighbours that read far from each other would each fetch sectors for themselves.
  const bool apart =
      !plan.channels_inner && (w.y_size == 1 || step_w >= kFarApart) && taps_w >= kFarApart;
  int lanes = 1;
  while (2 * lanes <= kPoolThreads && taps_h * taps_w >= 2 * lanes * kTapsOfLane &&
         (apart || windows * lanes < kEnoughThreads || taps_h * taps_w > lanes * kMostTapsOfLane)) {
    const bool along_w = 2 * plan.lanes_w <= taps_w;
    (along_w ? plan.lanes_w : plan.lanes_h) *= 2;
    lanes *= 2;
  }
}

// Why strip (fwd) or tile (bwd) cannot run a call of max pooling, or null.
const char* untiled_reason(const CudaPoolCall& call) {
  const PoolAxis &h = call.axes.h, &w = call.axes.w;
  if (h.adaptive || w.adaptive) return "adaptive windows";
  if (call.dtype == DType::float64) return "float64 has only the kernel for any windows";
  if (h.kernel != w.kernel || (h.kernel != 2 && h.kernel != 3)) {
    return "the windows are neither 2x2 nor 3x3";
  }
  for (const PoolAxis& axis : {h, w}) {
    if (axis.stride != kPoolTileStride || axis.dilation != 1) {
      return "the stride is not 2, or there is dilation";
    }
    if (axis.x_size > kLongestTiledAxis || axis.y_size > kLongestTiledAxis) {
      return "an axis of more than 2^29 positions";
    }
  }
  if (call.op == PoolOp::max_fwd) return nullptr;
  if (!call.offsets) return "the maxima are told by indices, not by offsets";
  if (h.pad != w.pad || h.pad > h.kernel - 2) return "a padding that is not known when compiled";
  return nullptr;
}

// Whether dx is contiguous, one window holds each plane, and dy's elements are evenly spaced.
bool is_global(const CudaPoolCall& call) {
  const Strides &x = call.x.strides, &y = call.y.strides;
  const int64_t plane = call.axes.h.x_size * call.axes.w.x_size;
  return planes_join(call) && (plane == 1 || x.w == 1) && (call.C == 1 || x.c == plane) &&
         (call.N == 1 || x.n == call.C * plane) && (call.N == 1 || y.n == call.C * y.c) &&
         is_aligned(call.x.data, kAccessBytes);
}

void plan_reduce(CudaPoolPlan& plan, const CudaPoolCall& call, int64_t channel_vectors) {
  plan.algorithm = CudaPoolAlgorithm::reduce;
  plan.joined = planes_join(call);
  const PoolAxes axes = plan.joined ? joined_axes(call.axes) : call.axes;
  if (longest_window(axes.h) > INT32_MAX / longest_window(axes.w)) {
    throw std::invalid_argument("pooling on CUDA: a window has 2^31 elements or more");
  }
  const int64_t windows = call.N * channel_vectors * axes.h.y_size * axes.w.y_size;
  share_windows(plan, axes, windows);
  if (plan.lanes_h * plan.lanes_w == 1) plan.rows = rows_of_thread(windows, axes.h.y_size);
}

void plan_gather(CudaPoolPlan& plan, const CudaPoolCall& call, int64_t channel_vectors) {
  const int64_t H = call.axes.h.x_size, W = call.axes.w.x_size;
  plan.algorithm = CudaPoolAlgorithm::gather;
  plan.rows = rows_of_thread(call.N * channel_vectors * H * W, H);
}

void plan_tile(CudaPoolPlan& plan, const CudaPoolCall& call) {
  plan.algorithm = CudaPoolAlgorithm::tile;
  plan.rows = plan.vectorised ? kPoolTileRows<true> : kPoolTileRows<false>;
  plan.columns = kPoolTileColumns;
  plan.paired = !plan.vectorised && has_vectors(call.x, x_size(call), element_size(call.dtype),
                                                &Strides::w, kPoolTileColumns);
}

}  // namespace

PoolAxes joined_axes(const PoolAxes& axes) {
  return {{.adaptive = true}, {.x_size = axes.h.x_size * axes.w.x_size, .adaptive = true}};
}

CudaPoolPlan plan_pool2d_cuda(const CudaPoolCall& call) {
  check_positions(call.axes.h);
  check_positions(call.axes.w);
  CudaPoolPlan plan;
  plan.reason = "no elements";
  for (const TensorSize& size : {x_size(call), y_size(call)}) {
    if (size.n == 0 || size.c == 0 || size.h == 0 || size.w == 0) return plan;
  }
  plan.vectorised = has_channel_vectors(call);
  plan.channels_inner = plan.vectorised || channels_adjacent(call.x.strides, call.C);
  const int64_t channel_vectors =
      plan.vectorised ? call.C / (kAccessBytes / element_size(call.dtype)) : call.C;
  switch (call.op) {
    case PoolOp::max_fwd:
      plan.reason = untiled_reason(call);
      if (plan.reason != nullptr) {
        plan_reduce(plan, call, channel_vectors);
      } else {
        plan.algorithm = CudaPoolAlgorithm::strip;
        plan.rows = kPoolStripRows;
        plan.reason = "the windows are known when compiled";
      }
      return plan;
    case PoolOp::max_bwd:
      plan.reason = untiled_reason(call);
      if (plan.reason != nullptr) {
        plan_gather(plan, call, channel_vectors);
      } else {
        plan_tile(plan, call);
        plan.reason = "windows and padding are known when compiled";
      }
      return plan;
    case PoolOp::avg_fwd:
      plan_reduce(plan, call, channel_vectors);
      plan.reason = "the only forward kernel of averages";
      return plan;
    case PoolOp::avg_bwd:
      if (!plan.vectorised && is_global(call)) {
        plan.algorithm = CudaPoolAlgorithm::global;
        plan.vectorised = plan.joined = true;
        plan.reason = "one window over each plane of a contiguous dx";
      } else {
        plan_gather(plan, call, channel_vectors);
        plan.reason = plan.vectorised ? "vectors of channels" : "any windows and strides";
      }
      return plan;
  }
  throw std::invalid_argument("unknown PoolOp " + std::to_string(static_cast<int>(call.op)));
}

std::string CudaPoolPlan::tile_name() const {
  if (algorithm == CudaPoolAlgorithm::global) return "16 bytes of dx a thread";
  const std::string lanes = channels_inner ? ", lanes along channels" : ", lanes along columns";
  if (lanes_h * lanes_w > 1) {
    return std::to_string(lanes_h) + " x " + std::to_string(lanes_w) + " threads a window" + lanes;
  }
  return std::to_string(rows) + " x " + std::to_string(columns) + " elements a thread" + lanes;
}

}  // namespace fastconv
