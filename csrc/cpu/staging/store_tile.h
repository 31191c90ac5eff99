// From a tile's sums through the epilogue to a tensor: from c[panel of channels][pixel][channel],
// or straight from registers where the tensor's filters are adjacent (register_output).
#pragma once

#include "cpu/staging/epilogue.h"
#include "cpu/staging/pixel_tiles.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Elements of c behind its last panel that store_tile may read.
template <typename A>
constexpr int64_t kTileReadAhead = kMicroColumns<A> * kLanes<A>;

// Where the results of all tiles go: the output's axes, its tensor, and what is done to the sums.
struct TileOutput {
  GatherAxis h, w;
  TensorView tensor;
  const Epilogue* epilogue;
};

// Elements from each of a tile's pixels to the next, or -1 where that differs.
static inline int64_t pixel_step(const TileOutput& output, const PixelTile& tile,
                                 const Strides& strides) {
  const int64_t columns = tile.v_end - tile.v, rows = tile.u_end - tile.u;
  const int64_t images = tile.n_end - tile.n;
  const int64_t step = strides.w * output.w.step, row_step = strides.h * output.h.step;
  if (rows * images > 1 && row_step != columns * step) return -1;
  if (images > 1 && strides.n != rows * row_step) return -1;
  return step;
}

// Where the sums of a tile's pixels belong, for filters `first` and on, if a kernel can store them
// straight from registers; else y of the result is null.
template <typename T>
static RegisterOutput<accumulator_t<T>> register_output(const TileOutput& output,
                                                        const PixelTile& tile, int64_t first) {
  using A = accumulator_t<T>;
  const RegisterOutput<A> none = {nullptr, 0, FilterEpilogue<A>(Activation{})};
  if constexpr (std::is_same_v<T, A>) {
    const TensorView &y = output.tensor, &residual = output.epilogue->residual;
    const int64_t step = pixel_step(output, tile, y.strides);
    if (y.strides.c != 1 || step < 0 || !Clamp<A>::is(output.epilogue->activation)) return none;
    FilterEpilogue<T> finish(output.epilogue->activation);
    const int64_t h = output.h.first + tile.u * output.h.step,
                  w = output.w.first + tile.v * output.w.step;
    const T* const bias = static_cast<const T*>(output.epilogue->bias);
    if (bias != nullptr) finish.bias = bias + first;
    if (residual.data != nullptr) {
      finish.residual_step = pixel_step(output, tile, residual.strides);
      if (residual.strides.c != 1 || finish.residual_step < 0) return none;
      finish.residual = residual.at<T>(tile.n, first, h, w);
    }
    return {y.at<T>(tile.n, first, h, w), step, finish};
  } else {
    return none;
  }
}

// How many of a tile's rows, which are its filters, fill whole vectors: all of them, or those of
// whole panels.
template <typename A>
static inline int64_t whole_rows(int64_t rows) {
  return rows % kLanes<A> == 0 ? rows : rows / kMicroColumns<A> * kMicroColumns<A>;
}

// Activates a block that is in registers: only a copy has an address.
template <typename A>
static inline void activate_block(vector_t<A> (&block)[kLanes<A>], Activation activation) {
  vector_t<A> row[kLanes<A>];
#pragma GCC unroll 16
  for (int l = 0; l < kLanes<A>; ++l) row[l] = block[l];
  activate_row(reinterpret_cast<A*>(row), kLanes<A> * kLanes<A>, activation);
#pragma GCC unroll 16
  for (int l = 0; l < kLanes<A>; ++l) block[l] = row[l];
}

