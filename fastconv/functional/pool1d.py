"""The pooling functions along one axis: arguments checked before pooling.py takes the call."""

from typing import Literal, TypeAlias, overload

import torch.nn.functional as F
from torch import Tensor

from ..dispatch import leave_to_aten
from ..prepared import CallCache, is_traced
from . import checks, checks_pool
from .pooling import MaxPooled, average, maximum
from .tracing import traceable

_Size: TypeAlias = int | tuple[int]
_OutputSize: TypeAlias = int | tuple[int]

known_max, known_adaptive_max = CallCache(), CallCache()
known_avg, known_adaptive_avg = CallCache(), CallCache()


@overload
def max_pool1d(
    input: Tensor,
    kernel_size: _Size,
    stride: _Size | None = None,
    padding: _Size = 0,
    dilation: _Size = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
    *,
    backend: str | None = None,
) -> Tensor: ...


@overload
def max_pool1d(
    input: Tensor,
    kernel_size: _Size,
    stride: _Size | None = None,
    padding: _Size = 0,
    dilation: _Size = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


@overload
def max_pool1d(
    input: Tensor,
    kernel_size: _Size,
    stride: _Size | None = None,
    padding: _Size = 0,
    dilation: _Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    backend: str | None = None,
) -> MaxPooled: ...


def max_pool1d(
    input: Tensor,
    kernel_size: int | tuple[int],
    stride: int | tuple[int] | None = None,
    padding: int | tuple[int] = 0,
    dilation: int | tuple[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    backend: str | None = None,
) -> MaxPooled:
    """Maximum of each window. Equivalent to torch.nn.functional.max_pool1d.

    A window's NaN wins, and of equal elements the first. Where nobody wants indices or gradients no
    index is computed.

    Args:
        input: (N, C, W) or unbatched (C, W).
        kernel_size, dilation: positive int, in pixels.
        stride: int, in pixels; None or empty means kernel_size.
        padding: int, in pixels on each side, which count as -inf; at most half of the kernel
            size.
        ceil_mode: also windows that reach past the padding, if they begin before it.
        return_indices: also return the index w (int64) of each maximum.
        backend: None for the automatic choice, or a name (see fastconv.backend); a named backend
            never falls back.

    Returns:
        (N, C, Q) or (C, Q) in input's dtype and order of axes in memory, with
        Q = floor((W + 2*padding - dilation*(kernel - 1) - 1) / stride) + 1 (torch.nn.MaxPool1d;
        ceil with ceil_mode); or (that, indices).

    Raises:
        TypeError, RuntimeError: as torch.nn.functional.max_pool1d for the same arguments.
        ValueError: unknown backend. NotImplementedError: the named backend cannot run the call.
    """
    if not is_traced():
        y = known_max(
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, backend
        )
        if y is not None:
            return y
    arguments = (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return _max_pool1d(*arguments, backend=backend)


@traceable("max_pool1d", F.max_pool1d)
def _max_pool1d(
    input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, *, backend
):
    """max_pool1d where it was not met before."""
    x = checks.image(input, "max_pool1d")
    windows = checks_pool.windows(
        "max_pool1d", x, 1, kernel_size, stride, padding, dilation, ceil_mode
    )
    arguments = (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, backend)
    by_aten = (*(pair[1:] for pair in windows[:4]), ceil_mode)
    return maximum(
        "max_pool1d", x, 1, windows, return_indices, backend, by_aten, known_max, arguments
    )


@overload
def adaptive_max_pool1d(
    input: Tensor,
    output_size: _OutputSize,
    return_indices: Literal[False] = False,
    *,
    backend: str | None = None,
) -> Tensor: ...


@overload
def adaptive_max_pool1d(
    input: Tensor,
    output_size: _OutputSize,
    return_indices: Literal[True],
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


@overload
def adaptive_max_pool1d(
    input: Tensor,
    output_size: _OutputSize,
    return_indices: bool = False,
    *,
    backend: str | None = None,
) -> MaxPooled: ...


def adaptive_max_pool1d(
    input: Tensor,
    output_size: int | tuple[int],
    return_indices: bool = False,
    *,
    backend: str | None = None,
) -> MaxPooled:
    """Maximum of each of Q windows. Equivalent to torch.nn.functional.adaptive_max_pool1d.

    Args:
        input: (N, C, W) or unbatched (C, W).
        output_size: Q, 0 and more than the input's size allowed.
        return_indices: also return the index w (int64) of each maximum.
        backend: as in max_pool1d.

    Returns:
        (N, C, Q) or (C, Q) in input's dtype and order of axes in memory; window q is from
        floor(q*W/Q) to before ceil((q+1)*W/Q) (torch.nn.AdaptiveMaxPool1d); or (that, indices).

    Raises:
        TypeError, RuntimeError: as torch.nn.functional.adaptive_max_pool1d.
        ValueError: unknown backend. NotImplementedError: the named backend cannot run the call.
    """
    if not is_traced():
        y = known_adaptive_max(input, output_size, return_indices, backend)
        if y is not None:
            return y
    return _adaptive_max_pool1d(input, output_size, return_indices, backend=backend)


@traceable("adaptive_max_pool1d", F.adaptive_max_pool1d)
def _adaptive_max_pool1d(input, output_size, return_indices, *, backend):
    """adaptive_max_pool1d where it was not met before."""
    x = checks.image(input, "adaptive_max_pool1d")
    windows = checks_pool.adaptive_windows("adaptive_max_pool1d", x, 1, output_size)
    checks_pool.adaptive_input("adaptive_max_pool1d", x, 1, channels_may_be_empty=False)
    return maximum(
        "adaptive_max_pool1d",
        x,
        1,
        windows,
        return_indices,
        backend,
        (windows.output_size[1:],),
        known_adaptive_max,
        (input, output_size, return_indices, backend),
    )


def avg_pool1d(
    input: Tensor,
    kernel_size: int | tuple[int],
    stride: int | tuple[int] | None = None,
    padding: int | tuple[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    backend: str | None = None,
) -> Tensor:
    """Mean of each window. Equivalent to torch.nn.functional.avg_pool1d.

    Args:
        input: (N, C, W) or unbatched (C, W). float16 and bfloat16 are summed in float32.
        kernel_size: positive int, in pixels.
        stride: int, in pixels; None or empty means kernel_size.
        padding: int, in pixels on each side, which count as 0; at most half of the kernel.
        ceil_mode: also windows that reach past the padding, if they begin before it.
        count_include_pad: the divisor counts the window's padding (what lies past that is never
            counted), else only its elements of the input.
        backend: as in max_pool1d.

    Returns:
        (N, C, Q) or (C, Q) in input's dtype and order of axes in memory, with
        Q = floor((W + 2*padding - kernel) / stride) + 1 (torch.nn.AvgPool1d; ceil with ceil_mode).

    Raises:
        TypeError, RuntimeError: as torch.nn.functional.avg_pool1d for the same arguments.
        ValueError: unknown backend. NotImplementedError: the named backend cannot run the call.
    """
    arguments = (input, kernel_size, stride, padding, ceil_mode, count_include_pad)
    if not is_traced():
        y = known_avg(*arguments, backend)
        if y is not None:
            return y
    return _avg_pool1d(*arguments, backend=backend)


@traceable("avg_pool1d", F.avg_pool1d)
def _avg_pool1d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, *, backend):
    """avg_pool1d where it was not met before."""
    x = checks.image(input, "avg_pool1d")
    windows = checks_pool.windows("avg_pool1d", x, 1, kernel_size, stride, padding, 1, ceil_mode)
    checks_pool.flag("count_include_pad", count_include_pad, "avg_pool1d")
    options = (ceil_mode, count_include_pad)
    by_aten = (*(pair[1:] for pair in windows[:3]), *options)
    arguments = (input, kernel_size, stride, padding, *options, backend)
    return average(
        "avg_pool1d", x, 1, windows, count_include_pad, 0, backend, by_aten, known_avg, arguments
    )


def adaptive_avg_pool1d(
    input: Tensor,
    output_size: int | tuple[int],
    *,
    backend: str | None = None,
) -> Tensor:
    """Mean of each of Q windows. Equivalent to torch.nn.functional.adaptive_avg_pool1d.

    Args:
        input: (N, C, W) or unbatched (C, W). float16 and bfloat16 are summed in float32.
        output_size: Q, 0 and more than the input's size allowed.
        backend: as in max_pool1d.

    Returns:
        (N, C, Q) or (C, Q) in input's dtype and order of axes in memory, with the windows
        of adaptive_max_pool1d (torch.nn.AdaptiveAvgPool1d).

    Raises:
        TypeError, RuntimeError: as torch.nn.functional.adaptive_avg_pool1d.
        ValueError: unknown backend. NotImplementedError: the named backend cannot run the call.
    """
    if not is_traced():
        y = known_adaptive_avg(input, output_size, backend)
        if y is not None:
            return y
    return _adaptive_avg_pool1d(input, output_size, backend=backend)


@traceable("adaptive_avg_pool1d", F.adaptive_avg_pool1d)
def _adaptive_avg_pool1d(input, output_size, *, backend):
    """adaptive_avg_pool1d where it was not met before."""
    x = checks.image(input, "adaptive_avg_pool1d")
    windows = checks_pool.adaptive_windows("adaptive_avg_pool1d", x, 1, output_size)
    if x.dim() in (2, 3) and x.shape[-1] == 0 and windows.output_size == (1, 1):
        leave_to_aten("adaptive_avg_pool1d", x, "torch's mean of no elements", backend)
        return F.adaptive_avg_pool1d(x, 1)
    checks_pool.adaptive_input("adaptive_avg_pool1d", x, 1, channels_may_be_empty=True)
    return average(
        "adaptive_avg_pool1d",
        x,
        1,
        windows,
        True,
        0,
        backend,
        (windows.output_size[1:],),
        known_adaptive_avg,
        (input, output_size, backend),
    )
