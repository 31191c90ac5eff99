"""The Triton twins of csrc/cuda/kernels: the same file stems and words, the same results.

A file holds one kernel family: its configurations, its `@triton.jit` kernels, and a launch
function, which turns tensors into a grid and arguments. Nothing here knows autograd, modules or
backends; fastconv/backends/triton is the only caller. Importing a kernel file needs triton, so that
is done at the first call and not with fastconv.

In a kernel x_n, x_c, x_h and x_w are the strides of x. A column of the source is called v, because
w is the filters; dh and dv are what a tap adds to h and v. Names in *_rows and *_columns are the
offsets of a tile's rows and columns in a tensor. _GEOMETRY names the arguments for whose values
Triton must not compile the kernel again.

With TRITON_INTERPRET=1 in the environment before fastconv is imported (torch's own modules import
triton) the kernels take CPU tensors.
"""
