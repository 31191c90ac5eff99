// fprop and dgrad as a matrix product whose gathered operand is never written out: a tile's source
// pixels are staged once (stage.h) and every tap reads them there, in every layout.
//
//   c[pixel][filter] += stage[pixel + tap][channel] * weights[tap, channel][filter]
//
// A task: a tile of pixels x some filters. Weights are packed once.
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
#include "cpu/kernels/gemm_terms.h"
#include "cpu/runtime/kernels.h"
#include "cpu/staging/pack_weights.h"
#include "cpu/staging/store_tile.h"

namespace fastconv::cpu::FASTCONV_ISA {

void conv2d_wgrad_implicit_gemm(const CpuConvArgs& args);

namespace {

constexpr int64_t kTilePixels = 224;  // of a tile, at most; divisible by rows of 112, 56, 28 ...
constexpr int64_t kFilterTile = 256;  // filters of c, a multiple of kMicroColumns
// Tasks wanted for each thread: the filters of a tile are split among tasks until there are
// kEvenTasks, into parts smaller than kFilterTile only until there are kFewestTasks.
constexpr int64_t kEvenTasks = 8;
constexpr int64_t kFewestTasks = 2;
constexpr int64_t kMinFilterTile = 32;   // smaller tiles spend more on staging than threads gain
constexpr int64_t kChannelBlock = 2048;  // channels staged at a time, at most
constexpr int64_t kMaxStageBytes = 8 << 20;  // of the smallest tile
constexpr int64_t kWeightBytes = 32 << 20;
constexpr int64_t kPackedAlone = 16 << 10;  // so many elements one thread packs sooner than several

template <typename T>
TensorView filter_offset(const TensorView& w, int64_t filters) {
  return {static_cast<T*>(w.data) + filters * w.strides.n, w.strides};
}

// Channels whose stage is bounded for every size of the filter.
template <typename A>
int64_t channel_block(int64_t channels, int64_t taps) {
  const int64_t pixel_bytes = kMicroRows * max64(1, taps) * static_cast<int64_t>(sizeof(A));
  return max64(1, min64(min64(channels, kChannelBlock), kMaxStageBytes / pixel_bytes));
}

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

// c[panel][pixel][row of the panel] += the gemm_k terms of one block of channels. In each panel of
// weights they begin with term first_term. With the last block the sums are complete: those of the
// first out_rows rows then go to `out`, where there is one, instead of c.
template <typename A>
void product_block(const Terms& terms, int64_t gemm_k, const A* stage, const int32_t* positions,
                   int64_t pixels, const A* weights, int64_t first_term, int64_t panel_elements,
                   int64_t rows, A* c, const RegisterOutput<A>* out, int64_t out_rows) {
  for_each_micro_column<A>(rows, [&](int64_t row, auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;
    const A* const panel = weights + row / kMicroColumns<A> * panel_elements;
    for (int64_t k = 0; k < gemm_k; k += kSumLength) {
      const int64_t k_end = min64(gemm_k, k + kSumLength);
      const RegisterOutput<A>* const to = k_end == gemm_k && row < out_rows ? out : nullptr;
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
void product_tile(const GroupedProduct& product, const PixelTile& tile, int64_t group, int64_t row,
                  int64_t row_end, const accumulator_t<T>* weights, int64_t panel_elements) {
  using A = accumulator_t<T>;
  const int64_t pixels = tile.pixels(), taps = product.weights.taps();
  // The last block of channels is smaller, and yet its pitch may be larger.
  const auto elements = [&](int64_t channels) {
    return stage_elements<A>(tile.stage<A>(product.tiles.h, product.tiles.w, channels));
  };
  A* const memory = task_memory<A>(
      ScratchSlot::kTask, max64(elements(product.channel_block),
                                elements(product.channels % max64(1, product.channel_block))));
  // c with what the last transposed block reads behind it, then the pixels' positions and the
  // terms' offsets.
  const int64_t c_rows = min64(kFilterTile, round_up(row_end - row, kMicroColumns<A>));
  const int64_t c_elements = c_rows * pixels + kTileReadAhead<A>;
  A* const c = task_memory<A>(ScratchSlot::kTile, c_elements + pixels + taps);
  int32_t* const positions = reinterpret_cast<int32_t*>(c + c_elements);
  const A* staged = nullptr;
  for (int64_t k = row; k < row_end; k += kFilterTile) {
    const int64_t first = group * product.rows + k, rows = min64(kFilterTile, row_end - k);
    if (product.gemm_k() == 0) zero_row(c, c_elements);
    const RegisterOutput<A> out = register_output<T>(product.out, tile, first);
    const int64_t out_rows = out.y != nullptr && product.gemm_k() > 0 ? whole_rows<A>(rows) : 0;
    for (int64_t channel = 0; channel < product.channels && taps > 0;
         channel += product.channel_block) {
      const int64_t channels = min64(product.channel_block, product.channels - channel);
      const Stage s = tile.stage<A>(product.tiles.h, product.tiles.w, channels);
      // Where one block has all channels, they are staged once for all rows.
      if (staged == nullptr || channels < product.channels) {
        tile.fill_positions(s, positions);
        const TensorView source =
            channel_offset<T>(product.source, group * product.channels + channel);
        staged = stage_tile<T>(s, source, tile.n, memory);
      }
      const Terms terms =
          fill_terms(s, merges_rows<A>(product.tiles.w, s.channels), positions + pixels);
      const bool last = channel + channels == product.channels;
      product_block<A>(terms, taps * s.channels, staged, positions, pixels,
                       weights + (k - row) / kMicroColumns<A> * panel_elements, taps * channel,
                       panel_elements, rows, c, last ? &out : nullptr, out_rows);
    }
    store_tile<T>(product.out, tile, first + out_rows, rows - out_rows, c + out_rows * pixels);
  }
}

template <typename T>
void gather_gemm(const GroupedProduct& product, int num_threads) {
  using A = accumulator_t<T>;
  const int64_t pixel_tiles = product.tiles.count();
  const int64_t panel_elements = max64(1, product.gemm_k()) * kMicroColumns<A>;
  const int64_t panels = div_up(product.rows, kMicroColumns<A>);

  // A round packs as many panels as the workspace holds: some of one group's, or whole groups.
  const int64_t held = max64(1, kWeightBytes / (panel_elements * static_cast<int64_t>(sizeof(A))));
  const int64_t round_panels = min64(panels, held);
  const int64_t round_groups = min64(product.groups, max64(1, held / panels));
  A* const packed =
      task_memory<A>(ScratchSlot::kShared, round_groups * round_panels * panel_elements);

  for (int64_t group0 = 0; group0 < product.groups; group0 += round_groups) {
    const int64_t groups = min64(round_groups, product.groups - group0);
    for (int64_t row0 = 0; row0 < product.rows; row0 += round_panels * kMicroColumns<A>) {
      const int64_t row1 = min64(product.rows, row0 + round_panels * kMicroColumns<A>);
      const int64_t panels_here = div_up(row1 - row0, kMicroColumns<A>);
      const bool alone = groups * panels_here * panel_elements <= kPackedAlone;
      parallel_for(groups * panels_here, alone ? 1 : num_threads, [&](int64_t task) {
        const int64_t group = group0 + task / panels_here;
        const int64_t row = row0 + task % panels_here * kMicroColumns<A>;
        PackedWeights weights = product.weights;
        weights.filters = filter_offset<T>(weights.filters, group * product.filters_per_group);
        pack_weight_panel<T>(weights, row, min64(row1, row + kMicroColumns<A>), product.channels,
                             product.channel_block, packed + task * panel_elements);
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
        product_tile<T>(product, PixelTile(product.tiles, task / row_tiles / groups),
                        group0 + group, row0 + row, min64(row1, row0 + row + row_tile),
                        packed + (group * panels_here + row / kMicroColumns<A>)*panel_elements,
                        panel_elements);
      });
    }
  }
}

template <typename T>
void fprop(const CpuConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& problem = args.problem;
  const int64_t Cg = problem.channels_per_group(), Kg = problem.filters_per_group();
  const GatherAxis h = fprop_axis(h_axis(problem));
  const GatherAxis w = fprop_axis(w_axis(problem));
  const int64_t block = channel_block<A>(Cg, problem.R * problem.S);
  gather_gemm<T>({choose_tiles<A>(h, w, problem.N, block, kTilePixels, kStageBytes),
                  args.x,
                  Cg,
                  block,
                  {h, w, args.w, args.w.strides.n, args.w.strides.c, problem.R, problem.S},
                  {h, w, args.y, &args.epilogue},
                  problem.groups,
                  Kg,
                  Kg},
                 args.num_threads);
}

template <typename T>
void dgrad(const CpuConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& problem = args.problem;
  const int64_t Cg = problem.channels_per_group(), Kg = problem.filters_per_group();
  for_each_phase(problem, [&](const GatherAxis& h, const GatherAxis& w) {
    const int64_t block = channel_block<A>(Kg, h.taps * w.taps);
    gather_gemm<T>({choose_tiles<A>(h, w, problem.N, block, kTilePixels, kStageBytes),
                    args.y,
                    Kg,
                    block,
                    {h, w, args.w, args.w.strides.c, args.w.strides.n, problem.R, problem.S},
                    {h, w, args.x, &args.epilogue},
                    problem.groups,
                    Kg,
                    Cg},
                   args.num_threads);
  });
}

}  // namespace

void conv2d_implicit_gemm(ConvOp op, const CpuConvArgs& args) {
  if (op == ConvOp::wgrad) return conv2d_wgrad_implicit_gemm(args);
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    return op == ConvOp::fprop ? fprop<T>(args) : dgrad<T>(args);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
