// The error that cudaGetLastError will tell this OS thread.
#pragma once

#include "emulator/runtime_api.h"

namespace emulator {

cudaError_t remember(cudaError_t error);  // returns it

}  // namespace emulator
