"""What Triton would compile for the package's calls: the instances of its kernels, each specialised
as Triton's JIT does it, recorded without a GPU and without memory (tensors of device "meta").

Only for a process without TRITON_INTERPRET=1.
"""

import contextlib
import csv
import importlib
import json
import pkgutil
import re
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
import triton
from problems import CONVS
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

import fastconv.backends.triton.conv2d as backend_module
from fastconv import triton_kernels
from fastconv.backends import BACKENDS
from fastconv.backends.conv2d import conv_problem
from fastconv.backends.triton import launch as triton_launch
from fastconv.bench.cases.shapes import load_layers
from fastconv.geometry import Conv2dGeometry, Pool2dWindows
from fastconv.triton_kernels.tuning import configs_for

ROOT = Path(__file__).resolve().parents[2]
SM_COUNT = 132
DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "tf32x3": torch.float32,
    "float64": torch.float64,
}
# Names of options of a launch that the machine code depends on.
_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")
MOST_CONFIGS = 6  # of a kernel file
# Which of conv_calls() are also recorded with each configuration of their kernels.
_FORCED_CONVS = 0, 1, 2, 3, 4, 20, 24, 26, 61
_MOST_GROUPS = 32
_MANY_ELEMENTS = (700, 64, 224, 224)  # more than 2**31


@dataclass
class Instance:
    """A kernel as Triton compiles it: the types of its arguments, which are constants, and which
    are multiples of 16."""

    kernel: JITFunction
    signature: dict
    constants: dict
    attributes: dict
    options: dict
    seen: str  # the first call that needed it
    aligned: bool = False  # whether one of its calls had channels_last tensors of 16s of channels

    @property
    def name(self):
        return self.kernel.__name__

    @property
    def words(self):
        """{name: value} of its constexpr parameters."""
        parameters = self.kernel.params
        return {
            parameters[path[0]].name: getattr(value, "value", value)
            for path, value in self.constants.items()
            if parameters[path[0]].is_constexpr
        }

    @property
    def dtype(self):
        """The element type of its first tensor that is not one of integers."""
        types = [t[1:] for t in self.signature.values() if isinstance(t, str) and t.startswith("*")]
        return next((t for t in types if not re.match("[iu]", t)), types[0])


@dataclass
class Scenario:
    """The calls that are being recorded, in words, and the instances that they needed."""

    words: str = ""
    aligned: bool = False
    instances: list = field(default_factory=list)


class _Device:
    """The part of a Triton driver that JITFunction calls before it compiles."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class _Noted:
    """Takes the place of a compiled kernel in JITFunction's cache."""

    function = packed_metadata = None

    def __init__(self, instance, scenario):
        self.instance, self.scenario = instance, scenario

    def launch_metadata(self, *_):
        pass

    def run(self, *_):
        self.instance.aligned |= self.scenario.aligned


@contextlib.contextmanager
def recording(scenario):
    """Kernels that are launched here are noted down in the scenario's instances, not compiled."""

    def note(*, key, fn, compile, **_):
        kernel, options = fn.jit_function, json.loads(compile["specialization_data"])["options"]
        instance = Instance(
            kernel,
            compile["signature"],
            compile["constants"],
            compile["configs"][0],
            {name: options[name] for name in _OPTIONS},
            scenario.words,
            scenario.aligned,
        )
        scenario.instances.append(instance)
        kernel.device_caches[0][0][key] = _Noted(instance, scenario)
        return True  # there is nothing to compile

    driver.set_active(_Device())
    for kernel in all_kernels():
        kernel.device_caches.clear()
    triton_launch.sm_count.cache_clear()
    with (
        mock.patch.object(triton.knobs.runtime, "jit_cache_hook", note),
        mock.patch.object(torch.cuda, "device", lambda device: contextlib.nullcontext()),
        mock.patch.object(triton_launch, "_INTERPRETED_SM_COUNT", SM_COUNT),
    ):
        yield


def kernel_modules():
    """All modules of fastconv.triton_kernels."""
    found = pkgutil.walk_packages(triton_kernels.__path__, f"{triton_kernels.__name__}.")
    return [importlib.import_module(module.name) for module in found]


