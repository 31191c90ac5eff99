// wgrad as a matrix product (conv2d_implicit_gemm.cpp has the other passes): the pixels of a tile
// are staged once, and every tap reads them there.
//
//   c[filter][tap, channel] += dy[pixel][filter] * stage[pixel + tap][channel]
//
// A task: kWgradFilterTile filters x kWgradColumns channels and taps, of a slice of the tiles of
// pixels. Slices are added up in order.
// Bound: FLOPs, above about 64 channels and filters; bytes below.
#include "cpu/kernels/gemm_terms.h"
#include "cpu/runtime/kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kWgradFilterTile = 264;  // a multiple of every kMicroRows
constexpr int64_t kWgradColumns = 288;     // channels x taps of a tile; dy is staged for each tile
constexpr int64_t kWgradChannels = 32;     // at least, where there are many taps
constexpr int64_t kWgradTaps = 16;         // of a tile, or one row of them
constexpr int64_t kWgradPixels = 112;      // of a tile
constexpr int64_t kWgradRowSums = 8192;    // filters x taps of a row, at most
// Pixels are cut into slices until there are so many tasks. The number of threads has no say, since
// the slices decide in which order a sum is added up.
constexpr int64_t kWgradTasks = 16;

int64_t wgrad_tap_rows(const ConvProblem& problem) {
  return min64(problem.R, max64(1, kWgradTaps / problem.S));
}
int64_t wgrad_tile_channels(const ConvProblem& problem) {
  const int64_t channels = kWgradColumns / (wgrad_tap_rows(problem) * problem.S);
  return min64(max64(1, problem.channels_per_group()), max64(kWgradChannels, channels));
}

// dw is computed in tiles, group after group: filters x channels x rows of taps. The tiles of
// pixels of a tile of dw are divided among `slices` tasks where tiles of dw are few.
struct WgradGrid {
  int64_t filters, channels, R, S;
  int64_t tap_rows, tile_filters, tile_channels;                  // of a tile
  int64_t filter_tiles, channel_tiles, tap_tiles, tiles, slices;  // tiles: of all groups

  WgradGrid(const ConvProblem& problem, int64_t pixel_tiles)
      : filters(problem.filters_per_group()),
        channels(problem.channels_per_group()),
        R(problem.R),
        S(problem.S),
        tap_rows(wgrad_tap_rows(problem)),
        // Fewer filters where a row of taps is long already.
        tile_filters(max64(1, min64(kWgradFilterTile, kWgradRowSums / problem.S) / kMicroRows) *
                     kMicroRows),
        tile_channels(wgrad_tile_channels(problem)),
        filter_tiles(div_up(filters, tile_filters)),
        channel_tiles(div_up(channels, tile_channels)),
        tap_tiles(div_up(problem.R, tap_rows)),
        tiles(problem.groups * filter_tiles * channel_tiles * tap_tiles),
        slices(max64(1, min64(pixel_tiles, div_up(kWgradTasks, max64(1, tiles))))) {}
};

struct WgradTile {
  int64_t group, k, k_end, c, c_end, r, r_end;

  WgradTile(const WgradGrid& grid, int64_t index) {
    r = index % grid.tap_tiles * grid.tap_rows;
    r_end = min64(grid.R, r + grid.tap_rows);
    index /= grid.tap_tiles;
    c = index % grid.channel_tiles * grid.tile_channels;
    c_end = min64(grid.channels, c + grid.tile_channels);
    index /= grid.channel_tiles;
    k = index % grid.filter_tiles * grid.tile_filters;
    k_end = min64(grid.filters, k + grid.tile_filters);
    group = index / grid.filter_tiles;
  }
};

// How a tile of sums lies in memory: a row for each filter, and in it a run of columns for each run
// of terms (gemm.h), rounded up to whole vectors.
template <typename A>
struct WgradSums {
  int64_t S, channels;
  bool rows;  // a run is a row of taps
  int64_t run_step, step;

  WgradSums(const Stage& s, const GatherAxis& w)
      : S(w.taps),
        channels(s.channels),
        rows(merges_rows<A>(w, s.channels)),
        run_step(round_up(rows ? S * channels : channels, kLanes<A>)),
        step(s.h.axis.taps * (rows ? 1 : S) * run_step + kLanes<A>) {}
  int64_t column(int64_t i, int64_t j) const {
    return rows ? i * run_step + j * channels : (i * S + j) * run_step;
  }
};

// c += dy x over the pixels of one tile; for all types of elements that are summed in A.
template <typename A>
void add_wgrad_tile(const Terms& terms, int64_t runs, const WgradSums<A>& layout, int64_t pixels,
                    const A* x, const int32_t* positions, const A* dy, int64_t dy_pitch,
                    int64_t filters, A* c) {
  for (int64_t run = 0; run < runs; ++run) {
    for_each_micro_column<A>(terms.run_length, [&](int64_t column, auto vectors) {
      for_each_micro_row(filters, [&](int64_t k, auto micro_rows) {
        wgrad_micro<decltype(micro_rows)::value, decltype(vectors)::value>(
            pixels, dy + k, dy_pitch, x + terms.taps[run] + column, positions,
            c + k * layout.step + run * layout.run_step + column, layout.step);
      });
    });
  }
}

