// Direct convolution, fprop and dgrad, by multiply-adds: any strides, groups, dilation, dtype.
//
//   gemm_m = output pixels, gemm_n = output channels, gemm_k = (tap, source channel)
//
// dgrad gathers dy. A block works on one phase of dx (problem/gather_axis.h), whose pixels all have
// the same taps. A phase without taps is filled with zeros.
//
// A slab of gemm_k is described by a small table (offsets of source and filters, tap numbers), made
// one slab ahead by the first threads; so the order of gemm_k is free: taps innermost for NCHW,
// channels innermost for NHWC, where 16-byte loads are possible.
//
// Bound: 2 * 128 * 64 FLOPs for each 128 + 64 elements loaded (FFMA rate), or, for thin problems,
// bytes of source and output. The tile of few columns is for few filters a group.
// Limits: fewer than 2^31 taps along an axis, and slabs.
#pragma once

#include "cuda/device/epilogue.cuh"
#include "cuda/device/shared_memory.cuh"
#include "cuda/kernels/direct/conv2d_direct_tile.cuh"
#include "problem/tensor.h"

namespace fastconv::cuda {

// An axis of the output, by phases. Their number is not bounded, so that blocks find what differs
// between them.
struct PhasedAxis {
  GatherAxis phase0;
  ConvAxis conv;
  int64_t phases = 1;
  bool dgrad = false;  // else there is one phase

  // What all phases have in common comes from phase0, so that it stays in constant memory.
  __device__ __forceinline__ GatherAxis phase(int64_t number) const {
    GatherAxis axis = phase0;
    if (dgrad) {
      const GatherAxis own = dgrad_axis(conv, number);
      axis.positions = own.positions, axis.first = own.first;
      axis.source_first = own.source_first, axis.tap_first = own.tap_first, axis.taps = own.taps;
    }
    return axis;
  }
};

struct GatherParams {
  PhasedAxis h, w;
  int64_t N = 1, groups = 1;
  int64_t channels = 1, filters = 1;  // of a group: gemm_k's and gemm_n's
  TensorView source, out;
  TensorView filter;         // n: along gemm_n, c: along the source's channels
  int64_t filter_group = 0;  // elements from one group's filters to the next's
  int64_t pixel_tiles = 0, filter_tiles = 0, tiles = 0;
  bool taps_inner = false;         // order of gemm_k
  bool out_along_filters = false;  // which way neighbouring threads store
  Epilogue epilogue;
};

// What a slab's table holds of one k: what it adds to a pixel's `source`, and its tap.
struct alignas(16) GatherTerm {
  int64_t source;
  int tap_h, tap_w;
};
// One of the tile's pixels, as offsets into the tensors.
struct alignas(16) GatherPixel {
  int64_t source;  // of tap (0, 0) and the group's first channel
  TapRange h, w;   // empty beyond the last pixel
  int64_t out;     // -1 beyond the last pixel
  int64_t residual;
};

template <typename Tile>
struct GatherStorage {
  using A = typename Tile::A;
  static constexpr int kStagedPixels = Tile::kHalf;
  union {
    Slab<Tile> slabs[2];
    A staged[Tile::kTileN][kStagedPixels + 1];
  };
  GatherPixel pixels[Tile::kTileM];
  GatherTerm terms[2][Tile::kSlab];
  int64_t filter_terms[2][Tile::kSlab];
  Counter terms_ahead[Tile::kSlab];  // of the next table
};

// Which part of the output a block computes.
struct GatherBlock {
  int64_t group, first_pixel, first_filter;
  GatherAxis h, w;
};

template <typename Tile>
__device__ __forceinline__ GatherBlock gather_block(const GatherParams& params, int64_t tile) {
  GatherBlock block;
  block.first_filter = take_digit(tile, params.filter_tiles) * Tile::kTileN;
  block.first_pixel = take_digit(tile, params.pixel_tiles) * Tile::kTileM;
  block.w = params.w.phase(take_digit(tile, params.w.phases));
  block.h = params.h.phase(take_digit(tile, params.h.phases));
  block.group = tile;
  return block;
}

__device__ __forceinline__ GatherPixel gather_pixel(const GatherParams& params,
                                                    const GatherBlock& block, int64_t pixel) {
  if (pixel >= params.N * block.h.positions * block.w.positions) return {0, {0, 0}, {0, 0}, -1, 0};
  const int64_t j = take_digit(pixel, block.w.positions), i = take_digit(pixel, block.h.positions);
  const int64_t h = i * block.h.source_step + block.h.source_first;
  const int64_t w = j * block.w.source_step + block.w.source_first;
  const int64_t out_h = i * block.h.step + block.h.first;
  const int64_t out_w = j * block.w.step + block.w.first;
  const auto offset = [&](const Strides& strides, int64_t channel, int64_t row, int64_t column) {
    return pixel * strides.n + channel * strides.c + row * strides.h + column * strides.w;
  };
  return {offset(params.source.strides, block.group * params.channels, h, w), tap_range(block.h, h),
          tap_range(block.w, w),
          offset(params.out.strides, block.group * params.filters, out_h, out_w),
          offset(params.epilogue.residual.strides, block.group * params.filters, out_h, out_w)};
}

// Writes one term of the next slab's table; called by the first kSlab threads.
__device__ __forceinline__ void write_term(const GatherParams& params, const Counter& k,
                                           GatherTerm& term, int64_t& filter) {
  const GatherAxis &axis_h = params.h.phase0, &axis_w = params.w.phase0;  // the same for all phases
  const int64_t channel = params.taps_inner ? k.digit[2] : k.digit[0];
  const int64_t tap_w = params.taps_inner ? k.digit[0] : k.digit[1];
  const int64_t tap_h = params.taps_inner ? k.digit[1] : k.digit[2];
  term = {channel * params.source.strides.c + tap_h * axis_h.tap_offset * params.source.strides.h +
              tap_w * axis_w.tap_offset * params.source.strides.w,
          static_cast<int>(tap_h), static_cast<int>(tap_w)};
  filter = channel * params.filter.strides.c + tap_h * axis_h.tap_step * params.filter.strides.h +
           tap_w * axis_w.tap_step * params.filter.strides.w;
}

// A thread's share of the loads. Scalars: one pixel, neighbouring threads take neighbouring pixels.
// Vectors: kVector channels of a pixel, neighbouring threads go on with its channels.
template <typename Tile, bool kVectorised>
class GatherLoader {
 public:
  using T = typename Tile::T;

