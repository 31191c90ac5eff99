// Each kernel breaks one rule; the emulator must end the process with a report.
#include "launch.h"

namespace test_kernels {

__global__ void deadlock() {
  if (threadIdx.x == 40) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

__global__ void exited_lane() {
  if (threadIdx.x == 3) return;
  __syncwarp();
}

__global__ void lane_exits_late() {
  if (threadIdx.x != 31) __syncwarp();
}

__global__ void different_collectives() {
  if (threadIdx.x % 2 == 0) {
    __syncwarp();
  } else {
    __ballot_sync(~0u, 1);
  }
}

__global__ void different_barriers() {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    __syncthreads_or(1);
  }
}

__global__ void mask_without_itself() { __ballot_sync(1u, 1); }

__global__ void livelock() {
  volatile int* flag = static_cast<int*>(emulator::shared_memory());
  while (*flag != 1) __nanosleep(10);
}

__global__ void misaligned_copy(const char* x) {
  emulator::cp_async(static_cast<char*>(emulator::shared_memory()) + 8, x, 16, 16);
}

__global__ void copy_outside(const char* x) {
  emulator::cp_async(static_cast<char*>(emulator::shared_memory()) + 128, x, 16, 0);
}

__global__ void copy_not_waited(const char* x) {
  emulator::cp_async(emulator::shared_memory(), x, 16, 16);
  emulator::cp_async_commit();
}

__global__ void misaligned_ldmatrix() {
  uint32_t r[1];
  emulator::ldmatrix<1, false>(r, static_cast<char*>(emulator::shared_memory()) + 4);
}

__global__ void incomplete_mma() {
  float d[4] = {};
  emulator::mma_m16n8k16_f16(d, {0, 0, 0, 0}, {0, 0});
}

__global__ void unrounded_tf32() {
  float d[4] = {};
  emulator::mma_m16n8k8_tf32(d, {0, 0, 1, 0}, {0, 0});
}

[[gnu::noinline]] int recurse(int depth) {
  volatile char frame[1024];
  frame[depth % 1024] = 1;
  return depth == 0 ? frame[0] : recurse(depth - 1) + frame[1];
}
__global__ void stack_overflow(int* out) { *out = recurse(1 << 20); }

}  // namespace test_kernels

using namespace test_kernels;

FOR_CTYPES run_fault(int number) {
  alignas(16) static char x[32];
  static int out;
  switch (number) {
    case 0:
      return launch(deadlock, {1, 2}, 64, 0);
    case 1:
      return launch(exited_lane, 1, 32, 0);
    case 2:
      return launch(lane_exits_late, 1, 32, 0);
    case 3:
      return launch(different_collectives, 1, 32, 0);
    case 4:
      return launch(different_barriers, 1, 32, 0);
    case 5:
      return launch(mask_without_itself, 1, 32, 0);
    case 6:
      return launch(livelock, 1, 32, 16);
    case 7:
      return launch(misaligned_copy, 1, 1, 128, static_cast<const char*>(x));
    case 8:
      return launch(copy_outside, 1, 1, 128, static_cast<const char*>(x));
    case 9:
      return launch(copy_not_waited, 1, 1, 128, static_cast<const char*>(x));
    case 10:
      return launch(misaligned_ldmatrix, 1, 32, 1024);
    case 11:
      return launch(incomplete_mma, 1, 16, 0);
    case 12:
      return launch(unrounded_tf32, 1, 32, 0);
    default:
      return launch(stack_overflow, 1, 1, 0, &out);
  }
}
