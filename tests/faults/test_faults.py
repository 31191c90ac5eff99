"""Does the net hold? Seeded faults in the native code, each of which a named test must catch.

A copy of the package is compiled (baseline instruction set, little optimisation), then again with
one fault at a time, and the named test runs against it in a process of its own."""

import shlex
from dataclasses import dataclass

import pytest
from source_copy import ROOT, SourceCopy


@dataclass(frozen=True)
class Fault:
    name: str
    file: str
    right: str  # a piece of that file's text
    wrong: str  # what is put in its place
    caught_by: str  # pytest arguments

    def __str__(self):
        return self.name.replace(" ", "_")


KERNELS = "conv2d/test_conv2d_kernels.py::test_integers_exactly"
IMAGES = "conv2d/test_conv2d_cpu.py::test_images_of_many_tiles_exactly"
FAULTS = [
    Fault(
        "halo off by one",
        "cpu/kernels/conv2d_direct.cpp",
        "h < 0 || h >= o.H",
        "h <= 0 || h >= o.H",
        f"{KERNELS} -k 'cpu and direct'",
    ),
    Fault(
        "range off by one",
        "cpu/vectors/rows.h",
        "div_up(source_size - offset, stride)",
        "div_down(source_size - offset, stride)",
        f"{KERNELS} -k 'cpu and direct'",
    ),
    Fault(
        "stale workspace",
        "cpu/staging/stage.h",
        "zero_row(to, inside.begin * pitch);",
        "",
        f"{KERNELS} -k 'cpu and implicit_gemm'",
    ),
    Fault(
        "tail of a sum",
        "cpu/kernels/conv2d_implicit_gemm.cpp",
        "min64(gemm_k, k + kSumLength)",
        "k + kSumLength",
        f"{KERNELS} -k 'cpu and implicit_gemm'",
    ),
    Fault(
        "a phase by another's filters",
        "cpu/kernels/conv2d_implicit_gemm.cpp",
        "product.phases[task / panels_here % phases]",
        "product.phases[0]",
        f"{KERNELS} -k 'cpu and implicit_gemm'",
    ),
    Fault(
        "stride forgotten",
        "cpu/staging/planes.h",
        "apart_ ? i : i * axis.tap_offset % axis.source_step",
        "apart_ ? i : 0",
        f"{KERNELS} -k 'cpu and planes'",
    ),
    Fault(
        "columns between rows are not masked",
        "cpu/kernels/conv2d_wgrad_planes.cpp",
        "row < planes.h.positions && column < planes.w.positions",
        "true",
        "conv2d/test_conv2d_kernels.py -k 'an_infinity_reaches_only and cpu and planes'",
    ),
    Fault(
        "lanes of another panel",
        "cpu/kernels/conv2d_depthwise.cpp",
        "sums + lane * taps + tap * kLanes<A>",
        "sums + tap * kLanes<A>",
        f"{KERNELS} -k 'cpu and depthwise'",
    ),
    Fault(
        "a tap beyond the row",
        "cpu/kernels/depthwise_rows.h",
        "inside[j].end - v))",
        "inside[j].end + 1 - v))",
        f"{KERNELS} -k 'cpu and depthwise'",
    ),
    Fault(
        "a phase reads another's taps",
        "cpu/kernels/plane_product.h",
        "h.first_tap + i * h.tap_step",
        "i * h.tap_step",
        f"{KERNELS} -k 'cpu and planes'",
    ),
    Fault(
        "a tap row too many",
        "cpu/kernels/depthwise_rows.h",
        "i < taps.rows",
        "i <= taps.rows",
        f"{KERNELS} -k 'cpu and depthwise'",
    ),
    Fault(
        "falling taps packed as rising ones",
        "cpu/kernels/depthwise_product.h",
        "out + (taps - 1) * step, -step",
        "out, step",
        f"{KERNELS} -k 'cpu and depthwise'",
    ),
    Fault(
        "a strided pixel of another place in its vector",
        "cpu/staging/stage.h",
        "block[row + t * run.step - first]",
        "block[(row + t * run.step) % kLanes<A>]",
        f"{KERNELS} -k 'cpu and implicit_gemm'",
    ),
    Fault(
        "a last block that starts in the wrong row",
        "cpu/staging/stage.h",
        "(i - begin) / W * s.row_elements()",
        "i / W * s.row_elements()",
        f"{IMAGES} -k depthwise",
    ),
    Fault(
        "tasks between two threads' ranges",
        "cpu/runtime/parallel.cpp",
        "(i < longer ? 1 : 0)",
        "0",
        "drop_in/test_threads.py",
    ),
    Fault(
        "halves of a short row",
        "cpu/vectors/vectors.h",
        "static_cast<int>(count) - kHalf + l",
        "kHalf + l",
        f"{KERNELS} -k 'cpu and planes'",
    ),
    Fault(
        "the end of a row is not activated",
        "cpu/vectors/activation_vectors.h",
        "end = n - kLanes<A>;",
        "end = n / kLanes<A> * kLanes<A> - kLanes<A>;",
        "conv2d/test_activation_vectors.py::test_the_same_bits_wherever_in_a_row -k silu",
    ),
    Fault(
        "a short ln 2",
        "cpu/vectors/exp_vectors.h",
        " - k * kLn2Low;",
        ";",
        "conv2d/test_activation_vectors.py::test_against_more_digits -k silu",
    ),
    Fault(
        "an exp that overflows before its quotient",
        "cpu/vectors/exp_vectors.h",
        "shifted < most ? shifted : most",
        "shifted",
        "conv2d/test_activation_vectors.py::test_against_more_digits -k silu",
    ),
    Fault(
        "dropped slice",
        "cpu/kernels/conv2d_wgrad_implicit_gemm.cpp",
        "slice < grid.slices; ++slice)",
        "slice < max64(1, grid.slices - 1); ++slice)",
        f"{KERNELS} -k 'cpu and implicit_gemm'",
    ),
    Fault(
        "taps in the wrong order",
        "problem/gather_axis.h",
        "axis.source_first += (axis.taps - 1) * axis.tap_offset;",
        "",
        f"{KERNELS} -k 'cpu and implicit_gemm'",
    ),
    Fault(
        "sums shared by tasks",
        "cpu/kernels/conv2d_wgrad_implicit_gemm.cpp",
        "task % grid.slices, c + task * elements);",
        "task % grid.slices, c + task / 2 * elements);",
        f"{KERNELS} -k 'cpu and implicit_gemm'",
    ),
    Fault(
        "one bias for all",
        "cpu/staging/epilogue.h",
        "sums[m][v] += load_vector(bias + at)",
        "sums[m][v] += load_vector(bias)",
        "conv2d/test_conv2d_autograd.py::test_epilogue_values_and_gradients -k nhwc",
    ),
    Fault(
        "pixels between strides taken for adjacent ones",
        "cpu/staging/store_tile.h",
        "if (rows * images > 1 && row_step != columns * step) return -1;",
        "",
        f"{KERNELS} -k 'cpu and implicit_gemm'",
    ),
    Fault(
        "a part of a vector stored whole",
        "cpu/staging/store_tile.h",
        "rows % kLanes<A> == 0 ? rows",
        "rows > 0 ? rows",
        f"{KERNELS} -k 'cpu and implicit_gemm'",
    ),
    Fault(
        "a residual that steps like the result",
        "cpu/staging/store_tile.h",
        "finish.residual_step = pixel_step(output, tile, residual.strides);",
        "finish.residual_step = step;",
        "conv2d/test_conv2d_autograd.py::test_a_residual_of_any_strides",
    ),
    Fault(
        "slope outside the kink",
        "cpu/vectors/activation_vectors.h",
        "(at <= zero) | (at >= six) ? zero : dy",
        "(at <= zero) | (at > six) ? zero : dy",
        "conv2d/test_conv2d_autograd.py::test_epilogue_values_and_gradients -k relu6",
    ),
    Fault(
        "truncated bfloat16",
        "cpu/vectors/isa.h",
        "(bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16",
        "bits >> 16",
        f"{KERNELS} -k 'cpu and direct'",
    ),
    Fault(
        "ceil mode keeps windows in the padding",
        "problem/pool_problem.h",
        ">= in + pad) --out",
        "> in + pad) --out",
        "test_problem.py -k pool",
    ),
    Fault(
        "NaN loses",
        "cpu/kernels/pool2d_max.cpp",
        "return (value > max) | (value != value);",
        "return value > max;",
        "pool2d/test_pool2d.py -k cpu",
    ),
    Fault(
        "the last of equals wins",
        "cpu/kernels/pool2d_max.cpp",
        "return (value > max) | (value != value);",
        "return (value >= max) | (value != value);",
        "pool2d/test_pool2d.py -k cpu",
    ),
    Fault(
        "divisor counts beyond the padding",
        "problem/pool_windows.h",
        "count_include_pad ? end - start : count",
        "count_include_pad ? axis.kernel : count",
        "pool2d/test_pool2d.py -k cpu",
    ),
    Fault(
        "axes joined that an operand does not walk through as one",
        "cpu/runtime/elementwise_args.cpp",
        "&& outer.a == inner.size * inner.a",
        "",
        "fuse/test_program.py::test_sums_products_and_concatenations_have_torchs_bits",
    ),
]


