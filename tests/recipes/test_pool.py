"""csrc/README.md, "Adding a pool": a toy pool that sums, added by the recipe for the CPU and the
reference, is exact, and so are its derivatives; a place that is left out is named."""

import re

import pytest
from copied_tree import Insertion, build_copy

KERNEL = """
// y = sum over the window of x; dx[h,w] = sum over the windows that hold (h,w) of dy.
#include "cpu/runtime/kernels.h"
#include "cpu/vectors/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

static bool holds(const CpuPoolAxis& axis, int64_t window, int64_t position) {
  const int64_t offset = position - axis.windows[window].begin;
  return offset >= 0 && offset % axis.dilation == 0 &&
         offset / axis.dilation < axis.windows[window].count;
}

// out[i,j] = sum of in[k,l]: fwd over the positions of window (i,j), bwd over the windows at (i,j).
template <typename T>
static void sum(const CpuPoolArgs& a, bool bwd) {
  const TensorView &in = bwd ? a.y : a.x, &out = bwd ? a.x : a.y;
  const int64_t rows = bwd ? a.h.x_size : a.h.y_size, columns = bwd ? a.w.x_size : a.w.y_size;
  const int64_t in_rows = bwd ? a.h.y_size : a.h.x_size, in_columns = bwd ? a.w.y_size : a.w.x_size;
  parallel_for(a.N * a.C, a.num_threads, [&](int64_t plane) {
    const int64_t n = plane / a.C, c = plane % a.C;
    for (int64_t at = 0; at < rows * columns; ++at) {
      const int64_t i = at / columns, j = at % columns;
      accumulator_t<T> total = 0;
      for (int64_t from = 0; from < in_rows * in_columns; ++from) {
        const int64_t k = from / in_columns, l = from % in_columns;
        const bool held = bwd ? holds(a.h, k, i) && holds(a.w, l, j)
                              : holds(a.h, i, k) && holds(a.w, j, l);
        if (held) total += to_accumulator(*in.at<T>(n, c, k, l));
      }
      *out.at<T>(n, c, i, j) = from_accumulator<T>(total);
    }
  });
}

void pool2d_sum_fwd(const CpuPoolArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { sum<decltype(tag)>(args, false); });
}
void pool2d_sum_bwd(const CpuPoolArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) { sum<decltype(tag)>(args, true); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
"""
REFERENCE = """
      case PoolOp::sum_fwd: {
        double sum = 0;
        for_window(rows, columns,
                   [&](int64_t h, int64_t w) { sum += load<T>(args.x, n, c, h, w); });
        return store<T>(args.y, n, c, p, q, sum);
      }
      case PoolOp::sum_bwd: {
        const double share = load<T>(args.y, n, c, p, q);
        return for_window(rows, columns, [&](int64_t h, int64_t w) { dx[h * o.W + w] += share; });
      }
"""
PLAN = """
    case PoolOp::sum_fwd:
    case PoolOp::sum_bwd:
      throw std::invalid_argument("sums have no CUDA kernel");
"""
BINDING = """
  m.def(
      "pool2d_sum",
      [](PoolAlgorithm algorithm, PoolOp op, const Problem& problem, DType dtype, Address x,
         const StrideTuple& x_strides, Address y, const StrideTuple& y_strides, int num_threads) {
        run(algorithm, op, problem,
            cpu_pool_args(dtype, view(x, x_strides), view(y, y_strides), num_threads), false);
      },
      release_gil());
"""
BACKENDS = """
    def sum_pool2d_fwd(self, x, windows):
        problem = pool_problem(x.shape, windows)
        y = empty(problem.out_size(), x, suggests_channels_last(x))
        if y.numel() > 0:
            self._sum(core.PoolOp.sum_fwd, problem, readable(x), y)
        return y

    def sum_pool2d_bwd(self, dy, x_size, channels_last, windows):
        problem = pool_problem(x_size, windows)
        check_operand("dy", dy, problem.out_size(), dy)
        dx = empty(x_size, dy, channels_last)
        if dx.numel() == 0 or dy.numel() == 0:
            return dx.zero_()
        self._sum(core.PoolOp.sum_bwd, problem, dx, readable(dy))
        return dx
"""
CPU_BACKEND = """
    def _sum(self, op, problem, x, y):
        core.pool2d_sum(
            self._pool_algorithm,
            op,
            problem,
            DTYPES[x.dtype],
            *location(x),
            *location(y),
            torch.get_num_threads(),
        )
"""
OPS = """

def _run_sum_fwd(x: Tensor, windows: Pool2dWindows, backend: str) -> Tensor:
    return BACKENDS[backend].sum_pool2d_fwd(x, windows)


def _run_sum_bwd(
    dy: Tensor, x_size: tuple[int, ...], channels_last: bool, windows: Pool2dWindows, backend: str
) -> Tensor:
    return BACKENDS[backend].sum_pool2d_bwd(dy, tuple(x_size), channels_last, windows)


pool2d_sum_fwd = define_op(
    f"pool2d_sum_fwd(Tensor x, {_WINDOWS}, str backend) -> Tensor",
    _run_sum_fwd,
    lambda x, windows, backend: _fake_y(x, windows),
    Pool2dWindows,
)
pool2d_sum_bwd = define_op(
    f"pool2d_sum_bwd(Tensor dy, SymInt[] x_size, bool channels_last, {_WINDOWS}, str backend)"
    " -> Tensor",
    _run_sum_bwd,
    lambda dy, x_size, channels_last, windows, backend: _fake_dx(
        "sum_pool2d", dy, x_size, channels_last, windows
    ),
    Pool2dWindows,
)
"""
AUTOGRAD = """

def _sum_fwd_setup(ctx, inputs, output):
    x, ctx.windows, ctx.backend = inputs
    ctx.x_size, ctx.channels_last = x.shape, suggests_channels_last(x)
    save(ctx)


def _sum_fwd_backward(ctx, dy):
    dx = None
    if dy is not None:
        dx = sum_bwd(dy, ctx.x_size, ctx.channels_last, ctx.windows, ctx.backend)
    return dx, None, None


def _sum_fwd_jvp(ctx, x_t, *_):
    return sum_fwd(x_t, ctx.windows, ctx.backend)


def _sum_fwd_vmap(info, in_dims, x, *arguments):
    y = sum_fwd(fold(x, in_dims[0], info.batch_size, 0), *arguments)
    return unfold(y, info.batch_size, 0), 0


sum_fwd = differentiable(
    ops.pool2d_sum_fwd,
    setup_context=_sum_fwd_setup,
    backward=_sum_fwd_backward,
    jvp=_sum_fwd_jvp,
    vmap=_sum_fwd_vmap,
)


def _sum_bwd_setup(ctx, inputs, output):
    _, ctx.x_size, ctx.channels_last, ctx.windows, ctx.backend = inputs
    save(ctx)


def _sum_bwd_backward(ctx, ddx):
    d_dy = None if ddx is None else sum_fwd(ddx, ctx.windows, ctx.backend)
    return d_dy, None, None, None, None


def _sum_bwd_jvp(ctx, dy_t, *_):
    return sum_bwd(dy_t, ctx.x_size, ctx.channels_last, ctx.windows, ctx.backend)


def _sum_bwd_vmap(info, in_dims, dy, x_size, *arguments):
    size = info.batch_size
    N, *image = x_size
    dx = sum_bwd(fold(dy, in_dims[0], size, 0), (N * size, *image), *arguments)
    return unfold(dx, size, 0), 0


sum_bwd = differentiable(
    ops.pool2d_sum_bwd,
    setup_context=_sum_bwd_setup,
    backward=_sum_bwd_backward,
    jvp=_sum_bwd_jvp,
    vmap=_sum_bwd_vmap,
)
"""
FUNCTIONAL = '''

def sum_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, *, backend):
    """Sum of each window."""
    from ..autograd.pool2d import sum_fwd
    from .pooling import choose, like_input

    x = checks.image(input, "sum_pool2d")
    windows = checks_pool.windows(
        "sum_pool2d", x, 2, kernel_size, stride, padding, dilation, ceil_mode
    )
    x4, chosen = choose("sum_pool2d", x, 2, windows, backend)
    return like_input(sum_fwd(x4, windows, chosen), x, 2)
'''
DECOMPOSITIONS = """
    pool2d.pool2d_sum_fwd: lambda x, windows, backend: _avg_fwd(x, windows, False, 1, backend),
    pool2d.pool2d_sum_bwd: lambda dy, x_size, channels_last, windows, backend: _avg_bwd(
        dy, x_size, channels_last, windows, False, 1, backend
    ),
"""
TESTS = '''
"""Exact sums and gradients, and derivatives of every order."""

import pytest
import torch
import torch.nn.functional as F
from pool_problems import LAYOUTS, WINDOWS

from fastconv.functional.pool2d import sum_pool2d


def expected(x, kernel, stride, padding, dilation, ceil_mode):
    if dilation == 1:
        return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, divisor_override=1)
    ones = torch.ones((x.shape[1], 1, *kernel), dtype=x.dtype)
    return F.conv2d(x, ones, None, stride, padding, dilation, groups=x.shape[1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_exact(name, layout, backend):
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        x = LAYOUTS[layout](torch.randint(-1, 2, (2, 5, 11, 13)).to(dtype)).requires_grad_()
        y = sum_pool2d(x, *WINDOWS[name], backend=backend)
        dy = torch.randint(0, 2, y.shape)
        (dx,) = torch.autograd.grad(y, x, dy.to(dtype))
        wide = x.detach().double().requires_grad_()
        y64 = expected(wide, *WINDOWS[name])
        (dx64,) = torch.autograd.grad(y64, wide, dy.double())
        assert torch.equal(y.double(), y64) and torch.equal(dx.double(), dx64)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_derivatives(backend):
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    call = lambda x: sum_pool2d(x, 3, 2, 1, 1, True, backend=backend)
    options = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(call, x, **options)
    assert torch.autograd.gradgradcheck(call, x)
'''

