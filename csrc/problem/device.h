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

// The same, but called: its code is long, and loops that are unrolled would hold it many times.
#ifdef __CUDACC__
#define FASTCONV_CALLED static __host__ __device__ __attribute__((noinline))
#else
#define FASTCONV_CALLED static inline
#endif
