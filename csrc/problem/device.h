// What stands before a function that CUDA kernels call as well as the host.
#pragma once

#ifdef __CUDACC__
#define FASTCONV_DEVICE __host__ __device__ __forceinline__
#else
#define FASTCONV_DEVICE inline
#endif

// The same with internal linkage. Hazard: the CPU kernels are compiled for several instruction
// sets, and of functions with external linkage the linker keeps one set's copy for all. A free
// function that CPU kernels call outside of their namespace must therefore be one of these.
#define FASTCONV_LOCAL static FASTCONV_DEVICE