# Each place of the recipe, and what is said where it is left out.
PLACES = {
    Insertion(
        "csrc/problem/pool_windows.h", "  X(max)                  \\\n", "  X(sum) \\\n"
    ): "sum_fwd. is not a member",
    Insertion(
        "csrc/cpu/reference/pool2d_reference.cpp", "    switch (op) {\n", REFERENCE
    ): "enumeration value .sum_fwd. not handled in switch",
    Insertion(
        "csrc/plan/cuda_pool2d_plan.cpp", "  switch (call.op) {\n", PLAN
    ): "enumeration value .sum_fwd. not handled in switch",
    Insertion("csrc/cpu/kernels/pool2d_sum.cpp", "", KERNEL): "undefined symbol: .*pool2d_sum_fwd",
    Insertion(
        "csrc/bindings/pool2d.h",
        "  using release_gil = py::call_guard<py::gil_scoped_release>;\n",
        BINDING,
    ): "no attribute 'pool2d_sum'",
    Insertion(
        "fastconv/backends/pool2d.py", "    knows_offsets = False\n", BACKENDS
    ): "no attribute 'sum_pool2d_fwd'",
    Insertion(
        "fastconv/backends/cpu/pool2d.py",
        "            divisor,\n            torch.get_num_threads(),\n        )\n",
        CPU_BACKEND,
    ): "no attribute '_sum'",
    Insertion(
        "fastconv/ops/pool2d.py", '_AVERAGE = "bool count_include_pad, int divisor"\n', OPS
    ): "no attribute 'pool2d_sum_fwd'",
    Insertion(
        "fastconv/autograd/pool2d.py",
        "from .function import differentiable, register_rules, save\n",
        AUTOGRAD,
    ): "cannot import name 'sum_fwd'",
    Insertion(
        "fastconv/functional/pool2d.py",
        "_OutputSize: TypeAlias = int | tuple[int | None, int | None]\n",
        FUNCTIONAL,
    ): "cannot import name 'sum_pool2d'",
    Insertion(
        "fastconv/decompositions.py", "    pool2d.pool2d_avg_bwd: _avg_bwd,\n", DECOMPOSITIONS
    ): "fastconv::pool2d_sum_fwd",
}
NEW_TESTS = Insertion("tests/pool2d/test_sum_pool2d.py", "", TESTS)
CHECKS = ("tests/pool2d/test_sum_pool2d.py", "tests/drop_in/test_decompositions.py")


@pytest.fixture(scope="module")
def tree(tmp_path_factory, request):
    return build_copy(tmp_path_factory.mktemp("pool"), request)


def build_and_check(tree, places):
    tree.follow([*places, NEW_TESTS])
    status, output = tree.build()
    return (
        tree.pytest(*CHECKS, "-k", "test_sum_pool2d or every_operator")
        if status == 0
        else (status, output)
    )


def test_the_recipe_is_complete(tree):
    status, output = build_and_check(tree, PLACES)
    assert status == 0 and " passed" in output, output


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_place_left_out_is_named(tree, place):
    status, output = build_and_check(tree, [one for one in PLACES if one is not place])
    assert status != 0 and re.search(PLACES[place], output), output
