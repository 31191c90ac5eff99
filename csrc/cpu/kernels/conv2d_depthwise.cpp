// Depthwise convolution (one channel a group), with vector lanes along channels in every layout.
//
// A tile's source pixels are staged (stage.h) as panels of one vector of channels, so that a row of
// pixels is one run of memory whose steps the compiler knows. fprop and dgrad with few taps need no
// panels where channels are adjacent: depthwise_rows.h.
//
//   fprop, dgrad   sums[pixel][lane] += panel[pixel + tap][lane] * weights[tap][lane]
//                  kRun pixels of a row at a time; whole panels go to tensors of adjacent channels
//                  straight from registers.
//   wgrad          sums[tap][lane] += panel[pixel + tap][lane] * dy[pixel][lane]
//                  Up to kWgradTaps taps at a time; kWgradSumLength pixels in accumulator type,
//                  their sums in double.
//
// Panels hold zeros where a tap lies in the padding, while whole rows of taps there are left out.
// With an infinite or NaN filter the zeros would give NaN and the rows left out nothing, so that
// conv2d_direct runs such filters: in it padding never adds anything.
//
// A task is a tile of pixels (wgrad: a slice of the tiles) and kPanels panels of channels.
// Bound: bytes for 3x3, multiply-adds beyond.
#include "cpu/kernels/depthwise_rows.h"
#include "cpu/runtime/kernels.h"
#include "cpu/staging/panels.h"
#include "cpu/staging/store_tile.h"

