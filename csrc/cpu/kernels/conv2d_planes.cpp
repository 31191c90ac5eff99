// Convolution with vector lanes along pixels, for few output channels or terms: groups of a few
// channels, depthwise rows, a network's first layer. planes.h says where a term, (channel, tap),
// lies:
//
//   fprop, dgrad   c[output channel][column] += weights[term][output channel]
//                                               * planes[term + column]
//                  A task: some rows of one image x the groups of about a vector of output
//                  channels. kPlaneSums vectors of sums stay in registers.
//
// wgrad: conv2d_wgrad_planes.cpp.
// Bound: multiply-adds.
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/plane_product.h"
#include "cpu/runtime/kernels.h"
#include "cpu/staging/epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA {

void conv2d_wgrad_planes(const CpuConvArgs& args);

namespace {

constexpr int kPlaneRows = 8;                             // output channels of a micro tile
constexpr int kPlaneSums = kVectorBytes == 64 ? 24 : 12;  // vectors of sums in registers
constexpr int kMaxVectors = 8;
template <int kRows>
constexpr int kPlaneVectors = kPlaneSums / kRows < 1             ? 1
                              : kPlaneSums / kRows > kMaxVectors ? kMaxVectors
                                                                 : kPlaneSums / kRows;

// Terms [0, terms) for kRows output channels and kVectors vectors of columns. A function by itself,
// or the compiler does not keep the sums in registers.
template <int kRows, int kVectors, typename A>
[[gnu::noinline]] void planes_micro(const int32_t* __restrict offsets, int64_t terms,
                                    bool accumulate, const A* __restrict planes,
                                    const A* __restrict weights, A* __restrict c, int64_t c_step) {
  vector_t<A> sums[kRows][kVectors] = {};
  for (int64_t t = 0; t < terms; ++t) {
    const A* const from = planes + offsets[t];
    vector_t<A> pixels[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) pixels[v] = load_vector(from + v * kLanes<A>);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[m][v] += weights[m] * pixels[v];
    }
    weights += kRows;
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      A* const at = c + m * c_step + v * kLanes<A>;
      store_vector(at, accumulate ? load_vector(at) + sums[m][v] : sums[m][v]);
    }
  }
}

// Calls body for the output channels of a group, in runs of a micro tile's rows.
template <typename Body>
static inline void for_each_plane_row(int64_t rows, const Body& body) {
  for_each_run<kPlaneRows, 6, 4, 3, 2, 1>(rows, body);
}

// For each phase and each run of rows of a group's output channels, weights[term][row].
template <typename T>
void pack_plane_weights(const PlaneProduct& product, int64_t group, accumulator_t<T>* out) {
  const Strides& strides = product.filters.strides;
  const T* const filters =
      static_cast<const T*>(product.filters.data) + group * product.group_stride;
  for (int64_t i = 0; i < product.phases(); ++i) {
    const GatherAxis &h = product.h[i / product.w.count].axis,
                     &w = product.w[i % product.w.count].axis;
    for_each_plane_row(product.rows, [&](int64_t row, auto count) {
      for (int64_t d = 0; d < product.depth; ++d) {
        for (int64_t tap = 0; tap < h.taps * w.taps; ++tap) {
          const T* const from = filters + d * product.depth_stride +
                                (h.tap_first + tap / w.taps * h.tap_step) * strides.h +
                                (w.tap_first + tap % w.taps * w.tap_step) * strides.w;
          for (int m = 0; m < decltype(count)::value; ++m) {
            *out++ = to_accumulator(from[(row + m) * product.row_stride]);
          }
        }
      }
    });
  }
}

// Stores output channels [first, first + channels) of the tile's positions of a phase from
// c[channel][column].
template <typename T>
void store_planes_tile(const PlaneProduct& product, const Planes<accumulator_t<T>>& planes,
                       const GatherAxis& h, const GatherAxis& w, int64_t n, int64_t u, int64_t v,
                       int64_t first, int64_t channels, accumulator_t<T>* c, int64_t c_step) {
  using A = accumulator_t<T>;
  const Epilogue& epilogue = *product.epilogue;
  const TensorView& residual = epilogue.residual;
  const T* const bias =
      epilogue.bias == nullptr ? nullptr : static_cast<const T*>(epilogue.bias) + first;
  const int64_t rows = min64(planes.h.positions, h.positions - u);
  const int64_t columns = min64(planes.w.positions, w.positions - v);
  const int64_t out_step = product.out.strides.w * w.step, add_step = residual.strides.w * w.step;
  const auto out = [&](int64_t row, int64_t k) {
    return product.out.at<T>(n, first + k, h.first + (u + row) * h.step, w.first + v * w.step);
  };
  const auto add = [&](int64_t row, int64_t k) {
    if (residual.data == nullptr) return static_cast<T*>(nullptr);
    return residual.at<T>(n, first + k, h.first + (u + row) * h.step, w.first + v * w.step);
  };
  if (product.out.strides.c != 1 || channels < kLanes<A> / 2) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t k = 0; k < channels; ++k) {
        store_pixels<T>(c + k * c_step + row * planes.pitch(), columns, epilogue,
                        bias == nullptr ? nullptr : bias + k, add(row, k), add_step, out(row, k),
                        out_step);
      }
    }
    return;
  }
  for (int64_t row = 0; row < rows; ++row, c += planes.pitch()) {
    for (int64_t i = 0; i < columns; i += kLanes<A>) {
      const int64_t run = min64(kLanes<A>, columns - i);
      for (int64_t k = 0; k < channels; k += kLanes<A>) {
        vector_t<A> block[kLanes<A>];
#pragma GCC unroll 16
        for (int l = 0; l < kLanes<A>; ++l) block[l] = load_vector(c + (k + l) * c_step + i);
        transpose<A>(block);
        A pixels[kLanes<A> * kLanes<A>];
#pragma GCC unroll 16
        for (int l = 0; l < kLanes<A>; ++l) store_vector(pixels + l * kLanes<A>, block[l]);
        const T* const from = add(row, k);
        store_channels<T>(pixels, kLanes<A>, run, min64(kLanes<A>, channels - k), epilogue,
                          bias == nullptr ? nullptr : bias + k,
                          from == nullptr ? nullptr : from + i * add_step, add_step,
                          residual.strides.c, out(row, k) + i * out_step, out_step);
      }
    }
  }
}

