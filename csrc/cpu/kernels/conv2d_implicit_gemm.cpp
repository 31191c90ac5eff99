// Convolution as a matrix product whose gathered operand is never written out: a tile's source
// pixels are staged once (stage.h) and every tap reads them there, in every layout.
//
//   fprop, dgrad   c[pixel][filter] += stage[pixel + tap][channel] * weights[tap, channel][filter]
//                  A task: a tile of pixels x some filters. Weights are packed once.
//   wgrad          c[filter][tap, channel] += dy[pixel][filter] * stage[pixel + tap][channel]
//                  A task: kWgradFilterTile filters x kWgradColumns channels and taps, of a slice
//                  of the tiles of pixels.
//
//                  filters
//                +---------+
//                |  panel  | kSumLength terms, in L1 while the pixels of the tile pass by
//      stage     +---------+
//    +-------+   +---------+
//    |pixels |   |    c    | -> epilogue
//    +-------+   +---------+
//
// The workspace never grows with the image: a thread's tiles are a few hundred KiB, packed weights
// take at most kWeightBytes (more filters go in several rounds).
// Bound: FLOPs, above about 64 channels and filters; bytes below.
#include "cpu/runtime/kernels.h"
#include "cpu/staging/pack_weights.h"
#include "cpu/staging/store_tile.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kTilePixels = 224;        // at most, of a tile; ImageNet's rows divide it
constexpr int64_t kFilterTile = 256;        // filters of c, a multiple of kMicroColumns
constexpr int64_t kEvenTasks = 8;           // a thread; then all filters of a stage are one task
constexpr int64_t kFewestTasks = 2;         // a thread; fewer are split below kFilterTile
constexpr int64_t kMinFilterTile = 32;      // smaller tiles spend more on staging than threads gain
constexpr int64_t kChannelBlock = 2048;     // channels staged at a time, at most
constexpr int64_t kStageBytes = 640 << 10;  // tiles have fewer pixels where their stage is larger
constexpr int64_t kMaxStageBytes = 8 << 20;  // of the smallest tile
constexpr int64_t kWeightBytes = 32 << 20;
constexpr int64_t kPackedAlone = 16 << 10;  // elements that one thread packs sooner than several

constexpr int64_t kWgradFilterTile = 264;  // a multiple of every kMicroRows
constexpr int64_t kWgradColumns = 288;     // channels x taps of a tile; dy is staged for each tile
constexpr int64_t kWgradChannels = 32;     // at least, where there are many taps
constexpr int64_t kWgradTaps = 16;         // of a tile, or one row of them
constexpr int64_t kWgradPixels = 112;      // of a tile
constexpr int64_t kWgradRowSums = 8192;    // filters x taps of a row, at most
// Enough tasks to split the pixels for; fixed, as it sets the sums.
constexpr int64_t kWgradTasks = 16;

template <typename T>
TensorView channel_offset(const TensorView& tensor, int64_t channels) {
  return {static_cast<T*>(tensor.data) + channels * tensor.strides.c, tensor.strides};
}
template <typename T>
TensorView filter_offset(const TensorView& w, int64_t filters) {
  return {static_cast<T*>(w.data) + filters * w.strides.n, w.strides};
}
// ---- stages and terms -------------------------------------------------------------------------

// Channels whose stage is bounded for every size of the filter.
template <typename A>
int64_t channel_block(int64_t channels, int64_t taps) {
  const int64_t pixel_bytes = kMicroRows * max64(1, taps) * static_cast<int64_t>(sizeof(A));
  return max64(1, min64(min64(channels, kChannelBlock), kMaxStageBytes / pixel_bytes));
}

