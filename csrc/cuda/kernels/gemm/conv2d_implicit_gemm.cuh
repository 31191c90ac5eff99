// fprop and dgrad on the tensor cores, as an implicit GEMM (sm_80 and later).
//
//   out (gemm_m x gemm_n) = gathered (gemm_m x gemm_k) * filters^T (gemm_n x gemm_k)
//   gemm_m: output pixels (n, p, q), gemm_n: output channels of a group, gemm_k: (tap, channel)
//   fprop gathers x with the filter's taps; dgrad gathers dy, once for each residue class of the
//   output position modulo the stride (plan/implicit_gemm_geometry.h), all in one launch.
//
//          gemm_k ->                   A block owns kTileM x kTileN of out and walks along gemm_k
//          in
//        +--+--+--+     +---------+    slabs of 64 bytes. Filters come by cp.async from rows packed
//   m    |A0|A1|A2| ... | kTileM  |    in (tap, channel) order. The gathered operand comes
//        +--+--+--+     | x kTileN|    - vectorised: by cp.async too, 16 bytes of channels of one
//                       +---------+      pixel; a ring of kGemmStages slabs;
//                                      - otherwise: element by element through registers, lanes
//                                      along
//                                        pixels (NCHW rows), the next slab in flight during this
//                                        one.
//   Sums go through shared memory to be stored along channels or pixels, whichever is contiguous,
//   with the epilogue; or, with gemm_k split, as float32 partial sums (split_k_reduce.cuh).
//
// Filters lie along gemm_n, where mma is 8 wide and not 16: few filters need a narrow tile, and no
// exchange of the operands.
// Bound: mma for many channels (a slab moves 64 B x (kTileM + kTileN) for kTileM * kTileN * kTileK
// multiply-adds); bytes of x and y for 1x1 and small K.
// Limits: every extent below 2^30, an image of the gathered tensor within 2^31 elements; at most
// kMaxGemmClasses classes.
#pragma once

#include "cuda/device/cp_async.cuh"
#include "cuda/device/epilogue.cuh"
#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/kernels/gemm/implicit_gemm_tile.cuh"

namespace fastconv::cuda {

// One residue class of output positions; fprop has a single one.
struct GemmClass {
  FastDivmod image, width;  // output positions of this class, per image and per row
  FastDivmod taps_w;
  int out_h = 0, out_w = 0;            // first output position
  int in_h = 0, in_w = 0;              // what the first tap reads there
  int tap_h_step = 0, tap_w_step = 0;  // from tap to tap
  int gemm_m = 0, gemm_k = 0;
  int first_tile = 0;   // tiles along gemm_m of the classes before
  int filter_row = 0;   // elements of a packed row
  int64_t filters = 0;  // element offset of this class' packed filters
};

enum class GemmStore { vectors, channels, pixels };

struct ImplicitGemmParams {
  TensorView in, out;
  const void* filters = nullptr;  // (class, group, gemm_n, filter_row)
  float* partial = nullptr;       // (split, output pixel, group, gemm_n), or null
  Epilogue epilogue;
  GemmStore store = GemmStore::channels;
  int in_h = 0, in_w = 0, in_h_step = 1, in_w_step = 1;  // gathered tensor; step per position
  int out_height = 0, out_width = 0, out_h_step = 1, out_w_step = 1;
  int64_t out_pixels = 0;  // N * out_height * out_width
  int gemm_n = 0;          // of a group
  int groups = 1, splits = 1, num_classes = 1;
  FastDivmod channels;          // gathered channels of a group
  FastDivmod tiles_n, tiles_m;  // tiles_m: of all classes
  GemmClass classes[kMaxGemmClasses];
};

// What the block has to do: blockIdx.x = (group, tile along m, tile along n), blockIdx.y = split.
struct GemmBlock {
  int cls, group, row0, column0, slab_begin, slab_end;