def run_tests(copy, pytest_arguments):
    path, *options = shlex.split(pytest_arguments)
    return copy.run(
        "import pytest; sys.exit(pytest.main(sys.argv[1:]))",
        *("-x", "-q", "--exhaustive", "-p", "no:cacheprovider"),
        str(ROOT / "tests" / path),
        *options,
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory, request):
    if not request.config.getoption("--exhaustive"):
        pytest.skip("compiles all kernels first: --exhaustive tries it")
    build = SourceCopy(tmp_path_factory.mktemp("faults"))
    build.compile()
    return build


def test_the_copy_without_a_fault_passes(build):
    done = run_tests(build, f"{KERNELS} -k 'cpu and implicit_gemm-n2c4h9'")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_fault_has_its_place():
    for fault in FAULTS:
        text = (ROOT / "csrc" / fault.file).read_text()
        assert fault.right in text, f"{fault.right!r} is no longer in {fault.file}"


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_caught(build, fault):
    path = build.source / "csrc" / fault.file
    text = path.read_text()
    try:
        path.write_text(text.replace(fault.right, fault.wrong))
        build.compile()
        done = run_tests(build, fault.caught_by)
        # 1: tests failed; negative: a crash, caught as well. 2, an error in collection, is not.
        assert done.returncode == 1 or done.returncode < 0, done.stdout + done.stderr
    finally:
        path.write_text(text)
