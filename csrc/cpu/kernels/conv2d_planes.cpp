// Convolution with vector lanes along pixels, for few output channels: groups of a few channels,
// and dgrad of a network's first layer. planes.h says where a term, (channel, tap), lies:
//
//   fprop, dgrad   c[output channel][column] += weights[term][output channel]
//                                               * planes[term + column]
//                  A task: some rows of one image x the groups of about a vector of output
//                  channels. kPlaneSums vectors of sums stay in registers.
//   wgrad          sums[filter][term] += dy[filter][column] * planes[term + column]
//                  A vector of partial sums each. A task: a slice of the rows of all images.
//
// Bound: multiply-adds.
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/plane_product.h"
#include "cpu/runtime/kernels.h"
#include "cpu/staging/epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int kPlaneRows = 8;                             // output channels of a micro tile
constexpr int kPlaneSums = kVectorBytes == 64 ? 24 : 12;  // vectors of sums in registers
constexpr int kMaxVectors = 8;
template <int kRows>
constexpr int kPlaneVectors = kPlaneSums / kRows < 1             ? 1
                              : kPlaneSums / kRows > kMaxVectors ? kMaxVectors
                                                                 : kPlaneSums / kRows;
constexpr int64_t kSumsBytes = 64 << 20;  // of wgrad's slices, where one needs no more

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

// The output channels of a group.
template <typename Body>
static inline void for_each_plane_row(int64_t rows, const Body& body) {
  for_each_run<kPlaneRows, 6, 4, 3, 2, 1>(rows, body);
}
constexpr int half(int count) { return count > 1 ? count / 2 : 1; }

// For each phase and each run of rows of a group's output channels, weights[term][row].
template <typename T>
void pack_plane_weights(const PlaneProduct& o, int64_t group, accumulator_t<T>* out) {
  const Strides& strides = o.filters.strides;
  const T* const filters = static_cast<const T*>(o.filters.data) + group * o.group_stride;
  for (int64_t i = 0; i < o.phases(); ++i) {
    const GatherAxis &h = o.h[i / o.w.count].axis, &w = o.w[i % o.w.count].axis;
    for_each_plane_row(o.rows, [&](int64_t row, auto count) {
      for (int64_t d = 0; d < o.depth; ++d) {
        for (int64_t tap = 0; tap < h.taps * w.taps; ++tap) {
          const T* const from = filters + d * o.depth_stride +
                                (h.tap_first + tap / w.taps * h.tap_step) * strides.h +
                                (w.tap_first + tap % w.taps * w.tap_step) * strides.w;
          for (int m = 0; m < decltype(count)::value; ++m) {
            *out++ = to_accumulator(from[(row + m) * o.row_stride]);
          }
        }
      }
    });
  }
}