// Whether a run of terms is a filter's row, the same in all tiles: where its taps lie one after the
// other and channels are few. Else it is a tap.
template <typename A>
bool merges_rows(const GatherAxis& w, int64_t channels) {
  const bool adjacent =
      w.taps == 1 || (w.tap_offset == 1 && (w.positions == 1 || w.source_step <= w.taps));
  return adjacent && w.taps > 0 && channels < kLanes<A>;
}
Terms fill_terms(const Stage& s, bool rows, int32_t* taps) {
  int32_t* out = taps;
  for (int64_t i = 0; i < s.h.axis.taps; ++i) {
    for (int64_t j = 0; j < (rows ? 1 : s.w.axis.taps); ++j) {
      *out++ = static_cast<int32_t>(s.tap(i, j));
    }
  }
  return {taps, rows ? s.w.axis.taps * s.channels : s.channels};
}

// ---- fprop and dgrad -------------------------------------------------------------------------

// The products of all groups, for one phase of output positions. The groups lie `channels` of the
// source, filters_per_group of w and `rows` of the output apart.
struct GroupedProduct {
  PixelTiles tiles;
  TensorView source;
  int64_t channels, channel_block;  // of the source, in one group; staged at a time
  PackedWeights weights;
  TileOutput out;
  int64_t groups, filters_per_group, rows;

  int64_t gemm_k() const { return weights.taps() * channels; }
};

// c[panel][pixel][row of the panel] += the terms of one block of channels, the first_term-th and on
// of each panel of weights. The first rows of the last block may go to `out` instead.
template <typename A>
void product_block(const Terms& terms, int64_t gemm_k, const A* stage, const int32_t* positions,
                   int64_t pixels, const A* weights, int64_t first_term, int64_t panel_elements,
                   int64_t rows, A* c, const FilterRows<A>* out, int64_t out_rows) {
  for_each_micro_column<A>(rows, [&](int64_t row, auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;
    const A* const panel = weights + row / kMicroColumns<A> * panel_elements;
    for (int64_t k = 0; k < gemm_k; k += kSumLength) {
      const int64_t k_end = min64(gemm_k, k + kSumLength);
      const FilterRows<A>* const to = k_end == gemm_k && row < out_rows ? out : nullptr;
      for_each_micro_row(pixels, [&](int64_t pixel, auto micro_rows) {
        product_micro<decltype(micro_rows)::value, kVectors>(
            terms, k, k_end, first_term + k > 0, stage, positions,
            panel + (first_term + k) * kVectors * kLanes<A>, pixel, row, c + row * pixels, to);
      });
    }
  });
}

// The pixels of a tile times rows [row, row_end) of a group, kFilterTile rows of c at a time.
template <typename T>
void product_tile(const GroupedProduct& o, const PixelTile& tile, int64_t group, int64_t row,
                  int64_t row_end, const accumulator_t<T>* weights, int64_t panel_elements) {
  using A = accumulator_t<T>;
  const int64_t pixels = tile.pixels(), taps = o.weights.taps();
  // The last block of channels is smaller, and yet its pitch may be larger.
  const auto elements = [&](int64_t channels) {
    return stage_elements<A>(tile.stage<A>(o.tiles.h, o.tiles.w, channels));
  };
  A* const memory = task_memory<A>(
      ScratchSlot::kTask,
      max64(elements(o.channel_block), elements(o.channels % max64(1, o.channel_block))));
  // c, what the last transposed block reads behind it, and the offsets.
  const int64_t c_rows = min64(kFilterTile, round_up(row_end - row, kMicroColumns<A>));
  const int64_t c_elements = c_rows * pixels + kTileReadAhead<A>;
  A* const c = task_memory<A>(ScratchSlot::kTile, c_elements + pixels + taps);
  int32_t* const positions = reinterpret_cast<int32_t*>(c + c_elements);
  const A* staged = nullptr;
  for (int64_t k = row; k < row_end; k += kFilterTile) {
    const int64_t first = group * o.rows + k, rows = min64(kFilterTile, row_end - k);
    if (o.gemm_k() == 0) zero_row(c, c_elements);
    const FilterRows<A> out = filter_rows<T>(o.out, tile, first);
    const int64_t out_rows = out.y != nullptr && o.gemm_k() > 0 ? whole_rows<A>(rows) : 0;
    for (int64_t channel = 0; channel < o.channels && taps > 0; channel += o.channel_block) {
      const int64_t channels = min64(o.channel_block, o.channels - channel);
      const Stage s = tile.stage<A>(o.tiles.h, o.tiles.w, channels);
      if (staged == nullptr || channels < o.channels) {  // else all channels are there already
        tile.fill_positions(s, positions);
        const TensorView source = channel_offset<T>(o.source, group * o.channels + channel);
        staged = stage_tile<T>(s, source, tile.n, memory);
      }
      const Terms terms = fill_terms(s, merges_rows<A>(o.tiles.w, s.channels), positions + pixels);
      const bool last = channel + channels == o.channels;
      product_block<A>(terms, taps * s.channels, staged, positions, pixels,
                       weights + (k - row) / kMicroColumns<A> * panel_elements, taps * channel,
                       panel_elements, rows, c, last ? &out : nullptr, out_rows);
    }
    store_tile<T>(o.out, tile, first + out_rows, rows - out_rows, c + out_rows * pixels);
  }
}

