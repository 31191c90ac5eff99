// For a kernel that breaks a rule: on the hardware it would hang or give wrong results.
#pragma once

namespace emulator {

// Prints the message with kernel, block, thread and what all other threads wait for, and aborts:
// an exception could not cross a fiber's stack.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace emulator
