// What the launchers of the kernels share whose blocks take rectangles of pixels.
#pragma once

#include "cuda/kernels/gemm/pixel_tile.cuh"
#include "cuda/launch/gemm_store.h"
#include "cuda/launch/launch.h"
#include "plan/pixel_tile_geometry.h"

namespace fastconv::cuda {

// Of N images of P x Q output pixels.
inline PixelTiles pixel_tiles(int64_t N, int64_t P, int64_t Q) {
  const int64_t along_h = div_up(P, kPixelTileRows), along_w = div_up(Q, kPixelTileColumns);
  PixelTiles tiles;
  tiles.count = static_cast<int>(N * along_h * along_w);
  tiles.P = static_cast<int>(P), tiles.Q = static_cast<int>(Q);
  tiles.along_h = divmod(along_h), tiles.along_w = divmod(along_w);
  return tiles;
}

}  // namespace fastconv::cuda
