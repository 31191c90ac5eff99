"""Which kernels a convolution's plan launches, with how many blocks and turns: the launchers of
csrc/cuda/launch told once more, as far as time goes."""

import re
from math import ceil, prod

import torch

from .._native import core
from ..backends.cuda.conv2d import dense_strides
from ..problem import DTYPES, ConvOp
from .kernel_speeds import TYPE_NAMES, kernel_speed
from .machines import WARP
from .schedule import Launch, copy_prediction, launch_prediction, roofline_us, sequence

_PARTIAL_BYTES = 4  # of a sum that a slice of gemm_k leaves
_STEM_WARPS, _STEM_COLUMNS = 8, 32  # of the direct one
_STEM_CHANNELS, _STEM_STEP_TAPS = 4, 4  # of the one on the tensor cores
_GROUPED_STEP_TERMS, _GROUPED_PIXEL_BYTES = 16, 80
_WGRAD_GROUPED_TAPS, _WGRAD_GROUPED_SLICES = 9, 2
_GENERIC_OUTPUTS = 128 * 8  # of a block of the depthwise kernels for any geometry, about


def plan_conv2d(op, problem, dtype, channels_last, machine, allow_tf32=False):
    """The CudaConvPlan of a pass over dense, aligned tensors on a machine that may be elsewhere."""
    strides = dense_strides(problem, channels_last)
    call = core.CudaConvCall(
        op, problem, DTYPES[dtype], allow_tf32, *strides, True, *machine.plan_arguments
    )
    return core.plan_conv2d_cuda(call)


