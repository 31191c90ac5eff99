// Output positions cut into tiles, each with the stage of its source pixels (stage.h).
#pragma once

#include "cpu/kernels/gemm.h"
#include "cpu/staging/stage.h"

namespace fastconv::cpu::FASTCONV_ISA {

// The output positions of all images cut into tiles: part of a row, some rows, or some images.
struct PixelTiles {
  GatherAxis h, w;
  int64_t images, tile_images, tile_rows, tile_columns;
  int64_t image_tiles, row_tiles, column_tiles;

  PixelTiles(const GatherAxis& h, const GatherAxis& w, int64_t images, int64_t max_pixels)
      : h(h), w(w), images(images) {
    const auto balanced = [](int64_t size, int64_t most) {
      return size == 0 ? 1 : div_up(size, div_up(size, max64(1, min64(size, most))));
    };
    tile_columns = balanced(w.positions, max_pixels);
    tile_rows = balanced(h.positions, max_pixels / tile_columns);
    const bool whole = tile_columns == w.positions && tile_rows == h.positions;
    tile_images = whole ? balanced(images, max_pixels / (tile_rows * tile_columns)) : 1;
    image_tiles = div_up(images, tile_images);
    row_tiles = div_up(h.positions, tile_rows);
    column_tiles = div_up(w.positions, tile_columns);
  }

  int64_t count() const { return image_tiles * row_tiles * column_tiles; }
};

struct PixelTile {
  int64_t n, n_end, u, u_end, v, v_end;

  PixelTile(const PixelTiles& tiles, int64_t index) {
    n = index / tiles.column_tiles / tiles.row_tiles * tiles.tile_images;
    n_end = min64(tiles.images, n + tiles.tile_images);
    u = index / tiles.column_tiles % tiles.row_tiles * tiles.tile_rows;
    u_end = min64(tiles.h.positions, u + tiles.tile_rows);
    v = index % tiles.column_tiles * tiles.tile_columns;
    v_end = min64(tiles.w.positions, v + tiles.tile_columns);
  }
  int64_t pixels() const { return (n_end - n) * (u_end - u) * (v_end - v); }

  template <typename A>
  Stage stage(const GatherAxis& h, const GatherAxis& w, int64_t channels) const {
    return {StageAxis(h, u, u_end), StageAxis(w, v, v_end), n_end - n, channels,
            staged_pitch<A>(channels)};
  }
  void fill_positions(const Stage& s, int32_t* out) const {
    for (int64_t image = 0; image < s.images; ++image) {
      for (int64_t i = 0; i < s.h.positions; ++i) {
        const int64_t first = s.position(image, i, 0), step = s.w.position(1) * s.pitch;
        for (int64_t j = 0; j < s.w.positions; ++j) {
          *out++ = static_cast<int32_t>(first + j * step);
        }
      }
    }
  }
};

// The largest tiles of up to most_pixels whose stage of `channels` channels holds stage_bytes.
template <typename A>
static PixelTiles choose_tiles(const GatherAxis& h, const GatherAxis& w, int64_t images,
                               int64_t channels, int64_t most_pixels, int64_t stage_bytes) {
  for (int64_t pixels = most_pixels;; pixels = pixels / 2) {
    const PixelTiles tiles(h, w, images, pixels);
    const int64_t bytes =
        PixelTile(tiles, 0).stage<A>(h, w, channels).elements() * static_cast<int64_t>(sizeof(A));
    if (bytes <= stage_bytes || pixels < 2 * kMicroRows) return tiles;
  }
}

template <typename A>
static inline A* task_memory(ScratchSlot slot, int64_t elements) {
  return static_cast<A*>(scratch(slot, elements * static_cast<int64_t>(sizeof(A))));
}

// A task's stage: the rows that planes are transposed from, then the stage, and behind it what the
// last micro tile's vectors may read.
template <typename A>
static inline int64_t stage_elements(const Stage& s) {
  return kLanes<A> * stage_row_slots(s) + round_up(s.elements(), kLanes<A>) + kMicroColumns<A>;
}
template <typename T>
static inline accumulator_t<T>* stage_tile(const Stage& s, const TensorView& source,
                                           int64_t first_image, accumulator_t<T>* memory) {
  using A = accumulator_t<T>;
  A* const stage = memory + kLanes<A> * stage_row_slots(s);
  fill_stage<T>(s, source, first_image, memory, stage);
  return stage;
}

}  // namespace fastconv::cpu::FASTCONV_ISA
