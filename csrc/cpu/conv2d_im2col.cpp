// Convolution as a matrix product over gathered pixels, one tile of pixels at a time.
//
//   fprop, dgrad   c[filter][pixel] += a[k][filter] * b[k][pixel]     k = (tap, channel)
//                  a = the filters, packed once a call; b = the tile's gathered pixels
//   wgrad          c[filter][k]     += a[pixel][filter] * b[pixel][k]
//                  a = dy, b = gathered x, both packed for each chunk of pixels
//
//        b   kPixelTile pixels             The workspace never grows with the image: packed filters
//          +--------------+                take at most kWeightBytes (more filters go in several
//     a    | kDepth k     |                rounds), a thread's tiles a few hundred KiB.
//   +----+ +--------------+
//   |    | | c stays in L2|  -> epilogue   Bound: FLOPs, once gemm_m is above about 64; below that
//   the
//   +----+ +--------------+                packing.
#include "cpu/epilogue.h"
#include "cpu/im2col.h"
#include "cpu/kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kDepth = 256;         // gemm_k of one chunk
constexpr int64_t kPixelTile = 96;      // columns of c; times 4 bytes no multiple of 512 (L1 sets)
constexpr int64_t kFilterTile = 264;    // rows of c, a multiple of every kMicroM
constexpr int64_t kMinFilterTile = 48;  // smaller tiles spend more on packing than threads gain
constexpr int64_t kWeightBytes = 32 << 20;

constexpr int64_t kWgradFilterTile = 132;
constexpr int64_t kWgradColumnTile = 288;
constexpr int64_t kWgradTasks =
    16;  // enough tasks to split the pixels for; fixed: it sets the sums

static_assert(kDepth <= kMaxChannelRun && kWgradColumnTile <= kMaxChannelRun &&
              kWgradFilterTile <= kMaxChannelRun);

static int64_t round_up(int64_t value, int64_t multiple) {
  return div_up(value, multiple) * multiple;
}

template <typename T>
const T* advance(const void* data, int64_t elements) {
  return data == nullptr ? nullptr : static_cast<const T*>(data) + elements;
}

// ---- fprop and dgrad -------------------------------------------------------------------------

// What one group's rows of c become: output channels from first_channel on.
struct GatherOutput {
  TensorView out;
  int64_t first_channel;
  const Epilogue* epilogue;
};

// Stores c[row][pixel] through the epilogue, along whichever of pixels and channels is adjacent.
template <typename T>
void store_tile(const Gather& g, const GatherOutput& o, int64_t row, int64_t row_end, int64_t pixel,
                int64_t pixel_end, accumulator_t<T>* c) {
  const TensorView& residual = o.epilogue->residual;
  const int64_t first = o.first_channel + row, rows = row_end - row;
  const T* const bias = advance<T>(o.epilogue->bias, first);
  const bool channels_adjacent = o.out.strides.c == 1 && rows > 1;
  for (int64_t i = pixel; i < pixel_end;) {
    const PixelRun run = pixel_run(g, i, pixel_end);
    const int64_t h = g.h.first + run.u * g.h.step;
    if (channels_adjacent) {
      for (int64_t v = 0; v < run.count; ++v) {
        const int64_t w = g.w.first + (run.v + v) * g.w.step;
        accumulator_t<T> z[kFilterTile];
        for (int64_t m = 0; m < rows; ++m) z[m] = c[m * kPixelTile + (i - pixel) + v];
        store_epilogue<T>(z, rows, *o.epilogue, bias, 1,
                          residual.data ? residual.at<T>(run.n, first, h, w) : nullptr,
                          residual.strides.c, o.out.at<T>(run.n, first, h, w), 1);
      }
    } else {
      const int64_t w = g.w.first + run.v * g.w.step;
      for (int64_t m = 0; m < rows; ++m) {
        store_epilogue<T>(c + m * kPixelTile + (i - pixel), run.count, *o.epilogue,
                          bias == nullptr ? nullptr : bias + m, 0,
                          residual.data ? residual.at<T>(run.n, first + m, h, w) : nullptr,
                          residual.strides.w * g.w.step, o.out.at<T>(run.n, first + m, h, w),
                          o.out.strides.w * g.w.step);
      }
    }
    i += run.count;
  }
}

template <typename T>
TensorView channel_offset(const TensorView& tensor, int64_t channels) {
  return {static_cast<T*>(tensor.data) + channels * tensor.strides.c, tensor.strides};
}
template <typename T>
TensorView filter_offset(const TensorView& w, int64_t filters) {
  return {static_cast<T*>(w.data) + filters * w.strides.n, w.strides};
}