template <typename T>
void planes_tile(const PlaneProduct& product, const PlaneTiles& tiles, int64_t n, int64_t tile,
                 int64_t group, int64_t group_end, const accumulator_t<T>* weights) {
  using A = accumulator_t<T>;
  const int64_t u = tile / tiles.column_tiles * tiles.rows;
  const int64_t v = tile % tiles.column_tiles * tiles.columns;
  const Planes<A> planes =
      planes_of<A>(product, u, min64(product.h.gathered.positions, u + tiles.rows), v,
                   min64(product.w.gathered.positions, v + tiles.columns));
  const int64_t groups = group_end - group, all_terms = product.all_terms();
  const int64_t vectors = div_up(planes.columns(), kLanes<A>);
  const int64_t c_step = vectors * kLanes<A>;
  // What the last vector reads and transposed blocks read lies behind.
  A* const source = static_cast<A*>(
      scratch(ScratchSlot::kTask, (groups * product.depth * planes.channel_elements() +
                                   kLanes<A>)*static_cast<int64_t>(sizeof(A))));
  const int64_t c_rows = div_up(groups * product.rows, kLanes<A>) * kLanes<A>;
  A* const c = static_cast<A*>(
      scratch(ScratchSlot::kTile, (c_rows * c_step + kLanes<A>)*static_cast<int64_t>(sizeof(A)) +
                                      all_terms * static_cast<int64_t>(sizeof(int32_t))));
  int32_t* const offsets = reinterpret_cast<int32_t*>(c + c_rows * c_step + kLanes<A>);
  if (all_terms > 0) {
    const TensorView view = {
        static_cast<T*>(product.source.data) + group * product.depth * product.source.strides.c,
        product.source.strides};
    planes.template fill<T>(view, n, groups * product.depth, source);
  }
  int64_t first_term = 0;
  for (int64_t i = 0; i < product.phases(); ++i) {
    const int64_t h = i / product.w.count, w = i % product.w.count, terms = product.terms(h, w);
    fill_offsets(product, planes, h, w, offsets);
    for (int64_t g = 0; g < groups; ++g) {
      const A* const from = source + g * product.depth * planes.channel_elements();
      const A* const filters = weights + ((group + g) * all_terms + first_term) * product.rows;
      for_each_plane_row(product.rows, [&](int64_t row, auto rows) {
        constexpr int kRows = decltype(rows)::value;
        constexpr int kMost = kPlaneVectors<kRows>;
        A* const to = c + (g * product.rows + row) * c_step;
        for_each_run<kMost, half(kMost), half(half(kMost)), 1>(
            vectors, [&](int64_t vector, auto run) {
              const int64_t column = vector * kLanes<A>;
              // A phase without taps is zero: the first run of terms stores in any case.
              for (int64_t t = 0; t == 0 || t < terms; t += kSumLength) {
                planes_micro<kRows, decltype(run)::value>(
                    offsets + t, min64(kSumLength, terms - t), t > 0, from + column,
                    filters + row * terms + t * kRows, to + column, c_step);
              }
            });
      });
    }
    store_planes_tile<T>(product, planes, product.h[h].axis, product.w[w].axis, n, u, v,
                         group * product.rows, groups * product.rows, c, c_step);
    first_term += terms;
  }
}

template <typename T>
void planes_product(const PlaneProduct& product, int num_threads) {
  using A = accumulator_t<T>;
  const int64_t elements = product.all_terms() * product.rows, at_once = groups_at_once<A>(product);
  A* const weights = static_cast<A*>(scratch(
      ScratchSlot::kShared, max64(1, product.groups * elements) * static_cast<int64_t>(sizeof(A))));
  for (int64_t g = 0; g < product.groups; ++g)
    pack_plane_weights<T>(product, g, weights + g * elements);
  const PlaneTiles tiles = PlaneTiles::of<A>(product);
  const int64_t blocks = div_up(product.groups, at_once);
  parallel_for(product.images * blocks * tiles.count(), num_threads, [&](int64_t task) {
    const int64_t group = task / tiles.count() % blocks * at_once;
    planes_tile<T>(product, tiles, task / tiles.count() / blocks, task % tiles.count(), group,
                   min64(product.groups, group + at_once), weights);
  });
}

template <typename T>
void dgrad(const CpuConvArgs& args) {
  const ConvProblem& problem = args.problem;
  const Strides& strides = args.w.strides;
  const int64_t Kg = problem.filters_per_group();
  for_each_dgrad(problem, [&](const GatherPhases& phases) {
    planes_product<T>({phases, problem.N, problem.groups, problem.channels_per_group(), Kg, args.y,
                       args.w, Kg * strides.n, strides.c, strides.n, args.x, &args.epilogue},
                      args.num_threads);
  });
}

}  // namespace

void conv2d_planes(ConvOp op, const CpuConvArgs& args) {
  if (op == ConvOp::wgrad) return conv2d_wgrad_planes(args);
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (op == ConvOp::fprop) return planes_product<T>(fprop_product(args), args.num_threads);
    return dgrad<T>(args);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
