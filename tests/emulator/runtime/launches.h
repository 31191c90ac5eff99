// Which kernels were launched.
#pragma once

#include <string>

namespace emulator {

std::string kernel_name(const void* kernel);
void note_launch(const void* kernel);

}  // namespace emulator