  template <typename Config>
  __device__ __forceinline__ static GemmBlock locate(const ImplicitGemmParams& o) {
    uint32_t tile_n, tile_m;
    GemmBlock block;
    block.group = o.tiles_m.divmod(o.tiles_n.divmod(blockIdx.x, tile_n), tile_m);
    block.cls = 0;
    while (block.cls + 1 < o.num_classes &&
           static_cast<int>(tile_m) >= o.classes[block.cls + 1].first_tile) {
      ++block.cls;
    }
    const GemmClass& cls = o.classes[block.cls];
    block.row0 = (static_cast<int>(tile_m) - cls.first_tile) * Config::kTileM;
    block.column0 = static_cast<int>(tile_n) * Config::kTileN;
    const int slabs = div_up(cls.gemm_k, Config::kTileK);
    const int per_split = div_up(slabs, o.splits);
    block.slab_begin = min_of(static_cast<int>(blockIdx.y) * per_split, slabs);
    block.slab_end = min_of(block.slab_begin + per_split, slabs);
    return block;
  }
};

// A row of gemm_m as the gather sees it: the position that a tap at offset 0 reads.
template <typename T>
struct GatherRow {
  const T* in;
  int h, w;
};

// `in` is the gathered tensor's first channel of the group.
template <typename T>
__device__ __forceinline__ GatherRow<T> gather_row(const ImplicitGemmParams& o,
                                                   const GemmClass& cls, const T* in, int m) {
  if (m >= cls.gemm_m) return {in, kNowhere, 0};
  uint32_t pixel, q;
  const int64_t n = cls.image.divmod(m, pixel);
  const int p = cls.width.divmod(pixel, q);
  const int h = p * o.in_h_step + cls.in_h, w = static_cast<int>(q) * o.in_w_step + cls.in_w;
  return {in + n * o.in.strides.n + h * o.in.strides.h + w * o.in.strides.w, h, w};
}

// An element of gemm_k: what it adds to the row's position. An image's offsets fit 32 bits.
struct alignas(16) GatherTap {
  int offset, h, w;
};

__device__ __forceinline__ GatherTap gather_tap(const ImplicitGemmParams& o, const GemmClass& cls,
                                                int k) {
  if (k >= cls.gemm_k) return {0, kNowhere, 0};
  uint32_t channel, tap_w;
  const int tap_h = cls.taps_w.divmod(o.channels.divmod(k, channel), tap_w);
  const int h = tap_h * cls.tap_h_step, w = static_cast<int>(tap_w) * cls.tap_w_step;
  return {h * static_cast<int>(o.in.strides.h) + w * static_cast<int>(o.in.strides.w) +
              static_cast<int>(channel) * static_cast<int>(o.in.strides.c),
          h, w};
}

template <typename T>
__device__ __forceinline__ bool inside(const ImplicitGemmParams& o, const GatherRow<T>& row,
                                       const GatherTap& tap) {
  return static_cast<unsigned>(row.h + tap.h) < static_cast<unsigned>(o.in_h) &&
         static_cast<unsigned>(row.w + tap.w) < static_cast<unsigned>(o.in_w);
}

// The filters of a block: rows of packed elements, 16 bytes at a time.
template <typename Config>
struct FilterRows {
  using T = typename Config::element_t;
  static constexpr int kRowStep = Config::kThreads / kSlabChunks;
  static constexpr int kRows = Config::kTileN / kRowStep;  // of a thread
  static_assert(Config::kTileN % kRowStep == 0);

  const GemmClass& cls;
  const T* first;
  int rows, row, chunk;

  __device__ __forceinline__ FilterRows(const ImplicitGemmParams& o, const GemmBlock& block)
      : cls(o.classes[block.cls]) {
    chunk = static_cast<int>(threadIdx.x) % kSlabChunks;
    row = static_cast<int>(threadIdx.x) / kSlabChunks;
    const int64_t column = static_cast<int64_t>(block.group) * o.gemm_n + block.column0 + row;
    first = static_cast<const T*>(o.filters) + cls.filters + column * cls.filter_row;
    rows = o.gemm_n - block.column0 - row;  // the thread's i-th row is there if i*kRowStep < rows
  }

