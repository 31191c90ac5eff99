// How kernels are run, from the environment or fastconv_emulator_configure.
#pragma once

#include <cstdint>

namespace emulator {

struct Options {
  bool lazy_copies = true;  // asynchronous copies arrive as late as allowed, or else at once
  uint64_t seed = 0;        // 0: threads and blocks in order; else shuffled
  int workers = 0;          // OS threads that a grid's blocks are spread over; 0: one for each CPU
};

Options current_options();

}  // namespace emulator
