// wgrad with vector lanes along pixels (planes.h), for few channels and filters a group:
//
//   sums[filter][term] += dy[filter][column] * planes[term + column]
//
// Each of these sums is a vector of partial sums until the end. A task: a slice of the rows of all
// images.
// Bound: multiply-adds.
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/plane_product.h"
#include "cpu/runtime/kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// Of the sums of all slices, unless a single slice takes more.
constexpr int64_t kSumsBytes = 64 << 20;
constexpr int kWgradRows = 4;  // filters of a micro tile
constexpr int kWgradTerms = kVectorBytes == 64 ? 6 : 2;
// Pixels are cut into slices until there are so many tasks. The number of threads has no say, since
// the slices decide in which order a sum is added up.
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
    const ConvProblem& problem = args.problem;
    const int64_t taps = problem.R * problem.S;
    parallel_for(problem.K, args.num_threads, [&](int64_t k) {
      const int64_t group = k / x.rows;
      const vector_t<A>* const from = sums + group / at_once * slices * elements +
                                      group % at_once * group_sums() + k % x.rows * filter_terms();
      for (int64_t term = 0; term < filter_terms(); ++term) {
        vector_t<A> lanes = {};
        for (int64_t slice = 0; slice < slices; ++slice) lanes += from[slice * elements + term];
        A sum = 0;
        for (int l = 0; l < kLanes<A>; ++l) sum += lanes[l];
        const int64_t tap = term % taps;
        *args.w.at<T>(k, term / taps, tap / problem.S, tap % problem.S) = from_accumulator<T>(sum);
      }
    });
  }
};

}  // namespace

void conv2d_wgrad_planes(const CpuConvArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { PlanesWgrad<decltype(tag)>(args).run(); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