  __device__ __forceinline__ void load(int slab, unsigned char* place, const void* anywhere) const {
    const int k = slab * Config::kTileK + chunk * Config::kVector;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool valid = i * kRowStep < rows && k < cls.gemm_k;
      cp_async_16(
          place + slab_offset(row + i * kRowStep, chunk),
          valid ? first + static_cast<int64_t>(i * kRowStep) * cls.filter_row + k : anywhere,
          valid);
    }
  }
};

// ---- main loop, vectorised gather
// ----------------------------------------------------------------

template <typename Config>
struct VectorGather {
  using T = typename Config::element_t;
  static constexpr int kRowStep = Config::kThreads / kSlabChunks;
  static constexpr int kRows = Config::kTileM / kRowStep;  // of a thread
  static_assert(Config::kTileM % kRowStep == 0);

  struct Storage {
    unsigned char a[kGemmStages][Config::kTileM * kGemmSlabBytes];
    unsigned char b[kGemmStages][Config::kTileN * kGemmSlabBytes];
  };

  template <bool kGuarded>
  __device__ __forceinline__ static void run(const ImplicitGemmParams& o, const GemmBlock& block,
                                             Storage& storage, WarpTile<Config>& tile) {
    const GemmClass& cls = o.classes[block.cls];
    const int chunk = static_cast<int>(threadIdx.x) % kSlabChunks;
    const int first_row = static_cast<int>(threadIdx.x) / kSlabChunks;
    const T* const in =
        static_cast<const T*>(o.in.data) + static_cast<int64_t>(block.group) * o.channels.divisor();
    const FilterRows<Config> filters(o, block);
    GatherRow<T> rows[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      rows[i] = gather_row(o, cls, in, block.row0 + first_row + i * kRowStep);
    }
    const auto load = [&](int slab, int stage) {
      const GatherTap tap = gather_tap(o, cls, slab * Config::kTileK + chunk * Config::kVector);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool valid = inside(o, rows[i], tap);
        cp_async_16(storage.a[stage] + slab_offset(first_row + i * kRowStep, chunk),
                    valid ? rows[i].in + tap.offset : in, valid);
      }
      filters.load(slab, storage.b[stage], in);
    };

    const WarpPlace<Config> place;
    // One group for each stage, empty ones too, so that the count of pending groups tells stages.
#pragma unroll
    for (int stage = 0; stage < kGemmStages - 1; ++stage) {
      if (block.slab_begin + stage < block.slab_end) load(block.slab_begin + stage, stage);
      cp_async_commit();
    }
    int stage = 0;
    for (int slab = block.slab_begin; slab < block.slab_end; ++slab) {
      cp_async_wait<kGemmStages - 2>();
      // Makes this slab visible to all, and tells that all are done with the previous one, whose
      // place the next load takes.
      __syncthreads();
      const int next = slab + kGemmStages - 1;
      if (next < block.slab_end) load(next, stage == 0 ? kGemmStages - 1 : stage - 1);
      cp_async_commit();
      tile.template add_slab<kGuarded>(storage.a[stage] + place.row * kGemmSlabBytes,
                                       storage.b[stage] + place.column * kGemmSlabBytes,
                                       place.lane);
      stage = stage + 1 == kGemmStages ? 0 : stage + 1;
    }
    cp_async_wait<0>();
    __syncthreads();
  }
};

// ---- main loop, gather by elements
// ---------------------------------------------------------------

template <typename Config>
struct ElementGather {
  using T = typename Config::element_t;
  static constexpr int kStages = 2;
  static constexpr int kThreadsPerRow = Config::kThreads / Config::kTileM;
  static constexpr int kChunks = kSlabChunks / kThreadsPerRow;  // of a thread