// The products of all groups: rows of group 0's filters times its gathered pixels, and so on. The
// groups lie g.channels of the source, filters_per_group of w and rows of the output apart.
struct GroupedProduct {
  Gather gather;
  GatherWeights weights;
  GatherOutput output;
  int64_t groups, filters_per_group, rows, images;

  template <typename T>
  Gather gather_of(int64_t group) const {
    Gather g = gather;
    g.source = channel_offset<T>(g.source, group * g.channels);
    return g;
  }
};

// One block of c: the pixels of a tile times the rows of a row tile.
template <typename T>
void product_tile(const Gather& g, const GatherOutput& output, int64_t row, int64_t row_end,
                  int64_t pixel, int64_t pixel_end, const accumulator_t<T>* a,
                  int64_t panel_elements) {
  using A = accumulator_t<T>;
  const int64_t columns = round_up(pixel_end - pixel, kMicroN<A>);
  A* const b =
      static_cast<A*>(scratch(ScratchSlot::kTask, (kDepth + kFilterTile) * kPixelTile * sizeof(A)));
  A* const c = b + kDepth * kPixelTile;
  for (int64_t i = 0; i < round_up(row_end - row, kMicroM) * kPixelTile; ++i) c[i] = A(0);
  for (int64_t k = 0; k < g.gemm_k(); k += kDepth) {
    const int64_t k_end = min64(g.gemm_k(), k + kDepth);
    pack_pixels_as_columns<T, kPixelTile>(g, pixel, pixel_end, k, k_end, b, kPixelTile, columns);
    block_gemm<A>(row_end - row, columns, k_end - k,
                  {a + k * kMicroM, panel_elements, kMicroM, b, kPixelTile, c, kPixelTile});
  }
  store_tile<T>(g, output, row, row_end, pixel, pixel_end, c);
}

template <typename T>
void gather_gemm(const GroupedProduct& o, int num_threads) {
  using A = accumulator_t<T>;
  const int64_t pixels = o.images * o.gather.pixels_per_image();
  const int64_t pixel_tiles = div_up(pixels, kPixelTile);
  const int64_t panel_elements = max64(1, o.gather.gemm_k()) * kMicroM;
  const int64_t panels = div_up(o.rows, kMicroM);

  // A round packs as many panels as the workspace holds: some of one group's, or whole groups.
  const int64_t held = max64(1, kWeightBytes / (panel_elements * static_cast<int64_t>(sizeof(A))));
  const int64_t round_panels = min64(panels, held);
  const int64_t round_groups = min64(o.groups, max64(1, held / panels));
  A* const packed = static_cast<A*>(
      scratch(ScratchSlot::kShared, round_groups * round_panels * panel_elements * sizeof(A)));

  for (int64_t group0 = 0; group0 < o.groups; group0 += round_groups) {
    const int64_t groups = min64(round_groups, o.groups - group0);
    for (int64_t row0 = 0; row0 < o.rows; row0 += round_panels * kMicroM) {
      const int64_t row1 = min64(o.rows, row0 + round_panels * kMicroM);
      const int64_t panels_here = div_up(row1 - row0, kMicroM);
      parallel_for(groups * panels_here, num_threads, [&](int64_t task) {
        const int64_t group = group0 + task / panels_here;
        GatherWeights weights = o.weights;
        weights.w = filter_offset<T>(weights.w, group * o.filters_per_group);
        pack_weight_panel<T>(o.gather, weights, row0 + task % panels_here * kMicroM, row1,
                             packed + task * panel_elements);
      });

      // Few tiles: split the rows so that every thread has work. The sums do not change.
      int64_t row_tile = min64(kFilterTile, panels_here * kMicroM);
      while (groups * pixel_tiles * div_up(row1 - row0, row_tile) < 2 * num_threads &&
             row_tile >= 2 * kMinFilterTile) {
        row_tile = round_up(row_tile / 2, kMicroM);
      }
      const int64_t row_tiles = div_up(row1 - row0, row_tile);
      parallel_for(groups * pixel_tiles * row_tiles, num_threads, [&](int64_t task) {
        const int64_t group = task / row_tiles / pixel_tiles;
        const int64_t pixel = task / row_tiles % pixel_tiles * kPixelTile;
        const int64_t row = task % row_tiles * row_tile;
        GatherOutput output = o.output;
        output.first_channel = (group0 + group) * o.rows;
        product_tile<T>(
            o.gather_of<T>(group0 + group), output, row0 + row, min64(row1, row0 + row + row_tile),
            pixel, min64(pixels, pixel + kPixelTile),
            packed + (group * panels_here + row / kMicroM) * panel_elements, panel_elements);
      });
    }
  }
}

