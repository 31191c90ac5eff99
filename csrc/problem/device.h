// What stands before a function that CUDA kernels call as well as the host.
#pragma once

#ifdef __CUDACC__
#define FASTCONV_DEVICE __host__ __device__ __forceinline__
#else
#define FASTCONV_DEVICE inline
#endif
