// Switching between stacks within one OS thread.
#pragma once

#include <cstddef>

namespace emulator {

// Saves the running context in *save and continues the context `to`.
void switch_context(void** save, void* to);

// A context that will call entry() at the top of a stack. entry must not return.
void* make_context(char* stack_top, void (*entry)());

}  // namespace emulator