template <typename T>
void fprop(const ConvArgs& args) {
  const ConvProblem& o = args.problem;
  const int64_t Cg = o.channels_per_group(), Kg = o.filters_per_group();
  const Gather g = {fprop_axis(o.H, o.P(), o.R, o.stride_h, o.pad_h, o.dilation_h),
                    fprop_axis(o.W, o.Q(), o.S, o.stride_w, o.pad_w, o.dilation_w), Cg, args.x};
  gather_gemm<T>({g,
                  {args.w, args.w.strides.n, args.w.strides.c},
                  {args.y, 0, &args.epilogue},
                  o.groups,
                  Kg,
                  Kg,
                  o.N},
                 args.num_threads);
}

template <typename T>
void dgrad(const ConvArgs& args) {
  const ConvProblem& o = args.problem;
  const int64_t Cg = o.channels_per_group(), Kg = o.filters_per_group();
  const Epilogue store_only;
  for (int64_t residue_h = 0; residue_h < min64(o.stride_h, o.H); ++residue_h) {
    for (int64_t residue_w = 0; residue_w < min64(o.stride_w, o.W); ++residue_w) {
      const Gather g = {dgrad_axis(o.H, o.P(), o.R, o.stride_h, o.pad_h, o.dilation_h, residue_h),
                        dgrad_axis(o.W, o.Q(), o.S, o.stride_w, o.pad_w, o.dilation_w, residue_w),
                        Kg, args.y};
      gather_gemm<T>({g,
                      {args.w, args.w.strides.c, args.w.strides.n},
                      {args.x, 0, &store_only},
                      o.groups,
                      Kg,
                      Cg,
                      o.N},
                     args.num_threads);
    }
  }
}

// ---- wgrad -----------------------------------------------------------------------------------

// dw is computed in tiles, group after group; the pixels of a tile are divided among `slices` tasks
// where tiles are few.
struct WgradGrid {
  int64_t gemm_n, rows, pixels, chunks;
  int64_t row_tiles, column_tiles, tiles, slices;  // tiles: of all groups

  WgradGrid(int64_t groups, int64_t rows, int64_t gemm_n, int64_t pixels)
      : gemm_n(gemm_n),
        rows(rows),
        pixels(pixels),
        chunks(div_up(pixels, kDepth)),
        row_tiles(div_up(rows, kWgradFilterTile)),
        column_tiles(div_up(gemm_n, kWgradColumnTile)),
        tiles(groups * row_tiles * column_tiles),
        slices(min64(chunks, div_up(kWgradTasks, tiles))) {}

  int64_t group(int64_t tile) const { return tile / column_tiles / row_tiles; }
  int64_t row(int64_t tile) const { return tile / column_tiles % row_tiles * kWgradFilterTile; }
  int64_t row_end(int64_t tile) const { return min64(rows, row(tile) + kWgradFilterTile); }
  int64_t column(int64_t tile) const { return tile % column_tiles * kWgradColumnTile; }
  int64_t column_end(int64_t tile) const { return min64(gemm_n, column(tile) + kWgradColumnTile); }
};
constexpr int64_t kWgradTile = kWgradFilterTile * kWgradColumnTile;

// c = dy x over the pixels of one slice; x and dy are the tile's group's.
template <typename T>
void wgrad_tile(const Gather& x, const Gather& dy, const WgradGrid& grid, int64_t tile,
                int64_t slice, accumulator_t<T>* c) {
  using A = accumulator_t<T>;
  const int64_t row = grid.row(tile), row_end = grid.row_end(tile);
  const int64_t column = grid.column(tile), column_end = grid.column_end(tile);
  const int64_t rows = round_up(row_end - row, kMicroM);
  const int64_t columns = round_up(column_end - column, kMicroN<A>);
  A* const a = static_cast<A*>(
      scratch(ScratchSlot::kTask, kDepth * (kWgradFilterTile + kWgradColumnTile) * sizeof(A)));
  A* const b = a + kDepth * kWgradFilterTile;
  for (int64_t i = 0; i < rows * kWgradColumnTile; ++i) c[i] = A(0);
  for (int64_t chunk = slice * grid.chunks / grid.slices;
       chunk < (slice + 1) * grid.chunks / grid.slices; ++chunk) {
    const int64_t pixel = chunk * kDepth, pixel_end = min64(grid.pixels, pixel + kDepth);
    pack_pixels_as_rows<T, kDepth>(dy, pixel, pixel_end, row, row_end, a, kWgradFilterTile, rows);
    pack_pixels_as_rows<T, kDepth>(x, pixel, pixel_end, column, column_end, b, kWgradColumnTile,
                                   columns);
    block_gemm<A>(rows, columns, pixel_end - pixel,
                  {a, kMicroM, kWgradFilterTile, b, kWgradColumnTile, c, kWgradColumnTile});
  }
}