  struct Storage {
    unsigned char a[kStages][Config::kTileM * kGemmSlabBytes];
    unsigned char b[kStages][Config::kTileN * kGemmSlabBytes];
    GatherTap taps[kStages][Config::kTileK];
  };

  template <bool kGuarded>
  __device__ __forceinline__ static void run(const ImplicitGemmParams& o, const GemmBlock& block,
                                             Storage& storage, WarpTile<Config>& tile) {
    const GemmClass& cls = o.classes[block.cls];
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread % Config::kTileM, first_chunk = thread / Config::kTileM * kChunks;
    const T* const in = static_cast<const T*>(o.in.data) +
                        static_cast<int64_t>(block.group) * o.channels.divisor() * o.in.strides.c;
    const GatherRow<T> gathered = gather_row(o, cls, in, block.row0 + row);
    const FilterRows<Config> filters(o, block);
    Vector<T, Config::kVector> chunks[kChunks];

    const auto tabulate = [&](int slab) {
      if (thread < Config::kTileK) {
        storage.taps[slab % kStages][thread] = gather_tap(o, cls, slab * Config::kTileK + thread);
      }
      __syncwarp();  // mma wants the whole warp together again
    };
    const auto load = [&](int slab) {
      const GatherTap* const taps = storage.taps[slab % kStages] + first_chunk * Config::kVector;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (int e = 0; e < Config::kVector; ++e) {
          const GatherTap tap = taps[c * Config::kVector + e];
          chunks[c].v[e] = inside(o, gathered, tap) ? __ldg(gathered.in + tap.offset)
                                                    : from_accumulator<T>(0.0f);
        }
      }
      filters.load(slab, storage.b[slab % kStages], in);
    };
    const auto put = [&](int slab) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        store_vector(
            reinterpret_cast<T*>(storage.a[slab % kStages] + slab_offset(row, first_chunk + c)),
            chunks[c]);
      }
    };

    const WarpPlace<Config> place;
    tabulate(block.slab_begin);
    __syncthreads();
    if (block.slab_begin < block.slab_end) {
      load(block.slab_begin);
      put(block.slab_begin);
    }
    tabulate(block.slab_begin + 1);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    for (int slab = block.slab_begin; slab < block.slab_end; ++slab) {
      const int next = slab + 1;
      if (next < block.slab_end) load(next);
      cp_async_commit();
      // Into the place of this slab's taps, which all have read before the last barrier.
      tabulate(next + 1);
      tile.template add_slab<kGuarded>(storage.a[slab % kStages] + place.row * kGemmSlabBytes,
                                       storage.b[slab % kStages] + place.column * kGemmSlabBytes,
                                       place.lane);
      if (next < block.slab_end) put(next);
      cp_async_wait<0>();
      __syncthreads();
    }
  }
};

// ---- store
// ---------------------------------------------------------------------------------------

struct OutPixel {
  int64_t n;
  int h, w;
};

__device__ __forceinline__ OutPixel out_pixel(const ImplicitGemmParams& o, const GemmClass& cls,
                                              int m) {
  uint32_t pixel, q;
  const int64_t n = cls.image.divmod(m, pixel);
  const int p = cls.width.divmod(pixel, q);
  return {n, p * o.out_h_step + cls.out_h, static_cast<int>(q) * o.out_w_step + cls.out_w};
}