def all_kernels():
    """The kernels of triton_kernels: functions of @triton.jit that no other one calls."""
    functions = {
        function
        for module in kernel_modules()
        for function in vars(module).values()
        if isinstance(function, JITFunction)
    }
    text = "".join(function.src for function in functions)
    return [f for f in functions if len(re.findall(rf"\b{f.__name__}\(", text)) == 1]


@contextlib.contextmanager
def forced_config(turn, dtype):
    """Makes every kernel file that has configurations choose number `turn` (modulo their count) of
    those for the dtype."""
    with contextlib.ExitStack() as stack:
        for kernel in kernel_modules():
            if hasattr(kernel, "table_config"):
                configs = configs_for(kernel.__name__.rsplit(".")[-1], dtype)
                config = configs[turn % len(configs)]
                patch = mock.patch.object(kernel, "table_config", lambda *_, c=config: c)
                stack.enter_context(patch)
        _forget_plans()
        yield
    _forget_plans()


def _forget_plans():
    for backend in backend_module.TRITON_BACKENDS.values():
        backend._plan.cache_clear()


def _meta(size, dtype, channels_last=False):
    layout = torch.channels_last if channels_last and len(size) == 4 else torch.contiguous_format
    return torch.empty(size, dtype=dtype, device="meta", memory_format=layout)


def conv_calls():
    """(x size, w size, Conv2dGeometry) of the layers that are timed, and of the problems that are
    tested."""
    calls = {layer.layer: layer.call() for layer in load_layers()}
    for problem in CONVS:
        calls[str(problem)] = problem.x_size, problem.w_size, problem.geometry
    dense = Conv2dGeometry((1, 1), (1, 1), (1, 1), 1)
    calls["many elements"] = _MANY_ELEMENTS, (64, 64, 3, 3), dense
    depthwise = dense._replace(groups=64)
    calls["many elements, depthwise"] = _MANY_ELEMENTS, (64, 1, 3, 3), depthwise
    return list(calls.values())


def pool_calls():
    """(x size, Pool2dWindows) of the pools that are timed, and of those that are tested."""
    calls = {}
    with open(ROOT / "bench" / "cases" / "pools.csv", newline="") as file:
        for row in csv.DictReader(file):
            size = tuple(int(row[name]) for name in "NCHW")
            r, u, p = ((int(row[name]),) * 2 for name in ("R", "stride", "pad"))
            calls[row["model"], row["name"]] = size, Pool2dWindows(r, u, p, (1, 1), False, ())
    square = (2, 2)
    calls["ceil"] = (2, 5, 9, 7), Pool2dWindows((3, 2), square, (1, 0), (1, 1), True, ())
    calls["dilated"] = (2, 5, 19, 17), Pool2dWindows((3, 3), square, (1, 1), (2, 3), False, ())
    calls["many elements"] = (
        _MANY_ELEMENTS,
        Pool2dWindows(square, square, (0, 0), (1, 1), False, ()),
    )
    calls["global"] = (32, 512, 7, 7), Pool2dWindows((), (), (), (), False, (1, 1))
    calls["adaptive"] = (2, 13, 11, 17), Pool2dWindows((), (), (), (), False, (3, 5))
    return list(calls.values())


def _run_conv(backend, call, dtype, channels_last, activations=("relu",)):
    """All passes of a convolution, and with each activation the epilogues and their backward."""
    x_size, w_size, geometry = call
    x, w = (_meta(size, dtype, channels_last) for size in (x_size, w_size))
    y = _meta(conv_problem(x_size, w_size, geometry).out_size(), dtype, channels_last)
    b = _meta(w_size[:1], dtype)
    backend.conv2d_fprop(x, w, None, None, geometry, "none")
    backend.conv2d_dgrad(y, w, x_size, channels_last, geometry)
    backend.conv2d_wgrad(y, x, w_size, channels_last, geometry)
    backend.bias_grad(y)
    for activation in activations:
        backend.conv2d_fprop(x, w, b, None, geometry, activation)
        backend.conv2d_fprop(x, w, b, y, geometry, activation)
        backend.epilogue_backward(y, y, activation)
        backend.activation_forward(y, activation)