namespace fastconv::cpu::FASTCONV_ISA {

void conv2d_direct(ConvOp op, const CpuConvArgs& args);

namespace {

constexpr int64_t kPanels = 4;         // of a task, one after the other
constexpr int64_t kTilePixels = 3136;  // of a tile, at most
constexpr int64_t kMinTilePixels = 112;
constexpr int64_t kPanelBytes = 128 << 10;  // of a panel, so that it stays in L2
constexpr int64_t kTasksWanted = 2;         // for each thread
constexpr int kWgradTaps = 10;
// Of the sums of all slices of wgrad, unless a single slice takes more.
constexpr int64_t kSumsBytes = 64 << 20;
constexpr int64_t kWgradTilePixels = 224;
constexpr int64_t kWgradSumLength = 56;  // pixels summed in accumulator type, before double
// Pixels are cut into slices until there are so many tasks. The number of threads has no say, since
// the slices decide in which order a sum is added up.
constexpr int64_t kWgradTasks = 16;

// ---- fprop and dgrad -------------------------------------------------------------------------

// Tap (i, j) lies first + i * row_step + j * column_step elements behind a position in a panel.
struct PanelTaps {
  int64_t rows, columns, first, row_step, column_step;
};
PanelTaps panel_taps(const Stage& s, const PhaseAxis& h, const PhaseAxis& w) {
  if (h.axis.taps == 0 || w.axis.taps == 0) return {0, 0, 0, 0, 0};
  return {h.axis.taps, w.axis.taps, s.tap(h.first_tap, w.first_tap), s.tap(h.tap_step, 0),
          s.tap(0, w.tap_step)};
}

// The tap rows that lie inside of the source, of those of row u of positions.
Range tap_rows(const GatherAxis& h, int64_t u) {
  const int64_t first = u * h.source_step + h.source_first;
  if (h.tap_offset != 1) return valid_range(first, h.tap_offset, h.source_size, 0, h.taps);
  const int64_t begin = min64(h.taps, max64(0, -first));  // without a division
  return {begin, max64(begin, min64(h.taps, h.source_size - first))};
}

// All taps of kPixels neighbours of a row, kStep slots of the panel apart. With the step a constant
// the compiler needs one address for all pixels; inlined, it would not keep all sums in registers.
template <int kPixels, int kStep, typename T>
[[gnu::noinline]] void depthwise_micro(const PanelTaps& taps, const accumulator_t<T>* panel,
                                       const accumulator_t<T>* weights, int64_t weight_step,
                                       const RunOutput<T>& output) {
  using A = accumulator_t<T>;
  const RunOutput<T> out = output;  // a copy that no store can change
#pragma GCC unroll 14
  for (int m = 0; m < kPixels; ++m) __builtin_prefetch(out.y + m * out.y_step, 1, 3);
  vector_t<A> sums[kPixels] = {};
  for (int64_t i = 0; i < taps.rows; ++i, panel += taps.row_step) {
    const A* pixels = panel;
    for (int64_t j = 0; j < taps.columns; ++j) {
      const vector_t<A> filter = load_vector(weights);
#pragma GCC unroll 14
      for (int m = 0; m < kPixels; ++m) {
        sums[m] += load_vector(pixels + m * kStep * kLanes<A>) * filter;
      }
      weights += weight_step;
      pixels += taps.column_step;
    }
  }
#pragma GCC unroll 14
  for (int m = 0; m < kPixels; ++m) out.store(m, 0, sums[m]);
}

// Cuts the positions of one panel, U rows of V in each image, into runs of pixels, and calls
// visit(image, u, v, the run's length as a constant, where the panel has its first pixel, the slots
// from pixel to pixel as a constant) for each run, which begins at (u, v).
template <typename A, typename Visit>
void for_each_panel_run(const Stage& s, int64_t U, int64_t V, const A* panel, const Visit& visit) {
  const int64_t step = s.w.position(1);
  const auto rows = [&](auto most, auto constant_step) {
    for (int64_t row = 0; row < s.images * U; ++row) {
      const int64_t image = row / U, u = row % U;
      const A* const in = panel + s.position(image, u, 0);
      for_each_run<decltype(most)::value, 7, 4, 2, 1>(V, [&](int64_t v, auto run) {
        visit(image, u, v, run, in + v * step * kLanes<A>, constant_step);
      });
    }
  };
  if (step == 1) {
    rows(Constant<kRun>{}, Constant<1>{});
  } else if (step == 2) {
    rows(Constant<kRun>{}, Constant<2>{});
  } else {
    rows(Constant<1>{}, Constant<1>{});
  }
}

// The output pixels of a tile of positions.
PixelTile output_tile(const DepthwiseProduct& product, const PixelTile& positions) {
  PixelTile tile = positions;
  tile.u *= product.h.count;
  tile.u_end = min64(product.out.h.positions, tile.u_end * product.h.count);
  tile.v *= product.w.count;
  tile.v_end = min64(product.out.w.positions, tile.v_end * product.w.count);
  return tile;
}

template <typename T>
void depthwise_tile(const DepthwiseProduct& product, const PixelTile& tile, int64_t k,
                    int64_t k_end, const accumulator_t<T>* weights, int64_t weight_step) {
  using A = accumulator_t<T>;
  const PixelTile outer = output_tile(product, tile);
  const int64_t lanes = k_end - k, all_taps = product.all_taps(), pixels = outer.pixels();
  const int64_t rows = outer.u_end - outer.u, columns = outer.v_end - outer.v;
  const Stage s = panel_stage<A>(tile, product.tiles.h, product.tiles.w);
  A* const memory = task_memory<A>(ScratchSlot::kTask, stage_elements<A>(s));
  A* const panel = memory + kLanes<A> * stage_row_slots(s);
  A* const c = task_memory<A>(ScratchSlot::kTile,
                              round_up(lanes, kMicroColumns<A>) * pixels + kTileReadAhead<A>);

  const Epilogue& e = *product.out.epilogue;
  const Strides& y = product.out.tensor.strides;
  const int64_t y_step = y.w * product.w.count * product.out.w.step;
  const int64_t residual_step = e.residual.strides.w * product.w.count * product.out.w.step;
  const int64_t c_step = product.w.count * kMicroColumns<A>;
  // Whole panels go to a tensor of adjacent channels without passing through c.
  const bool in_place = product.depth == 1 && y.c == 1 && Clamp<A>::is(e.activation) &&
                        (e.residual.data == nullptr || e.residual.strides.c == 1);
  const Clamp<A> clamp(in_place ? e.activation : Activation{}), no_clamp(Activation{});
  const int64_t stored = in_place ? lanes / kLanes<A> * kLanes<A> : 0;

  for (int64_t lane = 0; lane < lanes; lane += kLanes<A>) {
    const int64_t c_lane = max64(0, lane - stored);
    A* const to =
        c + c_lane / kMicroColumns<A> * kMicroColumns<A> * pixels + c_lane % kMicroColumns<A>;
    for (int64_t d = 0; d < product.depth; ++d) {  // the sources that are summed up
      Lanes source = product.source;
      source.tensor.data = static_cast<T*>(source.tensor.data) + d * product.source_step;
      if (all_taps > 0) {
        fill_panel<T>(s, source, k + lane, min64(kLanes<A>, lanes - lane), tile.n, memory, panel);
      }
      const A* filter = weights + d * all_taps * weight_step + k + lane;
      for (int64_t i = 0; i < product.phases(); ++i) {
        const int64_t a = i / product.w.count, b = i % product.w.count;
        PanelTaps taps = panel_taps(s, product.h[a], product.w[b]);
        // Of the tile's rows and columns, those of this phase.
        const int64_t U = div_up(rows - a, product.h.count),
                      V = div_up(columns - b, product.w.count);
        for_each_panel_run<A>(
            s, U, V, panel + taps.first,
            [&](int64_t image, int64_t u, int64_t v, auto run, const A* in, auto step) {
              constexpr int kPixels = decltype(run)::value, kStep = decltype(step)::value;
              const int64_t row = u * product.h.count + a, column = v * product.w.count + b;
              const Range inside = tap_rows(product.h[a].axis, tile.u + u);
              taps.rows = inside.end - inside.begin;
              const A* const first_tap = in + inside.begin * taps.row_step;
              const A* const weight = filter + inside.begin * taps.columns * weight_step;
              if (lane < stored) {
                const int64_t n = outer.n + image;
                const int64_t h = product.out.h.first + (outer.u + row) * product.out.h.step;
                const int64_t w = product.out.w.first + (outer.v + column) * product.out.w.step;
                depthwise_micro<kPixels, kStep, T>(
                    taps, first_tap, weight, weight_step,
                    {product.out.tensor.at<T>(n, k + lane, h, w),
                     e.bias == nullptr ? nullptr : static_cast<const T*>(e.bias) + k + lane,
                     e.residual.data == nullptr ? nullptr : e.residual.at<T>(n, k + lane, h, w),
                     y_step, residual_step, clamp});
              } else {
                A* const sums = to + ((image * rows + row) * columns + column) * kMicroColumns<A>;
                depthwise_micro<kPixels, kStep, A>(
                    taps, first_tap, weight, weight_step,
                    {sums, nullptr, d == 0 ? nullptr : sums, c_step, c_step, no_clamp});
              }
            });
        filter += product.taps(a, b) * weight_step;
      }
    }
  }
  if (stored < lanes) store_tile<T>(product.out, outer, k + stored, lanes - stored, c);
}

// Returns false, with nothing computed, where the filters are not finite.
template <typename T>
bool depthwise_product(const DepthwiseProduct& product, int num_threads) {
  using A = accumulator_t<T>;
  const int64_t step = round_up(product.channels, kLanes<A>), block = kPanels * kLanes<A>;
  const int64_t blocks = div_up(product.channels, block);
  const int64_t elements = product.depth * product.all_taps() * step;
  A* const weights = task_memory<A>(ScratchSlot::kShared, max64(step, elements));
  pack_depthwise_weights<T>(product, step, weights);
  if constexpr (std::is_same_v<T, A>) {
    if (has_rows_of_channels<T>(product)) {
      depthwise_rows<T>(product, weights, step, num_threads);
      return true;
    }
  }
  if (!all_finite(weights, elements)) return false;
  parallel_for(product.tiles.count() * blocks, num_threads, [&](int64_t task) {
    const int64_t k = task % blocks * block;
    depthwise_tile<T>(product, PixelTile(product.tiles, task / blocks), k,
                      min64(product.channels, k + block), weights, step);
  });
  return true;
}

template <typename A>
PixelTiles panel_tiles(const GatherAxis& h, const GatherAxis& w, int64_t images, int64_t pixels) {
  return choose_tiles<A>(h, w, images, kLanes<A>, pixels, kPanelBytes);
}

// Tiles of a product, smaller ones where there would be too few tasks: the sums do not change.
template <typename A>
PixelTiles product_tiles(const GatherAxis& h, const GatherAxis& w, int64_t channels, int64_t phases,
                         const CpuConvArgs& args) {
  const int64_t blocks = div_up(channels, kPanels * kLanes<A>);
  for (int64_t pixels = kTilePixels / phases;; pixels /= 2) {
    const PixelTiles tiles = panel_tiles<A>(h, w, args.problem.N, pixels);
    if (pixels < 2 * kMinTilePixels || tiles.count() * blocks >= kTasksWanted * args.num_threads) {
      return tiles;
    }
  }
}

template <typename T>
bool fprop(const CpuConvArgs& args) {
  const ConvProblem& problem = args.problem;
  const GatherAxis h = fprop_axis(h_axis(problem));
  const GatherAxis w = fprop_axis(w_axis(problem));
  return depthwise_product<T>({{one_phase(h), one_phase(w)},
                               product_tiles<accumulator_t<T>>(h, w, problem.K, 1, args),
                               {args.x, problem.filters_per_group()},
                               0,
                               args.w,
                               args.w.strides.n,
                               0,
                               1,
                               problem.K,
                               {h, w, args.y, &args.epilogue}},
                              args.num_threads);
}

// Each input channel sums the dy of its filters.
template <typename T>
bool dgrad(const CpuConvArgs& args) {
  const ConvProblem& problem = args.problem;
  const int64_t filters = problem.filters_per_group();
  Strides strides = args.y.strides;
  strides.c *= filters;
  const Lanes dy = {{args.y.data, strides}, 1};
  const Strides& w_strides = args.w.strides;
  bool done = true;
  for_each_dgrad(problem, [&](const GatherPhases& phases) {
    const AxisPhases &h = phases.h, &w = phases.w;
    done &= depthwise_product<T>(
        {phases,
         product_tiles<accumulator_t<T>>(h.gathered, w.gathered, problem.C, phases.phases(), args),
         dy,
         args.y.strides.c,
         args.w,
         filters * w_strides.n,
         w_strides.n,
         filters,
         problem.C,
         {h.output(), w.output(), args.x, &args.epilogue}},
        args.num_threads);
  });
  return done;
}

// ---- wgrad -----------------------------------------------------------------------------------

// sums[tap] += dy[pixel] * panel[pixel + tap] for kTaps taps of one vector of lanes.
template <int kTaps, typename A>
static inline void depthwise_wgrad_micro(const int32_t* offsets, const A* panel,
                                         const int32_t* __restrict positions, int64_t pixels,
                                         const A* __restrict dy, double* __restrict out) {
  vector_t<A> sums[kTaps] = {};
  const A* from[kTaps];
#pragma GCC unroll 10
  for (int t = 0; t < kTaps; ++t) from[t] = panel + offsets[t];
  for (int64_t i = 0; i < pixels; ++i, dy += kLanes<A>) {
    const vector_t<A> gradient = load_vector(dy);
    const int64_t position = positions[i];
#pragma GCC unroll 10
    for (int t = 0; t < kTaps; ++t) sums[t] += load_vector(from[t] + position) * gradient;
  }
  for (int t = 0; t < kTaps; ++t, out += kLanes<A>) {
    for (int l = 0; l < kLanes<A>; ++l) out[l] += static_cast<double>(sums[t][l]);
  }
}

template <typename T>
void wgrad(const CpuConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& problem = args.problem;
  const GatherAxis x_h = fprop_axis(h_axis(problem));
  const GatherAxis x_w = fprop_axis(w_axis(problem));
  const GatherAxis y_h = identity_axis(problem.P());
  const GatherAxis y_w = identity_axis(problem.Q());
  const Lanes x = {args.x, problem.filters_per_group()}, dy = {args.y, 1};
  const int64_t block = kPanels * kLanes<A>, blocks = div_up(problem.K, block);
  const PixelTiles tiles = panel_tiles<A>(x_h, x_w, problem.N, kWgradTilePixels);
  const int64_t taps = problem.R * problem.S, block_sums = block * taps;  // [panel][tap][lane]
  const int64_t held = kSumsBytes / static_cast<int64_t>(sizeof(double)) / (blocks * block_sums);
  const int64_t slices = max64(1, min64(min64(tiles.count(), div_up(kWgradTasks, blocks)), held));
  double* const all_sums = task_memory<double>(ScratchSlot::kShared, blocks * slices * block_sums);

  parallel_for(blocks * slices, args.num_threads, [&](int64_t task) {
    const int64_t slice = task % slices, k = task / slices * block;
    const int64_t count = min64(block, problem.K - k);
    double* const sums = all_sums + task * block_sums;
    zero_row(sums, block_sums);
    for (int64_t t = slice * tiles.count() / slices; t < (slice + 1) * tiles.count() / slices;
         ++t) {
      const PixelTile tile(tiles, t);
      const Stage xs = panel_stage<A>(tile, x_h, x_w), ys = panel_stage<A>(tile, y_h, y_w);
      const int64_t x_elements = stage_elements<A>(xs), y_elements = stage_elements<A>(ys);
      const int64_t rows = kLanes<A> * max64(stage_row_slots(xs), stage_row_slots(ys));
      A* const memory =
          task_memory<A>(ScratchSlot::kTask, rows + x_elements + y_elements + tile.pixels() + taps);
      A* const x_panel = memory + rows;
      A* const y_panel = x_panel + x_elements;
      int32_t* const positions = reinterpret_cast<int32_t*>(y_panel + y_elements);
      int32_t* const offsets = positions + tile.pixels();
      tile.fill_positions(xs, positions);
      for (int64_t tap = 0; tap < taps; ++tap) {
        offsets[tap] = static_cast<int32_t>(xs.tap(tap / problem.S, tap % problem.S));
      }
      for (int64_t lane = 0; lane < count; lane += kLanes<A>) {
        const int64_t lanes = min64(kLanes<A>, count - lane);
        fill_panel<T>(xs, x, k + lane, lanes, tile.n, memory, x_panel);
        fill_panel<T>(ys, dy, k + lane, lanes, tile.n, memory, y_panel);
        for (int64_t pixel = 0; pixel < tile.pixels(); pixel += kWgradSumLength) {
          for_each_run<kWgradTaps, 9, 8, 7, 6, 5, 4, 3, 2, 1>(
              taps, [&](int64_t tap, auto tap_count) {
                depthwise_wgrad_micro<decltype(tap_count)::value>(
                    offsets + tap, x_panel, positions + pixel,
                    min64(kWgradSumLength, tile.pixels() - pixel), y_panel + pixel * kLanes<A>,
                    sums + lane * taps + tap * kLanes<A>);
              });
        }
      }
    }
  });
  for (int64_t k = 0; k < problem.K; ++k) {
    const int64_t lane = k % block;
    const double* const from = all_sums + k / block * slices * block_sums +
                               lane / kLanes<A> * taps * kLanes<A> + lane % kLanes<A>;
    for (int64_t tap = 0; tap < taps; ++tap) {
      double sum = 0;
      for (int64_t slice = 0; slice < slices; ++slice) {
        sum += from[slice * block_sums + tap * kLanes<A>];
      }
      *args.w.at<T>(k, 0, tap / problem.S, tap % problem.S) =
          from_accumulator<T>(static_cast<A>(sum));
    }
  }
}

}  // namespace

void conv2d_depthwise(ConvOp op, const CpuConvArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (op == ConvOp::wgrad) return wgrad<T>(args);
    if (!(op == ConvOp::fprop ? fprop<T>(args) : dgrad<T>(args))) conv2d_direct(op, args);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
