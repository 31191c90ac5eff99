// Stand-in for the CUDA toolkit's header of the same name: ordinary CUDA C++ sources compile with
// g++ alone, and their kernels run on the CPU (tests/emulator/runtime).
#pragma once

#include "emulator/arithmetic.h"
#include "emulator/builtins.h"
#include "emulator/runtime_api.h"
#include "emulator/vector_types.h"