template <typename T>
void gather_gemm(const GroupedProduct& o, int num_threads) {
  using A = accumulator_t<T>;
  const int64_t pixel_tiles = o.tiles.count();
  const int64_t panel_elements = max64(1, o.gemm_k()) * kMicroColumns<A>;
  const int64_t panels = div_up(o.rows, kMicroColumns<A>);

  // A round packs as many panels as the workspace holds: some of one group's, or whole groups.
  const int64_t held = max64(1, kWeightBytes / (panel_elements * static_cast<int64_t>(sizeof(A))));
  const int64_t round_panels = min64(panels, held);
  const int64_t round_groups = min64(o.groups, max64(1, held / panels));
  A* const packed =
      task_memory<A>(ScratchSlot::kShared, round_groups * round_panels * panel_elements);

  for (int64_t group0 = 0; group0 < o.groups; group0 += round_groups) {
    const int64_t groups = min64(round_groups, o.groups - group0);
    for (int64_t row0 = 0; row0 < o.rows; row0 += round_panels * kMicroColumns<A>) {
      const int64_t row1 = min64(o.rows, row0 + round_panels * kMicroColumns<A>);
      const int64_t panels_here = div_up(row1 - row0, kMicroColumns<A>);
      const bool alone = groups * panels_here * panel_elements <= kPackedAlone;
      parallel_for(groups * panels_here, alone ? 1 : num_threads, [&](int64_t task) {
        const int64_t group = group0 + task / panels_here;
        const int64_t row = row0 + task % panels_here * kMicroColumns<A>;
        PackedWeights weights = o.weights;
        weights.filters = filter_offset<T>(weights.filters, group * o.filters_per_group);
        pack_weight_panel<T>(weights, row, min64(row1, row + kMicroColumns<A>), o.channels,
                             o.channel_block, packed + task * panel_elements);
      });

      // Split the rows among tasks. The sums do not change.
      int64_t row_tile = panels_here * kMicroColumns<A>;
      const auto tasks = [&] { return groups * pixel_tiles * div_up(row1 - row0, row_tile); };
      while (tasks() < (row_tile > kFilterTile ? kEvenTasks : kFewestTasks) * num_threads &&
             row_tile >= 2 * kMinFilterTile) {
        row_tile = round_up(row_tile / 2, row_tile > kFilterTile ? kFilterTile : kMicroColumns<A>);
      }
      const int64_t row_tiles = div_up(row1 - row0, row_tile);
      parallel_for(groups * pixel_tiles * row_tiles, num_threads, [&](int64_t task) {
        // All groups of a tile before the next: in channels_last they share its pixels' memory.
        const int64_t group = task / row_tiles % groups;
        const int64_t row = task % row_tiles * row_tile;
        product_tile<T>(o, PixelTile(o.tiles, task / row_tiles / groups), group0 + group,
                        row0 + row, min64(row1, row0 + row + row_tile),
                        packed + (group * panels_here + row / kMicroColumns<A>)*panel_elements,
                        panel_elements);
      });
    }
  }
}