// dw tile = the sum of its slices' tiles, in their order; dw is the tile's group's.
template <typename T>
void store_wgrad_tile(const Gather& x, const TensorView& dw, const WgradGrid& grid, int64_t tile,
                      const accumulator_t<T>* slices_of_tile) {
  using A = accumulator_t<T>;
  const int64_t row = grid.row(tile), rows = grid.row_end(tile) - row;
  const auto store = [&](int64_t tap_h, int64_t tap_w, int64_t channel, int64_t count, int64_t k) {
    for (int64_t m = 0; m < rows; ++m) {
      const A* const sums = slices_of_tile + m * kWgradColumnTile + k;
      T* const out = dw.at<T>(row + m, channel, tap_h, tap_w);
      for (int64_t c = 0; c < count; ++c) {
        A sum = 0;
        for (int64_t slice = 0; slice < grid.slices; ++slice) sum += sums[slice * kWgradTile + c];
        out[c * dw.strides.c] = from_accumulator<T>(sum);
      }
    }
  };
  for_each_tap(x, grid.column(tile), grid.column_end(tile), store);
}

template <typename T>
void wgrad(const ConvArgs& args) {
  using A = accumulator_t<T>;
  const ConvProblem& o = args.problem;
  const int64_t P = o.P(), Q = o.Q(), Cg = o.channels_per_group(), Kg = o.filters_per_group();
  const Gather x = {fprop_axis(o.H, P, o.R, o.stride_h, o.pad_h, o.dilation_h),
                    fprop_axis(o.W, Q, o.S, o.stride_w, o.pad_w, o.dilation_w), Cg, args.x};
  const Gather dy = {fprop_axis(P, P, 1, 1, 0, 1), fprop_axis(Q, Q, 1, 1, 0, 1), Kg, args.y};
  const WgradGrid grid(o.groups, Kg, x.gemm_k(), o.N * P * Q);

  const auto compute = [&](int64_t tile, int64_t slice, A* c) {
    Gather group_x = x, group_dy = dy;
    group_x.source = channel_offset<T>(x.source, grid.group(tile) * Cg);
    group_dy.source = channel_offset<T>(dy.source, grid.group(tile) * Kg);
    wgrad_tile<T>(group_x, group_dy, grid, tile, slice, c);
  };
  const auto store = [&](int64_t tile, const A* slices_of_tile) {
    store_wgrad_tile<T>(x, filter_offset<T>(args.w, grid.group(tile) * Kg), grid, tile,
                        slices_of_tile);
  };
  if (grid.slices == 1) {
    parallel_for(grid.tiles, args.num_threads, [&](int64_t tile) {
      A* const c = static_cast<A*>(scratch(ScratchSlot::kTile, kWgradTile * sizeof(A)));
      compute(tile, 0, c);
      store(tile, c);
    });
    return;
  }
  // At most 2 * kWgradTasks tiles of sums: a few MiB.
  A* const sums = static_cast<A*>(
      scratch(ScratchSlot::kShared, grid.tiles * grid.slices * kWgradTile * sizeof(A)));
  parallel_for(grid.tiles * grid.slices, args.num_threads, [&](int64_t task) {
    compute(task / grid.slices, task % grid.slices, sums + task * kWgradTile);
  });
  parallel_for(grid.tiles, args.num_threads,
               [&](int64_t tile) { store(tile, sums + tile * grid.slices * kWgradTile); });
}

}  // namespace

void conv2d_im2col(ConvOp op, const ConvArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (op == ConvOp::fprop) return fprop<T>(args);
    if (op == ConvOp::dgrad) return dgrad<T>(args);
    return wgrad<T>(args);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