  __device__ __forceinline__ GatherLoader(const GatherParams& params, const GatherBlock& block,
                                          const GatherPixel* pixels)
      : source_(static_cast<const T*>(params.source.data)),
        filter_stride_(params.filter.strides.n) {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const GatherPixel& pixel = pixels[pixel_of(i)];
      pixel_[i] = pixel.source, h_[i] = pixel.h, w_[i] = pixel.w;
    }
    const T* const first =
        static_cast<const T*>(params.filter.data) + block.group * params.filter_group +
        block.h.tap_first * params.filter.strides.h + block.w.tap_first * params.filter.strides.w;
    filter_ = first + (block.first_filter + filter_of(0)) * filter_stride_;
    filters_left_ = static_cast<int>(
        min_of(params.filters - block.first_filter, static_cast<int64_t>(Tile::kTileN)));
  }

  // Starts the loads of a slab of which `count` terms exist.
  __device__ __forceinline__ void load(const GatherTerm* terms, const int64_t* filter_terms,
                                       int count) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int k = k_of(i), pixel = kVectorised ? i : 0;
      const GatherTerm term = terms[k];
      values_[i] = {};
      if (k < count && h_[pixel].contains(term.tap_h) && w_[pixel].contains(term.tap_w)) {
        values_[i] = load_vector<T, kVector>(source_ + (pixel_[pixel] + term.source));
      }
    }
    const int filter_k = threadIdx.x % Tile::kSlab;
    const T* const filters = filter_ + filter_terms[filter_k];
#pragma unroll
    for (int i = 0; i < kFilterLoads; ++i) {
      filter_values_[i] = T(0.0f);
      if (filter_k < count && filter_of(i) < filters_left_) {
        filter_values_[i] = filters[i * kFilterStep * filter_stride_];
      }
    }
  }

  __device__ __forceinline__ void store(Slab<Tile>& slab) const {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        slab.m[k_of(i) + j][pixel_of(i)] = to_accumulator(values_[i].v[j]);
      }
    }
#pragma unroll
    for (int i = 0; i < kFilterLoads; ++i) {
      slab.n[threadIdx.x % Tile::kSlab][filter_of(i)] = to_accumulator(filter_values_[i]);
    }
  }

 private:
  static constexpr int kVector = kVectorised ? kVectorSize<T> : 1;
  static constexpr int kLoads = Tile::kTileM * Tile::kSlab / kVector / Tile::kThreads;
  static constexpr int kFilterLoads = Tile::kTileN * Tile::kSlab / Tile::kThreads;
  static constexpr int kPixels = kVectorised ? kLoads : 1;
  static constexpr int kVectorsPerPixel = Tile::kSlab / kVector;
  static_assert(kLoads > 0 && kFilterLoads > 0 && Tile::kThreads % Tile::kTileM == 0 &&
                Tile::kThreads % Tile::kTileN == 0 && Tile::kSlab % kVector == 0);

  __device__ __forceinline__ static int pixel_of(int i) {
    if (!kVectorised) return threadIdx.x % Tile::kTileM;
    return (threadIdx.x + i * Tile::kThreads) / kVectorsPerPixel;
  }
  __device__ __forceinline__ static int k_of(int i) {
    if (!kVectorised) return threadIdx.x / Tile::kTileM + i * (Tile::kThreads / Tile::kTileM);
    return threadIdx.x % kVectorsPerPixel * kVector;  // kThreads is a multiple of kVectorsPerPixel
  }

  // Neighbouring threads take neighbouring k of a filter.
  static constexpr int kFilterStep = Tile::kThreads / Tile::kSlab;
  __device__ __forceinline__ static int filter_of(int i) {
    return threadIdx.x / Tile::kSlab + i * kFilterStep;
  }

  const T* source_;
  const T* filter_;
  int64_t filter_stride_;
  int filters_left_;
  int64_t pixel_[kPixels];
  TapRange h_[kPixels], w_[kPixels];
  Vector<T, kVector> values_[kLoads];
  T filter_values_[kFilterLoads];
};

