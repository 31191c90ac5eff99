"""The pooling functions of planes: arguments checked before pooling.py takes the call."""

from typing import Literal, TypeAlias, overload

import torch.nn.functional as F
from torch import Tensor

from ..dispatch import leave_to_aten
from ..prepared import CallCache, is_traced
from . import checks, checks_pool
from .pooling import MaxPooled, average, maximum
from .tracing import traceable

_Pair: TypeAlias = int | tuple[int, int]
_OutputSize: TypeAlias = int | tuple[int | None, int | None]

known_max, known_adaptive_max = CallCache(), CallCache()
known_avg, known_adaptive_avg = CallCache(), CallCache()


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: _Pair,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
    *,
    backend: str | None = None,
) -> Tensor: ...


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: _Pair,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: _Pair,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    backend: str | None = None,
) -> MaxPooled: ...


def max_pool2d(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    backend: str | None = None,
) -> MaxPooled:
    """Maximum of each window. Equivalent to torch.nn.functional.max_pool2d.

    A window's NaN wins, and of equal elements the first. Where nobody wants indices or gradients no
    index is computed.

    Args:
        input: (N, C, H, W) or unbatched (C, H, W).
        kernel_size, dilation: positive int or (vertical, horizontal), in pixels.
        stride: int or pair, in pixels; None or empty means kernel_size.
        padding: int or pair, in pixels on each side, which count as -inf; at most half of the
            dilated kernel size.
        ceil_mode: also windows that reach past the padding, if they begin before it.
        return_indices: also return the flat index h*W + w (int64) of each maximum.
        backend: None for the automatic choice, or a name (see fastconv.backend); a named backend
            never falls back.

    Returns:
        (N, C, P, Q) or (C, P, Q) in input's dtype and memory format, with
        P = floor((H + 2*padding - dilation*(kernel - 1) - 1) / stride) + 1 (torch.nn.MaxPool2d;
        ceil with ceil_mode), Q alike; or (that, indices).

    Raises:
        TypeError, RuntimeError: as torch.nn.functional.max_pool2d for the same arguments.
        ValueError: unknown backend. NotImplementedError: the named backend cannot run the call.
    """
    if not is_traced():
        y = known_max(
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, backend
        )
        if y is not None:
            return y
    arguments = (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return _max_pool2d(*arguments, backend=backend)


@traceable("max_pool2d", F.max_pool2d)
def _max_pool2d(
    input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, *, backend
):
    """max_pool2d where it was not met before."""
    x = checks.image(input, "max_pool2d")
    windows = checks_pool.windows(
        "max_pool2d", x, 2, kernel_size, stride, padding, dilation, ceil_mode
    )
    arguments = (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, backend)
    by_aten = (*windows[:4], ceil_mode)
    return maximum(
        "max_pool2d", x, 2, windows, return_indices, backend, by_aten, known_max, arguments
    )


@overload
def adaptive_max_pool2d(
    input: Tensor,
    output_size: _OutputSize,
    return_indices: Literal[False] = False,
    *,
    backend: str | None = None,
) -> Tensor: ...


@overload
def adaptive_max_pool2d(
    input: Tensor,
    output_size: _OutputSize,
    return_indices: Literal[True],
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


@overload
def adaptive_max_pool2d(
    input: Tensor,
    output_size: _OutputSize,
    return_indices: bool = False,
    *,
    backend: str | None = None,
) -> MaxPooled: ...


def adaptive_max_pool2d(
    input: Tensor,
    output_size: int | tuple[int | None, int | None],
    return_indices: bool = False,
    *,
    backend: str | None = None,
) -> MaxPooled:
    """Maximum of each of P x Q windows. Equivalent to torch.nn.functional.adaptive_max_pool2d.

    Args:
        input: (N, C, H, W) or unbatched (C, H, W).
        output_size: int or (P, Q), 0 and more than the input's size allowed; None: input's size.
        return_indices: also return the flat index h*W + w (int64) of each maximum.
        backend: as in max_pool2d.

    Returns:
        (N, C, P, Q) or (C, P, Q) in input's dtype and memory format; window p is the rows from
        floor(p*H/P) to before ceil((p+1)*H/P) (torch.nn.AdaptiveMaxPool2d), columns alike; or
        (that, indices).

    Raises:
        TypeError, RuntimeError, ValueError: as torch.nn.functional.adaptive_max_pool2d.
        ValueError: unknown backend. NotImplementedError: the named backend cannot run the call.
    """
    if not is_traced():
        y = known_adaptive_max(input, output_size, return_indices, backend)
        if y is not None:
            return y
    return _adaptive_max_pool2d(input, output_size, return_indices, backend=backend)


@traceable("adaptive_max_pool2d", F.adaptive_max_pool2d)
def _adaptive_max_pool2d(input, output_size, return_indices, *, backend):
    """adaptive_max_pool2d where it was not met before."""
    x = checks.image(input, "adaptive_max_pool2d")
    windows = checks_pool.adaptive_windows("adaptive_max_pool2d", x, 2, output_size)
    checks_pool.adaptive_input("adaptive_max_pool2d", x, 2, channels_may_be_empty=False)
    return maximum(
        "adaptive_max_pool2d",
        x,
        2,
        windows,
        return_indices,
        backend,
        (windows.output_size,),
        known_adaptive_max,
        (input, output_size, return_indices, backend),
    )


def avg_pool2d(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Mean of each window. Equivalent to torch.nn.functional.avg_pool2d.

    Args:
        input: (N, C, H, W) or unbatched (C, H, W). float16 and bfloat16 are summed in float32.
        kernel_size: positive int or (vertical, horizontal), in pixels.
        stride: int or pair, in pixels; None or empty means kernel_size.
        padding: int or pair, in pixels on each side, which count as 0; at most half of the kernel.
        ceil_mode: also windows that reach past the padding, if they begin before it.
        count_include_pad: the divisor counts the window's padding (what lies past that is never
            counted), else only its elements of the input.
        divisor_override: a divisor for all windows instead; any int but 0.
        out: a tensor that the result is written to, by ATen: kernels allocate theirs; or None.
        backend: as in max_pool2d.

    Returns:
        (N, C, P, Q) or (C, P, Q) in input's dtype and memory format, with
        P = floor((H + 2*padding - kernel) / stride) + 1 (torch.nn.AvgPool2d; ceil with ceil_mode).

    Raises:
        TypeError, RuntimeError: as torch.nn.functional.avg_pool2d for the same arguments.
        ValueError: unknown backend. NotImplementedError: the named backend cannot run the call.
    """
    if out is not None:
        leave_to_aten("avg_pool2d", input, "out= is written by ATen", backend)
        return F.avg_pool2d(  # type: ignore[call-arg]
            input,
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
            out=out,
        )
    if not is_traced():
        y = known_avg(
            input,
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
            backend,
        )
        if y is not None:
            return y
    arguments = (input, kernel_size, stride, padding, ceil_mode)
    options = (count_include_pad, divisor_override)
    return _avg_pool2d(*arguments, *options, backend=backend)


@traceable("avg_pool2d", F.avg_pool2d)
def _avg_pool2d(
    input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, *, backend
):
    """avg_pool2d where it was not met before."""
    x = checks.image(input, "avg_pool2d")
    windows = checks_pool.windows("avg_pool2d", x, 2, kernel_size, stride, padding, 1, ceil_mode)
    checks_pool.flag("count_include_pad", count_include_pad, "avg_pool2d")
    divisor = 0
    if divisor_override is not None:
        divisor = checks.integer("divisor_override", divisor_override, "avg_pool2d")
        if divisor == 0:
            raise RuntimeError("avg_pool2d(): divisor must be not zero, got divisor_override=0")
    options = (ceil_mode, count_include_pad, divisor_override)
    return average(
        "avg_pool2d",
        x,
        2,
        windows,
        count_include_pad,
        divisor,
        backend,
        (*windows[:3], *options),
        known_avg,
        (input, kernel_size, stride, padding, *options, backend),
    )


def adaptive_avg_pool2d(
    input: Tensor,
    output_size: int | tuple[int | None, int | None],
    *,
    backend: str | None = None,
) -> Tensor:
    """Mean of each of P x Q windows. Equivalent to torch.nn.functional.adaptive_avg_pool2d.

    Args:
        input: (N, C, H, W) or unbatched (C, H, W). float16 and bfloat16 are summed in float32.
        output_size: int or (P, Q), 0 and more than the input's size allowed; None: input's size.
        backend: as in max_pool2d.

    Returns:
        (N, C, P, Q) or (C, P, Q) in input's dtype and memory format, with the windows of
        adaptive_max_pool2d (torch.nn.AdaptiveAvgPool2d).

    Raises:
        TypeError, RuntimeError, ValueError: as torch.nn.functional.adaptive_avg_pool2d.
        ValueError: unknown backend. NotImplementedError: the named backend cannot run the call.
    """
    if not is_traced():
        y = known_adaptive_avg(input, output_size, backend)
        if y is not None:
            return y
    return _adaptive_avg_pool2d(input, output_size, backend=backend)


@traceable("adaptive_avg_pool2d", F.adaptive_avg_pool2d)
def _adaptive_avg_pool2d(input, output_size, *, backend):
    """adaptive_avg_pool2d where it was not met before."""
    x = checks.image(input, "adaptive_avg_pool2d")
    windows = checks_pool.adaptive_windows("adaptive_avg_pool2d", x, 2, output_size)
    planes = x.dim() in (3, 4) and x.shape[-2] > 0 and x.shape[-1] > 0
    if not planes and windows.output_size == (1, 1):
        reason = "torch's mean of the last two dimensions, where these are no planes of 3-D or 4-D"
        leave_to_aten("adaptive_avg_pool2d", x, reason, backend)
        return F.adaptive_avg_pool2d(x, 1)
    checks_pool.adaptive_input("adaptive_avg_pool2d", x, 2, channels_may_be_empty=True)
    return average(
        "adaptive_avg_pool2d",
        x,
        2,
        windows,
        True,
        0,
        backend,
        (windows.output_size,),
        known_adaptive_avg,
        (input, output_size, backend),
    )
