// A pooling pass -> the CUDA kernel that runs it, how its threads divide the work, and why. Host
// code alone like plan/cuda_plan.h, compiled into both native modules: every launch follows this
// plan, and fastconv.explain shows it. A plan is made for each call, so it allocates nothing.
#pragma once

#include <cstdint>
#include <string>

#include "problem/pool_windows.h"
#include "problem/tensor.h"

namespace fastconv {

enum class CudaPoolAlgorithm {
  reduce,  // fwd, any windows: a thread, or a group of threads, reduces a window
  strip,   // fwd of max, 2x2 or 3x3 windows of stride 2: a thread reduces two of them together
  gather,  // bwd, any windows: a thread sums what the windows around its elements send back
  tile,    // bwd of max, the windows of strip: the same for a tile of dx, taps known when compiled
  global   // bwd of avg, one window over each plane: a thread writes 16 bytes of dx
};

inline constexpr int kPoolThreads = 256;   // of a block
inline constexpr int kPoolTileStride = 2;  // of the windows of strip and tile
// A thread of strip owns kPoolStripRows elements of y below one another, a thread of tile
// kPoolTileRows x kPoolTileColumns elements of dx: more rows where each is a small load.
inline constexpr int kPoolStripRows = 2;
inline constexpr int kPoolTileColumns = 2;
template <bool kVectorised>
inline constexpr int kPoolTileRows = kVectorised ? 2 : 4;

// Everything that a plan may depend on. bwd reads y as dy, and places, and writes x as dx.
struct CudaPoolCall {
  PoolOp op = PoolOp::max_fwd;
  int64_t N = 1, C = 1;
  PoolAxes axes;
  DType dtype = DType::float32;
  TensorView x, y;
  // Where each window has its maximum; null where fwd need not write it. int64 indices h * W + w
  // or, with `offsets`, int8 offsets r * S + s within the window (plain windows, R * S <= 128).
  TensorView places;
  bool offsets = false;
};

struct CudaPoolPlan {
  CudaPoolAlgorithm algorithm = CudaPoolAlgorithm::reduce;
  bool vectorised = false;       // 16-byte accesses along channels (global: along dx)
  bool channels_inner = false;   // adjacent threads take adjacent channels, else adjacent columns
  int rows = 1, columns = 1;     // of y (fwd) or dx (bwd) that a thread owns
  int lanes_h = 1, lanes_w = 1;  // threads that share a window: reduce only, powers of two
  bool joined = false;           // each plane is read as one row of H * W elements
  bool paired = false;           // tile: two adjacent columns of dx are stored at once
  const char* reason = "";

  std::string tile_name() const;
};

// Throws std::invalid_argument for sizes that no kernel takes.
CudaPoolPlan plan_pool2d_cuda(const CudaPoolCall& call);

// The axes of a window over the whole of planes that are read as rows (CudaPoolPlan::joined).
PoolAxes joined_axes(const PoolAxes& axes);

}  // namespace fastconv
