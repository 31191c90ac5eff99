"""fastconv.conv3d: a 2-D convolution of gathered slices where that is faster than torch's own, else
ATen. There are no kernels along three axes.

The T slices of x that the taps along the depth meet are laid side by side as channels, one such
image for each of the O slices of the result. A convolution of these N*O images by filters of C*T
channels is then the whole sum, in one call: with its epilogue, summed as any convolution is, and
differentiable by its parts.

torch computes a convolution of float32 along three axes on a CPU by oneDNN, but that of one image
without groups by loops of its own where C*D*H <= 20480 and R or S <= 3; float64 always by these
loops. torch's time divided by this file's, forward and (forward + backward), medians of calls in
turns, on 1 thread of an Intel Xeon (family 6, model 167, AVX-512) that others used too, torch 2.13:

    N x C x D x H=W -> K, T x R x S       torch      ratio           torch computes it by
    1 x   3 x 16 x 112 ->  16, 3 x 3 x 3  56 ms      3.6 (5.2)       loops
    1 x   3 x 16 x 112 ->  64, 3 x 3 x 3  87 ms      1.3 (1.7)       loops
    1 x  16 x  8 x  56 ->  16, 3 x 3 x 3  37 ms      7.0 (7.6)       loops
    1 x  32 x 16 x  32 ->  64, 3 x 3 x 3  59 ms      4.1 (3.6)       loops
    1 x  64 x  8 x  28 ->  64, 3 x 3 x 3  40 ms      3.7 (4.0)       loops
    1 x  64 x  8 x  28 ->  64, 1 x 3 x 3  7.0 ms     2.0 (2.8)       loops
    1 x  64 x  8 x  28 ->  64, 3 x 1 x 1  2.2 ms     0.9 (1.1)       loops
    1 x  64 x  8 x  28 ->  64, dilation 2 20 ms      1.9 (2.4)       loops
    1 x  64 x  8 x  28 -> 128, stride 2   3.8 ms     1.2 (1.2)       loops
    1 x 128 x  8 x  14 -> 128, 3 x 3 x 3  17 ms      1.6 (1.8)       loops
    1 x 128 x  8 x  14 -> 256, 3 x 3 x 3  25 ms      1.2 (1.5)       loops
    1 x 256 x  8 x   7 -> 256, 3 x 3 x 3  13 ms      1.1 (1.2)       loops
    1 x   3 x 16 x  32 ->  16, 3 x 3 x 3  2.4 ms     2.3 (2.9)       loops
    1 x   1 x 32 x  32 ->  16, 3 x 3 x 3  1.3 ms     1.3 (2.0)       loops
    1 x  64 x  4 x   7 ->  64, 3 x 3 x 3  0.66 ms    1.0 (1.2)       loops
    1 x   8 x  8 x  12 ->   8, 3 x 3 x 3  0.28 ms    0.8 (0.9)       loops
    1 x   3 x 16 x 112 ->  64, 3 x 7 x 7  19 ms      0.5 (1.4)       oneDNN
    1 x 256 x  8 x  14 -> 256, 3 x 3 x 3  32 ms      0.8             oneDNN
    4 x  16 x  8 x  56 ->  16, 3 x 3 x 3  10 ms      0.5             oneDNN
    4 x  64 x  8 x  28 ->  64, 3 x 3 x 3  30 ms      0.7             oneDNN
    1 x  64 x  8 x  28 ->  64, 4 groups   2.5 ms     0.6             oneDNN
    1 x  64 x  8 x  28 ->  64, depthwise  1.5 ms     0.8             oneDNN
    4 x  64 x  8 x  14 ->  64, float64    77 ms      3.5 (3.6)       loops
    1 x  64 x  8 x  14 ->  64, 4 groups, float64     4.2 (6.2)       loops
    4 x  64 x  8 x  14 ->  64, 3 x 1 x 1, float64    0.4 (0.9)       loops

On 2 threads, on the same machine while it was busier (OMP_WAIT_POLICY=passive), ten measurements of
seven such problems gave 1.1 to 4.7 forward, 1.1 to 3.9 with backward.

A sum of T convolutions, one for each tap along the depth, through the residual, was slower in most
rows and rounds after each tap.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd.conv2d import fprop
from ..dispatch import leave_to_aten, state, why_unfit
from ..problem import DTYPES, suggests_channels_last
from . import checks
from .convolve import autocast, by_aten, check_kinds, check_residual, convolve
from .tracing import traceable

_OPERATOR = "conv3d"
_aten = by_aten(F.conv3d)
# torch < 2.7 does not tell an export from torch.compile.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)

_LOOPED = 20480  # C*D*H up to which torch's loops run a float32 image
_MOST_FILTERS = 128  # above it torch's loops gain on the gathered sum
_LEAST_FLOPS = 2**25  # below it the gathering and our checks take as long as the loops


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int, int] = 1,
    padding: int | tuple[int, int, int] | str = 0,
    dilation: int | tuple[int, int, int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """3-D convolution with an optional epilogue: activation(conv + bias + residual).

    Equivalent to torch.nn.functional.conv3d followed by the additions and the activation, with the
    same dtypes, memory formats, autocast rules and derivatives of every order. Without a backend
    named, ATen runs it but for float32 and float64 on a CPU where torch has slow loops alone (one
    image of float32, any number of float64); a backend that is named runs all of it, as a 2-D
    convolution of a copy of the input, T times as large.

    Args:
        input: (N, C, D, H, W) or unbatched (C, D, H, W).
        weight: (K, C/groups, T, R, S), same dtype.
        bias: (K) or None.
        stride, dilation: positive int or (depth, vertical, horizontal), in pixels.
        padding: int or triple, in pixels on each side, or "valid" (0) or "same" (output size =
            input size; stride 1 only; an odd pixel goes to the far side).
        groups: C and K are divided into this many independent groups.
        activation: as in fastconv.conv2d.
        residual: same shape as the result, added before the activation; or None.
        backend: None for the automatic choice, or a name (see fastconv.backend); a named backend
            never falls back.

    Returns:
        (N, K, O, P, Q), or (K, O, P, Q) unbatched, with
        O = floor((D + 2*padding - dilation*(T-1) - 1) / stride) + 1 (torch.nn.Conv3d), P and Q
        alike. channels_last_3d if input or weight is and torch has a kernel for it. float16 and
        bfloat16 are summed in float32.

    Raises:
        TypeError, RuntimeError, ValueError: as torch.nn.functional.conv3d for the same arguments.
        ValueError: unknown activation or backend, or a parameter that the activation has not.
        NotImplementedError: the named backend has no kernel for this call; or none is named, ATen
            would run it, and FASTCONV_STRICT=1.
    """
    arguments = (input, weight, bias, stride, padding, dilation, groups)
    return _conv3d(*arguments, activation=activation, residual=residual, backend=backend)


@traceable(_OPERATOR, _aten)
def _conv3d(
    input, weight, bias, stride, padding, dilation, groups, *, activation, residual, backend
):
    check_kinds(_OPERATOR, input, weight, bias, residual, activation)
    x, w, b, residual = autocast(input, weight, bias, residual)
    groups = checks.integer("groups", groups, _OPERATOR)
    checks.ranks_and_dtypes(x, w, b, 3, _OPERATOR, "(K, C/groups, T, R, S)")
    geometry, extra = checks.conv_geometry(stride, padding, dilation, groups, w.shape[2:])
    checks.conv_channels(x, w, b, groups)
    if any(extra):
        x = F.pad(x, [side for pixels in reversed(extra) for side in (0, pixels)])
    checks.conv_reach(x.shape, w.shape, geometry)
    volume = geometry.out_volume(x.shape, w.shape)
    check_residual(residual, (*x.shape[:-4], w.shape[0], *volume), x, _OPERATOR)

    x5, residual5 = (t if t is None or t.dim() == 5 else t.unsqueeze(0) for t in (x, residual))
    reason = why_unfit((x, w, b, residual))
    if reason is None and backend is None and state.backend is None:
        reason = _why_torchs(x5, w, geometry, volume)
    y = None
    if reason is None:
        y = _convolve(x5, w, b, residual5, geometry, volume, activation, backend)
    else:
        leave_to_aten(_OPERATOR, x, reason, backend)
    if y is None:
        return _aten(x, w, b, *geometry, activation=activation, residual=residual)
    return y if x.dim() == 5 else y.squeeze(0)


def _why_torchs(x, w, geometry, volume):
    """Why torch's own convolution is the faster one, or None. A dtype that no kernel of ours takes
    is left to dispatch.select, which says so."""
    if x.dtype not in DTYPES:
        return None
    if x.device.type not in ("cpu", "meta"):
        return "not measured on GPUs, torch's own kernels run there"
    if _is_exporting():
        return "an export records ATen's operator"
    if x.dtype not in (torch.float32, torch.float64):
        return f"{x.dtype} is not measured, torch's own kernels run it"
    if not _has_loops_alone(x, w, geometry):
        return "oneDNN, which torch calls for this, is faster"
    K, Cg, T, R, S = w.shape
    if R * S == 1:
        return "torch's loops are as fast where R = S = 1"
    if K > _MOST_FILTERS:
        return f"torch's loops are as fast above {_MOST_FILTERS} filters"
    if 2 * x.shape[0] * K * math.prod(volume) * Cg * T * R * S < _LEAST_FLOPS:
        return "torch's loops are as fast below 34 MFLOP"
    return None


def _has_loops_alone(x, w, geometry):
    """Whether torch, on a CPU, computes a convolution by its own loops, and not by oneDNN; on one
    thread it has loops for some of 1 x 1 rows and columns more. The result then is contiguous."""
    if x.dtype == torch.float64:
        return True
    N, C, D, H, _ = x.shape
    R, S = w.shape[3:]
    small = N == 1 and C * D * H <= _LOOPED and min(R, S) <= 3
    return x.dtype == torch.float32 and geometry.groups == 1 and small


def _convolve(x, w, b, residual, geometry, volume, activation, backend):
    """The result for x with a batch, or None where ATen is to compute it."""
    N, K, (slices, *plane_size) = x.shape[0], w.shape[0], volume
    images = _gathered(x, w.shape[2], geometry, slices)
    filters = w.flatten(1, 2)
    plane = geometry.plane()
    if residual is not None:
        residual = residual.transpose(1, 2).reshape(N * slices, K, *plane_size)
    call = (tuple(images.shape), tuple(filters.shape), plane)
    found = convolve(
        _OPERATOR, fprop, images, filters, b, residual, plane, call, activation, backend
    )
    if found is None:
        return None
    y = found[0].reshape(N, slices, K, *plane_size)
    last = suggests_channels_last(x) or suggests_channels_last(w)
    if last and not (x.device.type == "cpu" and _has_loops_alone(x, w, geometry)):
        # Not contiguous(memory_format=), which torch.vmap has not.
        return y.permute(0, 1, 3, 4, 2).contiguous().permute(0, 4, 1, 2, 3)
    # Not contiguous(), which leaves the strides of axes of size 1 as they are.
    return y.transpose(1, 2).flatten().view(N, K, *volume)


def _gathered(x, T, geometry, slices):
    """x as (N*slices, C*T, H, W): for each slice of the result the T slices of x that its taps
    meet; they are the inner part of the channels' order, as in w, which keeps groups together."""
    (stride, *_), (pad, *_), (dilation, *_), _ = geometry
    N, C, _, H, W = x.shape
    if pad:
        x = F.pad(x, (0, 0, 0, 0, pad, pad))
    length = (slices - 1) * stride + 1
    # By narrow(), whose gradient is contiguous; indexing leaves out a slice that is all of x.
    taps = [x.narrow(2, t * dilation, length)[:, :, ::stride].transpose(1, 2) for t in range(T)]
    return torch.stack(taps, 3).reshape(N * slices, C * T, H, W)