template <typename T>
struct Wgrad {
  using A = accumulator_t<T>;
  const CpuConvArgs& args;
  GatherAxis x_h, x_w, y_h, y_w;
  PixelTiles tiles;
  WgradGrid grid;

  explicit Wgrad(const CpuConvArgs& a)
      : args(a),
        x_h(fprop_axis(h_axis(a.problem))),
        x_w(fprop_axis(w_axis(a.problem))),
        y_h(identity_axis(a.problem.P())),
        y_w(identity_axis(a.problem.Q())),
        tiles(choose_tiles<A>(x_h, x_w, a.problem.N, wgrad_tile_channels(a.problem), kWgradPixels,
                              kStageBytes)),
        grid(a.problem, tiles.count()) {}

  Stage x_stage(const PixelTile& pixels, const WgradTile& t) const {
    GatherAxis h = x_h;
    h.taps = t.r_end - t.r;
    if (t.r > 0) h.source_first += t.r * h.tap_offset;
    return pixels.stage<A>(h, x_w, t.c_end - t.c);
  }
  WgradSums<A> sums(const WgradTile& t) const { return {x_stage(PixelTile(tiles, 0), t), x_w}; }
  int64_t most_sums() const {
    const WgradTile largest(grid, 0);
    return (largest.k_end - largest.k) * sums(largest).step;
  }

  // c = dy x over the pixels of one slice.
  void compute(const WgradTile& t, int64_t slice, A* c) const {
    const WgradSums<A> layout = sums(t);
    const int64_t filters = t.k_end - t.k;
    zero_row(c, filters * layout.step);
    const TensorView x = channel_offset<T>(args.x, t.group * grid.channels + t.c);
    const TensorView dy = channel_offset<T>(args.y, t.group * grid.filters + t.k);
    for (int64_t tile = slice * tiles.count() / grid.slices;
         tile < (slice + 1) * tiles.count() / grid.slices; ++tile) {
      const PixelTile pixels(tiles, tile);
      const Stage xs = x_stage(pixels, t), ys = pixels.stage<A>(y_h, y_w, filters);
      const int64_t runs = (t.r_end - t.r) * (layout.rows ? 1 : grid.S);
      const int64_t x_elements = stage_elements<A>(xs), y_elements = stage_elements<A>(ys);
      A* const memory =
          task_memory<A>(ScratchSlot::kTask, x_elements + y_elements + pixels.pixels() + runs);
      int32_t* const positions = reinterpret_cast<int32_t*>(memory + x_elements + y_elements);
      pixels.fill_positions(xs, positions);
      const Terms terms = fill_terms(xs, layout.rows, positions + pixels.pixels());
      const A* const x_tile = stage_tile<T>(xs, x, pixels.n, memory);
      const A* const y_tile = stage_tile<T>(ys, dy, pixels.n, memory + x_elements);
      add_wgrad_tile<A>(terms, runs, layout, pixels.pixels(), x_tile, positions, y_tile, ys.pitch,
                        filters, c);
    }
  }

  // Adds the sums of the other slices to those of the first one, in their order, and stores these
  // to dw.
  void store(const WgradTile& t, A* sums_of_tile, int64_t slice_step) const {
    const WgradSums<A> layout = sums(t);
    const Strides& strides = args.w.strides;
    for (int64_t k = t.k; k < t.k_end; ++k) {
      A* const from = sums_of_tile + (k - t.k) * layout.step;
      for (int64_t slice = 1; slice < grid.slices; ++slice) {
        for (int64_t i = 0; i < layout.step; ++i) from[i] += from[slice * slice_step + i];
      }
      for (int64_t r = t.r; r < t.r_end; ++r) {
        for (int64_t s = 0; s < grid.S; ++s) {
          const A* const run = from + layout.column(r - t.r, s);
          T* const out = args.w.at<T>(t.group * grid.filters + k, t.c, r, s);
          store_row(out, strides.c, run, t.c_end - t.c);
        }
      }
    }
  }

  void run() const {
    const int64_t elements = most_sums();
    if (grid.slices == 1) {
      parallel_for(grid.tiles, args.num_threads, [&](int64_t task) {
        const WgradTile tile(grid, task);
        A* const c = task_memory<A>(ScratchSlot::kTile, elements);
        compute(tile, 0, c);
        store(tile, c, 0);
      });
      return;
    }
    // At most 2 * kWgradTasks tiles of sums: up to 10 MiB, more for filters with long rows.
    A* const c = task_memory<A>(ScratchSlot::kShared, grid.tiles * grid.slices * elements);
    parallel_for(grid.tiles * grid.slices, args.num_threads, [&](int64_t task) {
      compute(WgradTile(grid, task / grid.slices), task % grid.slices, c + task * elements);
    });
    parallel_for(grid.tiles, args.num_threads, [&](int64_t tile) {
      store(WgradTile(grid, tile), c + tile * grid.slices * elements, elements);
    });
  }
};

}  // namespace

void conv2d_wgrad_implicit_gemm(const CpuConvArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { Wgrad<decltype(tag)>(args).run(); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
