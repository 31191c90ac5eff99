// Which kernels were launched.
#pragma once

#include <string>

namespace emulator {

// The demangled name of a kernel, by its address.
std::string kernel_name(const void* kernel);
// The tests ask for what was noted (emulator_take_launches).
void note_launch(const void* kernel);

}  // namespace emulator