// Through shared memory, so that neighbouring threads store neighbouring elements in either layout.
template <typename Tile>
__device__ __forceinline__ void store_gather_tile(const GatherParams& params,
                                                  const GatherBlock& block,
                                                  GatherStorage<Tile>& shared,
                                                  const TileSums<Tile>& sums) {
  using T = typename Tile::T;
  constexpr int kPixels = GatherStorage<Tile>::kStagedPixels;
  const int row = thread_row<Tile>(), column = thread_column<Tile>();
  const Epilogue& epilogue = params.epilogue;
#pragma unroll
  for (int run = 0; run < Tile::kThreadM; run += Tile::kRun) {
    __syncthreads();  // the slabs, or the last run, were read
#pragma unroll
    for (int i = 0; i < Tile::kRun; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kThreadN; ++j) {
        shared.staged[column + j][row + i] = sums.total[run + i][j];
      }
    }
    __syncthreads();
#pragma unroll 4
    for (int e = threadIdx.x; e < kPixels * Tile::kTileN; e += Tile::kThreads) {
      const int p = params.out_along_filters ? e / Tile::kTileN : e % kPixels;
      const int n = params.out_along_filters ? e % Tile::kTileN : e / kPixels;
      const GatherPixel& pixel = shared.pixels[run / Tile::kRun * Tile::kHalf + p];
      const int64_t filter = block.first_filter + n;
      if (pixel.out < 0 || filter >= params.filters) continue;
      typename Tile::A z = shared.staged[n][p];
      if (epilogue.bias != nullptr) {
        z += to_accumulator(
            static_cast<const T*>(epilogue.bias)[block.group * params.filters + filter]);
      }
      if (epilogue.residual.data != nullptr) {
        z += to_accumulator(static_cast<const T*>(
            epilogue.residual.data)[pixel.residual + filter * epilogue.residual.strides.c]);
      }
      static_cast<T*>(params.out.data)[pixel.out + filter * params.out.strides.c] =
          from_accumulator<T>(activate(z, epilogue.activation));
    }
  }
}

template <typename Tile, bool kVectorised>
__global__ void __launch_bounds__(Tile::kThreads, 512 / Tile::kThreads)
    conv2d_gather_direct(const __grid_constant__ GatherParams params) {
  auto& shared = shared_storage<GatherStorage<Tile>>();
  const int64_t tile = blockIdx.y * static_cast<int64_t>(gridDim.x) + blockIdx.x;
  if (tile >= params.tiles) return;
  const GatherBlock block = gather_block<Tile>(params, tile);
  if (block.first_pixel >= params.N * block.h.positions * block.w.positions) return;

  if (threadIdx.x < Tile::kTileM) {
    shared.pixels[threadIdx.x] = gather_pixel(params, block, block.first_pixel + threadIdx.x);
  }
  const int64_t terms = block.h.taps * block.w.taps * params.channels;
  const int slabs = static_cast<int>(div_up(terms, static_cast<int64_t>(Tile::kSlab)));
  const int last_count = static_cast<int>(terms - (slabs - 1) * static_cast<int64_t>(Tile::kSlab));
  const bool writes_terms = threadIdx.x < Tile::kSlab && terms > 0;
  if (writes_terms) {
    shared.terms_ahead[threadIdx.x].start(threadIdx.x, Tile::kSlab,
                                          params.taps_inner ? block.w.taps : params.channels,
                                          params.taps_inner ? block.h.taps : block.w.taps);
  }
  const auto write_terms = [&](int slab) {
    if (!writes_terms) return;
    Counter& k = shared.terms_ahead[threadIdx.x];
    write_term(params, k, shared.terms[slab % 2][threadIdx.x],
               shared.filter_terms[slab % 2][threadIdx.x]);
    k.advance();
  };
  write_terms(0);
  __syncthreads();

  GatherLoader<Tile, kVectorised> loader(params, block, shared.pixels);
  const auto load = [&](int slab) {
    loader.load(shared.terms[slab % 2], shared.filter_terms[slab % 2],
                slab + 1 < slabs ? Tile::kSlab : last_count);
  };
  const int row = thread_row<Tile>(), column = thread_column<Tile>();
  TileSums<Tile> sums;
  if (slabs > 0) {
    load(0);
    loader.store(shared.slabs[0]);
    write_terms(1);
  }
  __syncthreads();
  for (int slab = 0; slab < slabs; ++slab) {
    const bool more = slab + 1 < slabs;
    if (more) load(slab + 1);
    write_terms(slab + 2);  // over the table of `slab`, which nobody reads any more
    sums.add_slab(shared.slabs[slab % 2], row, column);
    if (more) loader.store(shared.slabs[(slab + 1) % 2]);
    __syncthreads();
  }
  sums.end_piece();
  store_gather_tile<Tile>(params, block, shared, sums);
}

}  // namespace fastconv::cuda
