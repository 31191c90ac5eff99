"""The CUDA kernels around im2col's matrix product, as im2col.convolve takes them."""

import functools

from ..._native import cuda
from ...activations import native
from ...problem import DTYPES
from ..memory import location
from .launch import DEVICE, launch

_locate = functools.partial(location, device=DEVICE)


def im2col(problem, x, columns, channels_inner, images, rows):
    launch(cuda.im2col, x, *_arguments(problem, x, columns, channels_inner, images, rows))


def col2im(problem, dx, columns, channels_inner, images, rows, dx_rows):
    launch(
        cuda.col2im, dx, *_arguments(problem, dx, columns, channels_inner, images, rows), dx_rows
    )


def _arguments(problem, x, columns, channels_inner, images, rows):
    dtype = int(DTYPES[x.dtype])
    address = columns.data_ptr()
    return problem.sizes, dtype, *_locate(x), address, channels_inner, images, rows


def epilogue(z, bias, residual, activation):
    launch(
        cuda.epilogue_forward,
        z,
        tuple(z.shape),
        int(DTYPES[z.dtype]),
        *_locate(z),
        *_locate(z),
        0 if bias is None else bias.data_ptr(),
        *_locate(residual),
        native(activation).numbers,
    )