def _run_pool(backend, call, dtype, channels_last):
    x_size, windows = call
    x, y = (
        _meta((*x_size[:2], *hw), dtype, channels_last)
        for hw in (x_size[2:], windows.out_plane(x_size))
    )
    for place_dtype in (None, torch.int64, *[torch.int8] * backend.saves_offsets(windows)):
        _, places = backend.max_pool2d_fwd(x, windows, place_dtype)
        if places is not None:
            backend.max_pool2d_bwd(y, places, x_size, channels_last, windows)
    if windows.dilation in ((), (1, 1)):
        for mean in ((True, None), (False, None), (True, 3)):
            backend.avg_pool2d_fwd(x, windows, *mean)
            backend.avg_pool2d_bwd(y, x_size, channels_last, windows, *mean)


def _record_calls(scenario, math, channels_last, convs, pools):
    dtype = DTYPES[math]
    layout = "channels_last" if channels_last else "contiguous"
    for call in convs:
        x_size, w_size, geometry = call
        groups = geometry.groups
        channels = [x_size[1], w_size[0]]
        for backend in backend_module.TRITON_BACKENDS.values():
            if backend.algorithm == "im2col" and groups > _MOST_GROUPS:
                continue  # a launch for each
            if backend.supports("conv2d", call, dtype, "meta") is None:
                depthwise = groups == x_size[1] and backend.algorithm in (None, "depthwise")
                counted = channels if depthwise else [count // groups for count in channels]
                scenario.aligned = channels_last and all(count % 16 == 0 for count in counted)
                scenario.words = f"{backend.name} {math} {layout} {call}"
                _run_conv(backend, call, dtype, channels_last)
    backend = BACKENDS["triton"]
    for call in pools:
        if backend.supports("max_pool2d", call, dtype, "meta") is None:
            scenario.aligned = channels_last and call[0][1] % 16 == 0
            scenario.words = f"pools {math} {layout} {call}"
            _run_pool(backend, call, dtype, channels_last)


def record():
    """Instances that calls of all operators, dtypes and layouts need; with the table's choices, and
    some calls with every configuration."""
    scenario = Scenario()
    convs, pools = conv_calls(), pool_calls()
    with recording(scenario):
        for math, dtype in DTYPES.items():
            with mock.patch.object(backend_module, "allows_tf32", lambda m=math: m == "tf32"):
                for channels_last in (False, True):
                    _record_calls(scenario, math, channels_last, convs, pools)
                    for turn in range(MOST_CONFIGS):
                        with forced_config(turn, dtype):
                            some = [convs[i] for i in _FORCED_CONVS], pools[:1] + pools[-3:]
                            _record_calls(scenario, math, channels_last, *some)
    return scenario.instances


def _traits(instance):
    """What is varied between the instances of a kernel: {name: value}."""
    words = instance.words
    traits = {
        "dtype": instance.dtype,
        "aligned": instance.aligned,
        "schedule": (instance.options["num_warps"], instance.options["num_stages"]),
        # Elements of a tile: what takes registers.
        "elements": words.get("BLOCK_M", 1) * words.get("BLOCK_N", 1),
    }
    for name, value in words.items():
        if isinstance(value, int) and value > 1 and not name.startswith("BLOCK_"):
            # Of a size only the power of two that divides it matters, up to 16.
            value = f"multiple of {value & -value if value % 16 else 16}"
        traits[name] = str(value)
    return traits


def representatives(instances):
    """A few instances that together have every pair of a trait and a dtype that some instance has.
    Chosen one after the other: the one with most pairs that are still missing, the first of equals.
    """
    chosen = []
    for name in dict.fromkeys(instance.name for instance in instances):
        pairs = {}
        for index, instance in enumerate(instances):
            if instance.name == name:
                traits = _traits(instance)
                own = frozenset((traits["dtype"], *trait) for trait in traits.items())
                pairs.setdefault(own, index)
        missing = set().union(*pairs)
        while missing:
            best = max(pairs, key=lambda own: (len(own & missing), -pairs[own]))
            chosen.append(pairs[best])
            missing -= best
    return [instances[index] for index in sorted(chosen)]


def never_launched(instances):
    """Names of the package's kernels of which there is no instance."""
    return sorted({kernel.__name__ for kernel in all_kernels()} - {one.name for one in instances})