// Channels [0, count), at most a vector of them, of a run of `columns` pixels: z[pixel][channel] to
// planes plane_step apart. Vectors along pixels where the run's elements are adjacent.
template <typename T>
static void store_planes(const accumulator_t<T>* z, int64_t count, int64_t columns,
                         const Epilogue& epilogue, const T* bias, const T* residual,
                         int64_t residual_step, int64_t residual_plane, T* out, int64_t out_step,
                         int64_t plane_step) {
  using A = accumulator_t<T>;
  const bool whole =
      count == kLanes<A> && out_step == 1 && (residual == nullptr || residual_step == 1);
  const bool is_clamp = Clamp<A>::is(epilogue.activation);
  const Clamp<A> clamp(is_clamp ? epilogue.activation : Activation{});
  const vector_t<A> biases = whole && bias != nullptr ? load_vector(bias) : vector_t<A>{};
  for (int64_t first = 0; first < columns; first += kLanes<A>) {
    // The last block ends with the run and stores some pixels twice.
    const int64_t v = whole && columns >= kLanes<A> ? min64(first, columns - kLanes<A>) : first;
    vector_t<A> block[kLanes<A>];
#pragma GCC unroll 16
    for (int l = 0; l < kLanes<A>; ++l) block[l] = load_vector(z + (v + l) * kMicroColumns<A>);
    const int64_t run = min64(kLanes<A>, columns - v);
    if (whole && run == kLanes<A>) {
#pragma GCC unroll 16
      for (int l = 0; l < kLanes<A>; ++l) block[l] += biases;
      transpose<A>(block);
      if (residual != nullptr) {
#pragma GCC unroll 16
        for (int m = 0; m < kLanes<A>; ++m)
          block[m] += load_vector(residual + m * residual_plane + v);
      }
      if (!is_clamp) activate_block<A>(block, epilogue.activation);
#pragma GCC unroll 16
      for (int m = 0; m < kLanes<A>; ++m) store_vector(out + m * plane_step + v, clamp(block[m]));
      continue;
    }
    transpose<A>(block);
    for (int64_t m = 0; m < count; ++m) {
      A sums[kLanes<A>];
      store_vector(sums, block[m]);
      store_epilogue<T>(
          sums, run, epilogue, bias == nullptr ? nullptr : bias + m, 0,
          residual == nullptr ? nullptr : residual + m * residual_plane + v * residual_step,
          residual_step, out + m * plane_step + v * out_step, out_step);
    }
  }
}

// Stores rows [first, first + rows) of the output from c, whose panels hold `pixels` pixels.
template <typename T>
static __attribute__((noinline)) void store_tile(const TileOutput& output, const PixelTile& tile,
                                                 int64_t first, int64_t rows, accumulator_t<T>* c) {
  using A = accumulator_t<T>;
  const GatherAxis& h_axis = output.h;
  const GatherAxis& w_axis = output.w;
  const int64_t pixels = tile.pixels();
  const int64_t w = w_axis.first + tile.v * w_axis.step;
  const Epilogue& epilogue = *output.epilogue;
  const TensorView& residual = epilogue.residual;
  const T* const bias = static_cast<const T*>(epilogue.bias);
  // Contiguous rows are stored as one.
  const auto adjacent = [&](const Strides& strides) {
    return h_axis.step == 1 && w_axis.step == 1 && strides.h == w_axis.positions * strides.w;
  };
  int64_t columns = tile.v_end - tile.v, rows_at_once = 1;
  if (columns == w_axis.positions && adjacent(output.tensor.strides) &&
      (residual.data == nullptr || adjacent(residual.strides))) {
    rows_at_once = tile.u_end - tile.u;
    columns *= rows_at_once;
  }
  for (int64_t row = 0; row < rows; row += kMicroColumns<A>) {
    const int64_t count = min64(kMicroColumns<A>, rows - row), k = first + row;
    A* from = c + row * pixels;
    for (int64_t n = tile.n; n < tile.n_end; ++n) {
      for (int64_t u = tile.u; u < tile.u_end;
           u += rows_at_once, from += columns * kMicroColumns<A>) {
        const int64_t h = h_axis.first + u * h_axis.step;
        T* const out = output.tensor.at<T>(n, k, h, w);
        const T* const add = residual.data ? residual.at<T>(n, k, h, w) : nullptr;
        const int64_t out_step = columns > 1 ? output.tensor.strides.w * w_axis.step : 0;
        const int64_t add_step = columns > 1 ? residual.strides.w * w_axis.step : 0;
        if (output.tensor.strides.c == 1) {
          store_channels<T>(from, kMicroColumns<A>, columns, count, epilogue,
                            bias == nullptr ? nullptr : bias + k, add, add_step, residual.strides.c,
                            out, out_step);
          continue;
        }
        for (int64_t i = 0; i < count; i += kLanes<A>) {
          store_planes<T>(from + i, min64(kLanes<A>, count - i), columns, epilogue,
                          bias == nullptr ? nullptr : bias + k + i,
                          add == nullptr ? nullptr : add + i * residual.strides.c, add_step,
                          residual.strides.c, out + i * output.tensor.strides.c, out_step,
                          output.tensor.strides.c);
        }
      }
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