template <typename T>
void fprop(const CpuConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t Cg = o.channels_per_group(), Kg = o.filters_per_group();
  const GatherAxis h = fprop_axis(h_axis(o));
  const GatherAxis w = fprop_axis(w_axis(o));
  const int64_t block = channel_block<A>(Cg, o.R * o.S);
  gather_gemm<T>({choose_tiles<A>(h, w, o.N, block, kTilePixels, kStageBytes),
                  args.x,
                  Cg,
                  block,
                  {h, w, args.w, args.w.strides.n, args.w.strides.c, o.R, o.S},
                  {h, w, args.y, &args.epilogue},
                  o.groups,
                  Kg,
                  Kg},
                 args.num_threads);
}

template <typename T>
void dgrad(const CpuConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t Cg = o.channels_per_group(), Kg = o.filters_per_group();
  const Epilogue store_only;
  for_each_phase(o, [&](const GatherAxis& h, const GatherAxis& w) {
    const int64_t block = channel_block<A>(Kg, h.taps * w.taps);
    gather_gemm<T>({choose_tiles<A>(h, w, o.N, block, kTilePixels, kStageBytes),
                    args.y,
                    Kg,
                    block,
                    {h, w, args.w, args.w.strides.c, args.w.strides.n, o.R, o.S},
                    {h, w, args.x, &store_only},
                    o.groups,
                    Kg,
                    Cg},
                   args.num_threads);
  });
}

// ---- wgrad -----------------------------------------------------------------------------------

int64_t wgrad_tap_rows(const ConvProblem& o) { return min64(o.R, max64(1, kWgradTaps / o.S)); }
int64_t wgrad_tile_channels(const ConvProblem& o) {
  const int64_t channels = kWgradColumns / (wgrad_tap_rows(o) * o.S);
  return min64(max64(1, o.channels_per_group()), max64(kWgradChannels, channels));
}

// dw is computed in tiles, group after group: filters x channels x rows of taps. The tiles of
// pixels of a tile of dw are divided among `slices` tasks where tiles of dw are few.
struct WgradGrid {
  int64_t filters, channels, R, S;
  int64_t tap_rows, tile_filters, tile_channels;                  // of a tile
  int64_t filter_tiles, channel_tiles, tap_tiles, tiles, slices;  // tiles: of all groups

  WgradGrid(const ConvProblem& o, int64_t pixel_tiles)
      : filters(o.filters_per_group()),
        channels(o.channels_per_group()),
        R(o.R),
        S(o.S),
        tap_rows(wgrad_tap_rows(o)),
        // Fewer filters where a row of taps is long already.
        tile_filters(max64(1, min64(kWgradFilterTile, kWgradRowSums / o.S) / kMicroRows) *
                     kMicroRows),
        tile_channels(wgrad_tile_channels(o)),
        filter_tiles(div_up(filters, tile_filters)),
        channel_tiles(div_up(channels, tile_channels)),
        tap_tiles(div_up(o.R, tap_rows)),
        tiles(o.groups * filter_tiles * channel_tiles * tap_tiles),
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

// A tile of sums: a row for each filter; in a row, a run of columns for each of the stage's terms'
// runs, rounded up to whole vectors.
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

  // dw tile = the sum of its slices' tiles, in their order (in the first one).
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

void conv2d_implicit_gemm(ConvOp op, const CpuConvArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (op == ConvOp::fprop) return fprop<T>(args);
    if (op == ConvOp::dgrad) return dgrad<T>(args);
    return Wgrad<T>(args).run();
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