def predict_conv2d(op, problem, dtype, channels_last, machine, allow_tf32=False):
    """(the plan, the Prediction) of a pass. LookupError where the tables of bench/results have not
    the plan's kernel."""
    plan = plan_conv2d(op, problem, dtype, channels_last, machine, allow_tf32)
    memory_bytes = problem.bytes(op, dtype.itemsize)
    on_tensor_cores = plan.algorithm == core.CudaAlgorithm.implicit_gemm
    roofline = roofline_us(
        problem.flops(op),
        memory_bytes,
        machine.peak_flops(dtype, problem.C // problem.groups > 1, allow_tf32),
        machine,
    )
    make = _LAUNCHES[plan.algorithm.name]
    launch = make(op, problem, plan, dtype, memory_bytes, machine.arch)
    steps = [launch_prediction(launch, machine)]
    if plan.packed_w and on_tensor_cores:
        w_bytes = problem.K * problem.C // problem.groups * problem.R * problem.S * dtype.itemsize
        steps.append(copy_prediction(2 * w_bytes, machine))
    if plan.packed_source:
        steps += [copy_prediction(2 * size, machine) for size in _sources(op, problem, dtype)]
    slices = plan.splits * (_PARTIAL_BYTES * _results(op, problem))
    if plan.splits > 1 or (op == ConvOp.wgrad and plan.workspace_bytes):
        steps.append(copy_prediction(slices, machine))
    return plan, sequence(steps, roofline)


def _results(op, problem):
    N, C, H, W, K, R, S, *_ = problem.sizes
    if op == ConvOp.wgrad:
        return K * (C // problem.groups) * R * S
    return prod(problem.out_size()) if op == ConvOp.fprop else N * C * H * W


def _sources(op, problem, dtype):
    """Bytes of what a pass reads beside w."""
    N, C, H, W, *_ = problem.sizes
    x, y = N * C * H * W * dtype.itemsize, prod(problem.out_size()) * dtype.itemsize
    return {ConvOp.fprop: [x], ConvOp.dgrad: [y], ConvOp.wgrad: [x, y]}[op]


def _tile(plan):
    return tuple(map(int, re.search(r"(\d+)x(\d+)", plan.tile_name).groups()))


def _phases(op, problem):
    """(pixels, terms a channel) of each phase of the output of fprop or dgrad."""
    along_h, along_w = core.gather_axes(op, problem)
    return [
        (problem.N * h.positions * w.positions, h.taps * w.taps) for h in along_h for w in along_w
    ]


def _products(op, problem, kernel, tile, plan, dtype, memory_bytes):
    """The Launch of a kernel whose blocks compute tiles of a GEMM, of whose third extent a turn
    covers what its FLOP say."""
    (tile_m, tile_n), splits = tile, plan.splits
    depth = round(kernel.loop_flop / (2 * tile_m * tile_n))
    if op == ConvOp.wgrad:
        m, n, k = problem.gemm_shape(op)
        counts = [(_tiles(m, tile_m) * _tiles(n, tile_n), ceil(_tiles(k, depth) / splits))]
    else:
        _, n, _ = problem.gemm_shape(op)
        dgrad = op == ConvOp.dgrad
        channels = (problem.K if dgrad else problem.C) // problem.groups
        counts = [
            (_tiles(m, tile_m) * _tiles(n, tile_n), ceil(_tiles(taps * channels, depth) / splits))
            for m, taps in _phases(op, problem)
        ]
    tiles = sum(count for count, _ in counts)
    stored = tile_m * tile_n * (dtype.itemsize if splits == 1 else _PARTIAL_BYTES)
    extra = splits * _PARTIAL_BYTES * _results(op, problem) if splits > 1 else 0
    return Launch(
        kernel,
        tiles * problem.groups * splits,
        sum(count * turns for count, turns in counts) / tiles,
        memory_bytes + extra,
        store_turns=stored / kernel.store_bytes if kernel.store_bytes else 0,
        other_bytes=tiles * problem.groups * splits * stored,
    )


def _tiles(size, tile):
    return -(-size // tile)


def _implicit_gemm(op, problem, plan, dtype, memory_bytes, arch):
    if plan.tile_name.startswith("stem"):
        return _stem_gemm(problem, plan, dtype, memory_bytes, arch)
    if plan.tile_name.startswith("groups"):
        return _grouped_gemm(op, problem, plan, dtype, memory_bytes, arch)
    tile = _tile(plan)
    wgrad = op == ConvOp.wgrad
    kernel = kernel_speed(
        arch,
        "conv2d_wgrad_implicit_gemm" if wgrad else "conv2d_implicit_gemm",
        plan.math.name,
        f"tile{tile[0]}x{tile[1]}",
        ("Wgrad" if wgrad else "") + ("VectorGather" if plan.vectorised else "ElementGather"),
    )
    return _products(op, problem, kernel, tile, plan, dtype, memory_bytes)


def _stem_gemm(problem, plan, dtype, memory_bytes, arch):
    """A tile of pixels counts as a block; that a block loads its filters once is left out."""
    rows, columns, filters = map(int, re.findall(r"\d+", plan.tile_name))
    kernel = kernel_speed(arch, "conv2d_fprop_stem_gemm", plan.math.name, str(filters))
    P, Q = problem.out_size()[2:]
    tiles = problem.N * _tiles(P, rows) * _tiles(Q, columns) * _tiles(problem.K, filters)
    steps = _tiles(problem.S, _STEM_STEP_TAPS)
    pixels = ((rows - 1) * problem.stride_h + (problem.R - 1) * problem.dilation_h + 1) * (
        (columns - 1) * problem.stride_w + (steps * _STEM_STEP_TAPS - 1) * problem.dilation_w + 1
    )
    stored = rows * columns * filters * dtype.itemsize
    source = pixels * problem.C * dtype.itemsize
    return Launch(
        kernel,
        tiles,
        problem.R * steps,
        memory_bytes,
        load_turns=pixels * _STEM_CHANNELS * dtype.itemsize / kernel.load_bytes,
        store_turns=stored / kernel.store_bytes,
        other_bytes=tiles * (source + stored),
        shared_memory=_stem_shared_bytes(problem, rows * columns, filters, steps, pixels),
    )


def _grouped_gemm(op, problem, plan, dtype, memory_bytes, arch):
    """A tile of pixels counts as a block; what a block does once, with filters or sums, is left
    out."""
    group, rows, columns, channels = map(int, re.findall(r"\d+", plan.tile_name))
    wgrad = op == ConvOp.wgrad
    if wgrad:
        kernel = kernel_speed(arch, "conv2d_wgrad_grouped_gemm", plan.math.name, str(group))
        turns = rows // _WGRAD_GROUPED_SLICES * _tiles(problem.R * problem.S, _WGRAD_GROUPED_TAPS)
    else:
        kernel = kernel_speed(
            arch, "conv2d_grouped_gemm", plan.math.name, str(channels), str(group)
        )
        turns = _tiles(problem.R * problem.S * group, _GROUPED_STEP_TERMS)
    N, _, H, W, *_ = problem.sizes
    P, Q = (H, W) if op == ConvOp.dgrad else problem.out_size()[2:]
    tiles = N * _tiles(P, rows) * _tiles(Q, columns) * _tiles(problem.C, channels)
    pixels = ((rows - 1) * problem.stride_h + (problem.R - 1) * problem.dilation_h + 1) * (
        (columns - 1) * problem.stride_w + (problem.S - 1) * problem.dilation_w + 1
    )
    source, stored = (count * channels * dtype.itemsize for count in (pixels, rows * columns))
    return Launch(
        kernel,
        tiles,
        turns,
        memory_bytes,
        load_turns=(source + (stored if wgrad else 0)) / kernel.load_bytes,
        store_turns=0 if wgrad else stored / kernel.store_bytes,
        other_bytes=tiles * (source + stored),
        shared_memory=pixels * _GROUPED_PIXEL_BYTES
        + rows * columns * (_GROUPED_PIXEL_BYTES if wgrad else (channels + 8) * _PARTIAL_BYTES),
    )


def _stem_shared_bytes(problem, tile_pixels, filters, steps, pixels):
    """As StemGeometry has them, but for what keeps banks apart."""
    tap_bytes = 2 * _STEM_CHANNELS
    taps = problem.R * steps * _STEM_STEP_TAPS
    staged = tile_pixels * (filters + 8) * _PARTIAL_BYTES
    return filters * taps * tap_bytes + max(pixels * tap_bytes, staged)


def _direct(op, problem, plan, dtype, memory_bytes, arch):
    if plan.tile_name.startswith("stem"):
        return _stem(problem, plan, dtype, memory_bytes, arch)
    tile = _tile(plan)
    if dtype == torch.float64 and tile[1] == 64:  # whose wide tile has half of the rows
        tile = (64, 64)
    wgrad = op == ConvOp.wgrad
    kernel = kernel_speed(
        arch,
        "conv2d_wgrad_direct" if wgrad else "conv2d_gather_direct",
        *(TYPE_NAMES[dtype], str(tile[0]), str(tile[1])),
        "true" if plan.vectorised else "false",
    )
    if wgrad:  # whose tile has (tap, channel) as its rows
        tile = tile[::-1]
    return _products(op, problem, kernel, tile, plan, dtype, memory_bytes)


def _stem(problem, plan, dtype, memory_bytes, arch):
    rows, filters = map(int, re.findall(r"\d+", plan.tile_name))
    channels = problem.C // problem.groups
    compiled = 1 if channels == 1 else 3 if channels == 3 and filters == 8 else 4
    wanted, along_filters = problem.K // problem.groups, 1
    while along_filters < _STEM_WARPS and along_filters * filters < wanted:
        along_filters *= 2
    tile_rows, tile_filters = _STEM_WARPS // along_filters * rows, along_filters * filters
    kernel = kernel_speed(
        arch, "conv2d_fprop_stem", TYPE_NAMES[dtype], str(compiled), str(rows), str(filters)
    )
    P, Q = problem.out_size()[2:]
    tiles = problem.N * _tiles(P, tile_rows) * _tiles(Q, _STEM_COLUMNS)
    tiles *= _tiles(wanted, tile_filters) * problem.groups
    flop = 2 * tile_rows * _STEM_COLUMNS * tile_filters * problem.R * problem.S * compiled
    halo = (
        compiled
        * ((tile_rows - 1) * problem.stride_h + problem.R)
        * ((_STEM_COLUMNS - 1) * problem.stride_w + problem.S)
        * dtype.itemsize
    )
    return Launch(
        kernel,
        tiles,
        flop / kernel.loop_flop,
        memory_bytes,
        load_turns=halo / kernel.load_bytes,
        other_bytes=tiles * (halo + tile_rows * _STEM_COLUMNS * tile_filters * dtype.itemsize),
    )


def _depthwise(op, problem, plan, dtype, memory_bytes, arch):
    match = re.match(
        r"(\d)x\d stride (\d), .*of (\d+) channels x (\d+) rows x (\d+) columns", plan.tile_name
    )
    if match is None:
        return _depthwise_generic(op, problem, plan, dtype, memory_bytes, arch)
    filter_, stride, channels, rows, columns = map(int, match.groups())
    vectors = "in vectors" in plan.tile_name
    N, C, H, W, *_ = problem.sizes
    gathers = op == ConvOp.dgrad and stride == 2
    kind = "wgrad" if op == ConvOp.wgrad else "dgrad" if gathers else "fprop"
    words = (TYPE_NAMES[dtype], str(filter_), *(() if gathers else (str(stride),)))
    name = f"conv2d_{kind}_depthwise" + ("_vectors" if vectors else "")
    kernel = kernel_speed(arch, name, *words)
    height, width = (H, W) if op == ConvOp.dgrad else problem.out_size()[2:]
    tiles = N * _tiles(C, channels) * _tiles(height, rows) * _tiles(width, columns)
    # A block has a thread for each strip of columns of each channel, or vector of channels.
    owned = int(kernel.arguments[-3]) if vectors else 1
    strip = int(kernel.arguments[-2])
    threads = _tiles(channels // owned * columns // strip, WARP) * WARP
    taps = filter_**2 / (stride**2 if gathers else 1)
    turns = rows * strip * owned * taps / (kernel.loop_flop / 2 / kernel.threads)
    if vectors:  # a thread takes in the first rows of its window before its first results
        turns += 1 if gathers else _tiles(filter_, stride) - 1
    step = 1 / stride if gathers else stride
    pixel = channels * dtype.itemsize
    source = pixel * (rows * step + filter_ - 1) * (columns * step + filter_ - 1)
    result = pixel * rows * columns
    moved = source + (result if op == ConvOp.wgrad else 0)
    # wgrad's blocks walk over the tiles of a slice.
    blocks = plan.splits * _tiles(width, columns) * _tiles(C, channels)
    blocks = blocks if op == ConvOp.wgrad else tiles
    each = tiles / blocks
    return Launch(
        kernel,
        blocks,
        each * turns,
        memory_bytes,
        threads=threads,
        load_turns=0 if vectors else each * moved / kernel.load_bytes * kernel.threads / threads,
        other_bytes=0 if vectors else tiles * (source + result),
        shared_memory=0 if vectors else int(moved),
    )


def _depthwise_generic(op, problem, plan, dtype, memory_bytes, arch):
    gathers = op == ConvOp.dgrad and (problem.stride_h > 1 or problem.K != problem.C)
    kind = "wgrad" if op == ConvOp.wgrad else "dgrad" if gathers else "fprop"
    kernel = kernel_speed(arch, f"conv2d_{kind}_depthwise_generic", TYPE_NAMES[dtype])
    blocks = _tiles(prod(problem.out_size()), _GENERIC_OUTPUTS)
    turns = problem.flops(op) / kernel.loop_flop
    return Launch(kernel, blocks, turns / blocks, memory_bytes)


_LAUNCHES = {"implicit_gemm": _implicit_gemm, "direct": _direct, "depthwise": _depthwise}