// Stores output channels [first, first + channels) of the tile's positions of a phase from
// c[channel][column].
template <typename T>
void store_planes_tile(const PlaneProduct& o, const Planes<accumulator_t<T>>& planes,
                       const GatherAxis& h, const GatherAxis& w, int64_t n, int64_t u, int64_t v,
                       int64_t first, int64_t channels, accumulator_t<T>* c, int64_t c_step) {
  using A = accumulator_t<T>;
  const Epilogue& epilogue = *o.epilogue;
  const TensorView& residual = epilogue.residual;
  const T* const bias =
      epilogue.bias == nullptr ? nullptr : static_cast<const T*>(epilogue.bias) + first;
  const int64_t rows = min64(planes.h.positions, h.positions - u);
  const int64_t columns = min64(planes.w.positions, w.positions - v);
  const int64_t out_step = o.out.strides.w * w.step, add_step = residual.strides.w * w.step;
  const auto out = [&](int64_t row, int64_t k) {
    return o.out.at<T>(n, first + k, h.first + (u + row) * h.step, w.first + v * w.step);
  };
  const auto add = [&](int64_t row, int64_t k) {
    if (residual.data == nullptr) return static_cast<T*>(nullptr);
    return residual.at<T>(n, first + k, h.first + (u + row) * h.step, w.first + v * w.step);
  };
  if (o.out.strides.c != 1 || channels < kLanes<A> / 2) {
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
void planes_tile(const PlaneProduct& o, const PlaneTiles& tiles, int64_t n, int64_t tile,
                 int64_t group, int64_t group_end, const accumulator_t<T>* weights) {
  using A = accumulator_t<T>;
  const int64_t u = tile / tiles.column_tiles * tiles.rows;
  const int64_t v = tile % tiles.column_tiles * tiles.columns;
  const Planes<A> planes = planes_of<A>(o, u, min64(o.h.gathered.positions, u + tiles.rows), v,
                                        min64(o.w.gathered.positions, v + tiles.columns));
  const int64_t groups = group_end - group, all_terms = o.all_terms();
  const int64_t vectors = div_up(planes.columns(), kLanes<A>);
  const int64_t c_step = vectors * kLanes<A>;
  // What the last vector reads and transposed blocks read lies behind.
  A* const source =
      static_cast<A*>(scratch(ScratchSlot::kTask, (groups * o.depth * planes.channel_elements() +
                                                   kLanes<A>)*static_cast<int64_t>(sizeof(A))));
  const int64_t c_rows = div_up(groups * o.rows, kLanes<A>) * kLanes<A>;
  A* const c = static_cast<A*>(
      scratch(ScratchSlot::kTile, (c_rows * c_step + kLanes<A>)*static_cast<int64_t>(sizeof(A)) +
                                      all_terms * static_cast<int64_t>(sizeof(int32_t))));
  int32_t* const offsets = reinterpret_cast<int32_t*>(c + c_rows * c_step + kLanes<A>);
  if (all_terms > 0) {
    const TensorView view = {static_cast<T*>(o.source.data) + group * o.depth * o.source.strides.c,
                             o.source.strides};
    planes.template fill<T>(view, n, groups * o.depth, source);
  }
  int64_t first_term = 0;
  for (int64_t i = 0; i < o.phases(); ++i) {
    const int64_t h = i / o.w.count, w = i % o.w.count, terms = o.terms(h, w);
    fill_offsets(o, planes, h, w, offsets);
    for (int64_t g = 0; g < groups; ++g) {
      const A* const from = source + g * o.depth * planes.channel_elements();
      const A* const filters = weights + ((group + g) * all_terms + first_term) * o.rows;
      for_each_plane_row(o.rows, [&](int64_t row, auto rows) {
        constexpr int kRows = decltype(rows)::value;
        constexpr int kMost = kPlaneVectors<kRows>;
        A* const to = c + (g * o.rows + row) * c_step;
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
    store_planes_tile<T>(o, planes, o.h[h].axis, o.w[w].axis, n, u, v, group * o.rows,
                         groups * o.rows, c, c_step);
    first_term += terms;
  }
}

template <typename T>
void planes_product(const PlaneProduct& o, int num_threads) {
  using A = accumulator_t<T>;
  const int64_t elements = o.all_terms() * o.rows, at_once = groups_at_once<A>(o);
  A* const weights = static_cast<A*>(scratch(
      ScratchSlot::kShared, max64(1, o.groups * elements) * static_cast<int64_t>(sizeof(A))));
  for (int64_t g = 0; g < o.groups; ++g) pack_plane_weights<T>(o, g, weights + g * elements);
  const PlaneTiles tiles = PlaneTiles::of<A>(o);
  const int64_t blocks = div_up(o.groups, at_once);
  parallel_for(o.images * blocks * tiles.count(), num_threads, [&](int64_t task) {
    const int64_t group = task / tiles.count() % blocks * at_once;
    planes_tile<T>(o, tiles, task / tiles.count() / blocks, task % tiles.count(), group,
                   min64(o.groups, group + at_once), weights);
  });
}

PlaneProduct fprop_product(const CpuConvArgs& args) {
  const ConvProblem& o = args.problem;
  const Strides& strides = args.w.strides;
  const int64_t Kg = o.filters_per_group();
  return {{one_phase(fprop_axis(h_axis(o))), one_phase(fprop_axis(w_axis(o)))},
          o.N,
          o.groups,
          Kg,
          o.channels_per_group(),
          args.x,
          args.w,
          Kg * strides.n,
          strides.n,
          strides.c,
          args.y,
          &args.epilogue};
}

template <typename T>
void dgrad(const CpuConvArgs& args) {
  const ConvProblem& o = args.problem;
  const Strides& strides = args.w.strides;
  const int64_t Kg = o.filters_per_group();
  const Epilogue store_only;
  for_each_dgrad(o, [&](const GatherPhases& phases) {
    planes_product<T>({phases, o.N, o.groups, o.channels_per_group(), Kg, args.y, args.w,
                       Kg * strides.n, strides.c, strides.n, args.x, &store_only},
                      args.num_threads);
  });
}

// ---- wgrad -----------------------------------------------------------------------------------

constexpr int kWgradRows = 4;  // filters of a micro tile
constexpr int kWgradTerms = kVectorBytes == 64 ? 6 : 2;
// Enough tasks to split the pixels for; fixed, as it sets the sums.
constexpr int64_t kWgradTasks = 16;

// sums[filter][term] += dy[filter][column] * planes[term + column], a vector of partial sums each,
// for the columns of `vectors` vectors. What is not a pixel is masked: no infinity there meets a
// zero.
template <int kRows, int kTerms, typename A>
static inline void planes_wgrad_micro(const int32_t* offsets, const A* planes, const A* dy,
                                      int64_t dy_step, const typename LaneIndex<A>::type* masks,
                                      int64_t vectors, vector_t<A>* out, int64_t out_step) {
  using Mask = typename LaneIndex<A>::type;
  vector_t<A> sums[kRows][kTerms] = {};
  const A* from[kTerms];
#pragma GCC unroll 8
  for (int t = 0; t < kTerms; ++t) from[t] = planes + offsets[t];
  for (int64_t i = 0; i < vectors; ++i) {
    vector_t<A> gradients[kRows];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) gradients[m] = load_vector(dy + m * dy_step + i * kLanes<A>);
#pragma GCC unroll 8
    for (int t = 0; t < kTerms; ++t) {
      const vector_t<A> pixels = reinterpret_cast<vector_t<A>>(
          reinterpret_cast<Mask>(load_vector(from[t] + i * kLanes<A>)) & masks[i]);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) sums[m][t] += gradients[m] * pixels;
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int t = 0; t < kTerms; ++t) out[m * out_step + t] += sums[m][t];
  }
}

// The sums of one group += dy x over the pixels of one tile; for all types of elements that are
// summed in A.
template <typename A>
void add_planes_wgrad(int64_t rows, int64_t filter_terms, const int32_t* offsets, const A* x,
                      const A* dy, int64_t dy_step, const typename LaneIndex<A>::type* masks,
                      int64_t vectors, vector_t<A>* sums) {
  for_each_run<kWgradRows, 2, 1>(rows, [&](int64_t row, auto row_count) {
    for_each_run<kWgradTerms, half(kWgradTerms), 1>(filter_terms, [&](int64_t term, auto terms) {
      planes_wgrad_micro<decltype(row_count)::value, decltype(terms)::value>(
          offsets + term, x, dy + row * dy_step, dy_step, masks, vectors,
          sums + row * filter_terms + term, filter_terms);
    });
  });
}

// Partial sums of dw, a vector for each (filter, channel, tap) of some groups.
template <typename T>
struct PlanesWgrad {
  using A = accumulator_t<T>;
  using Mask = typename LaneIndex<A>::type;
  const CpuConvArgs& args;
  PlaneProduct x;  // groups, their channels and taps
  PlaneTiles tiles;
  int64_t at_once, blocks, slices;

  explicit PlanesWgrad(const CpuConvArgs& a)
      : args(a),
        x(fprop_product(a)),
        tiles(PlaneTiles::of<A>(x)),
        at_once(groups_at_once<A>(x)),
        blocks(div_up(x.groups, at_once)),
        slices(max64(1, min64(min64(x.images * tiles.count(), div_up(kWgradTasks, blocks)),
                              kSumsBytes / kVectorBytes / max64(1, blocks * block_sums())))) {}

  int64_t filter_terms() const { return x.terms(0, 0); }
  int64_t group_sums() const { return x.rows * filter_terms(); }
  int64_t block_sums() const { return at_once * group_sums(); }

  void compute(int64_t block, int64_t slice, vector_t<A>* sums) const {
    const int64_t group = block * at_once, groups = min64(x.groups, group + at_once) - group;
    for (int64_t i = 0; i < block_sums(); ++i) sums[i] = vector_t<A>{};
    const int64_t all = x.images * tiles.count();
    for (int64_t t = slice * all / slices; t < (slice + 1) * all / slices; ++t) {
      add_tile(t / tiles.count(), t % tiles.count(), group, groups, sums);
    }
  }

  void add_tile(int64_t n, int64_t tile, int64_t group, int64_t groups, vector_t<A>* sums) const {
    const int64_t u = tile / tiles.column_tiles * tiles.rows;
    const int64_t v = tile % tiles.column_tiles * tiles.columns;
    const Planes<A> planes = planes_of<A>(x, u, min64(x.h.gathered.positions, u + tiles.rows), v,
                                          min64(x.w.gathered.positions, v + tiles.columns));
    const int64_t vectors = div_up(planes.columns(), kLanes<A>), elements = vectors * kLanes<A>;
    const Planes<A> ys = dy_planes(planes, u, v);
    const int64_t dy_step = ys.channel_elements();
    const int64_t x_elements = groups * x.depth * planes.channel_elements() + kLanes<A>;
    const int64_t dy_elements = groups * x.rows * dy_step;
    Mask* const masks = static_cast<Mask*>(scratch(
        ScratchSlot::kTask, elements * static_cast<int64_t>(sizeof(A)) +
                                (x_elements + dy_elements) * static_cast<int64_t>(sizeof(A)) +
                                filter_terms() * static_cast<int64_t>(sizeof(int32_t))));
    A* const dy = reinterpret_cast<A*>(masks + vectors);
    A* const source = dy + dy_elements;
    int32_t* const offsets = reinterpret_cast<int32_t*>(source + x_elements);
    fill_offsets(x, planes, 0, 0, offsets);
    const TensorView view = {static_cast<T*>(x.source.data) + group * x.depth * x.source.strides.c,
                             x.source.strides};
    planes.template fill<T>(view, n, groups * x.depth, source);
    const TensorView gradient = {static_cast<T*>(args.y.data) + group * x.rows * args.y.strides.c,
                                 args.y.strides};
    ys.template fill<T>(gradient, n, groups * x.rows, dy);
    fill_masks(planes, vectors, masks);
    for (int64_t g = 0; g < groups; ++g) {
      add_planes_wgrad<A>(
          x.rows, filter_terms(), offsets, source + g * x.depth * planes.channel_elements(),
          dy + g * x.rows * dy_step, dy_step, masks, vectors, sums + g * group_sums());
    }
  }

  // dy in rows of x's pitch, zeros between.
  Planes<A> dy_planes(const Planes<A>& planes, int64_t u, int64_t v) const {
    const int64_t u_end = u + planes.h.positions, v_end = v + planes.w.positions;
    return {PlaneAxis(identity_axis(u_end), u, u_end), PlaneAxis(identity_axis(v_end), v, v_end),
            planes.pitch()};
  }

  void fill_masks(const Planes<A>& planes, int64_t vectors, Mask* masks) const {
    int64_t row = 0, column = 0;
    for (int64_t i = 0; i < vectors; ++i) {
      for (int l = 0; l < kLanes<A>; ++l) {
        const bool pixel = row < planes.h.positions && column < planes.w.positions;
        masks[i][l] = pixel ? -1 : 0;
        if (++column == planes.pitch()) {
          column = 0;
          ++row;
        }
      }
    }
  }

  void run() const {
    const int64_t elements = block_sums();
    vector_t<A>* const sums = static_cast<vector_t<A>*>(
        scratch(ScratchSlot::kShared, blocks * slices * elements * kVectorBytes));
    parallel_for(blocks * slices, args.num_threads, [&](int64_t task) {
      compute(task / slices, task % slices, sums + task * elements);
    });
    const ConvProblem& o = args.problem;
    const int64_t taps = o.R * o.S;
    parallel_for(o.K, args.num_threads, [&](int64_t k) {
      const int64_t group = k / x.rows;
      const vector_t<A>* const from = sums + group / at_once * slices * elements +
                                      group % at_once * group_sums() + k % x.rows * filter_terms();
      for (int64_t term = 0; term < filter_terms(); ++term) {
        vector_t<A> lanes = {};
        for (int64_t slice = 0; slice < slices; ++slice) lanes += from[slice * elements + term];
        A sum = 0;
        for (int l = 0; l < kLanes<A>; ++l) sum += lanes[l];
        const int64_t tap = term % taps;
        *args.w.at<T>(k, term / taps, tap / o.S, tap % o.S) = from_accumulator<T>(sum);
      }
    });
  }
};

}  // namespace

void conv2d_planes(ConvOp op, const CpuConvArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (op == ConvOp::fprop) return planes_product<T>(fprop_product(args), args.num_threads);
    if (op == ConvOp::dgrad) return dgrad<T>(args);
    return PlanesWgrad<T>(args).run();
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