template <typename Config>
__device__ __forceinline__ void store_vectors(const ImplicitGemmParams& o, const GemmBlock& block,
                                              const StagedSums<Config>& staged) {
  using T = typename Config::element_t;
  constexpr int kVector = Config::kVector, kVectors = Config::kTileN / kVector;
  const GemmClass& cls = o.classes[block.cls];
  for (int i = threadIdx.x; i < Config::kTileM * kVectors; i += Config::kThreads) {
    const int row = i / kVectors, column = i % kVectors * kVector;
    if (block.row0 + row >= cls.gemm_m || block.column0 + column >= o.gemm_n) continue;
    const OutPixel at = out_pixel(o, cls, block.row0 + row);
    const int64_t k = static_cast<int64_t>(block.group) * o.gemm_n + block.column0 + column;
    const float* const sums = staged.sums + row * StagedSums<Config>::kRowPitch + column;
    Vector<T, kVector> residual = {}, result;
    if (o.epilogue.residual.data != nullptr) {
      residual = load_vector<T, kVector>(o.epilogue.residual.at<T>(at.n, k, at.h, at.w));
    }
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      float z = sums[e];
      if (o.epilogue.bias != nullptr) {
        z += to_accumulator(static_cast<const T*>(o.epilogue.bias)[k + e]);
      }
      if (o.epilogue.residual.data != nullptr) z += to_accumulator(residual.v[e]);
      result.v[e] = from_accumulator<T>(activate(z, o.epilogue.activation));
    }
    store_vector(o.out.at<T>(at.n, k, at.h, at.w), result);
  }
}

// Lanes along channels or along pixels; also the partial sums of a split gemm_k.
template <typename Config>
__device__ __forceinline__ void store_elements(const ImplicitGemmParams& o, const GemmBlock& block,
                                               const StagedSums<Config>& staged, int pitch) {
  using T = typename Config::element_t;
  const GemmClass& cls = o.classes[block.cls];
  const bool along_pixels = o.store == GemmStore::pixels;
  for (int i = threadIdx.x; i < Config::kTileM * Config::kTileN; i += Config::kThreads) {
    const int row = along_pixels ? i % Config::kTileM : i / Config::kTileN;
    const int column = along_pixels ? i / Config::kTileM : i % Config::kTileN;
    if (block.row0 + row >= cls.gemm_m || block.column0 + column >= o.gemm_n) continue;
    const OutPixel at = out_pixel(o, cls, block.row0 + row);
    const int64_t k = static_cast<int64_t>(block.group) * o.gemm_n + block.column0 + column;
    const float sum = staged.sums[row * pitch + column];
    if (o.partial != nullptr) {
      const int64_t pixel = (at.n * o.out_height + at.h) * o.out_width + at.w;
      const int64_t slice_row = static_cast<int64_t>(blockIdx.y) * o.out_pixels + pixel;
      o.partial[slice_row * o.groups * o.gemm_n + k] = sum;
    } else {
      *o.out.at<T>(at.n, k, at.h, at.w) =
          from_accumulator<T>(apply_epilogue<T>(sum, o.epilogue, at.n, k, at.h, at.w));
    }
  }
}

// ---- kernel
// --------------------------------------------------------------------------------------

template <typename Config, typename Gather>
union ImplicitGemmStorage {
  typename Gather::Storage main_loop;
  StagedSums<Config> staged;
};

template <typename Config, typename Gather>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm)
    conv2d_implicit_gemm(const __grid_constant__ ImplicitGemmParams params) {
  auto& storage = shared_storage<ImplicitGemmStorage<Config, Gather>>();
  const GemmBlock block = GemmBlock::locate<Config>(params);
  const auto tile = sum_tile<Config>([&](auto guarded, WarpTile<Config>& sums) {
    Gather::template run<guarded>(params, block, storage.main_loop, sums);
  });
  const int pitch = params.store == GemmStore::pixels ? StagedSums<Config>::kColumnPitch
                                                      : StagedSums<Config>::kRowPitch;
  storage.staged.put(tile, pitch);
  __syncthreads();
  if (params.store == GemmStore::vectors) {
    store_vectors<Config>(params, block, storage.staged);
  } else {
    store_elements<Config>(params, block, storage.staged, pitch);
  }
}

}  // namespace fastconv::cuda
