"""The recipe "Adding an activation" of csrc/README.md, followed for softsign in a copy of the
sources: it computes and differentiates as torch's does, and each place that is left out says so."""

import importlib.util
import re
import shlex
import subprocess

import pytest
from emulator import build as emulator
from source_copy import ROOT, SourceCopy

# (file, the text after which it stands, what is inserted), in the recipe's order.
PLACES = [
    ("csrc/problem/epilogue.h", "  X(none)                       \\\n", "  X(softsign) \\\n"),
    (
        "csrc/problem/activation.h",
        "      return hyperbolic_tangent(z);\n",
        "    case ActivationKind::softsign:\n      return z / (A(1) + (z < A(0) ? -z : z));\n",
    ),
    (
        "csrc/problem/activation.h",
        "      return z > A(-3) && z < A(3) ? dy * (A(1) / A(6)) : A(0);\n",
        "    case ActivationKind::softsign: {\n"
        "      const A n = A(1) + (z < A(0) ? -z : z);\n"
        "      return dy / (n * n);\n"
        "    }\n",
    ),
    (
        "csrc/cpu/vectors/activation_vectors.h",
        "      return map_row(z, n, [](V v) { return hardsigmoid<A>(v); });\n",
        "    case ActivationKind::softsign:\n"
        "      return map_row(z, n, [](V v) { return v / (A(1) + (v < V{} ? -v : v)); });\n",
    ),
    (
        "csrc/cpu/vectors/activation_vectors.h",
        "      return gradients([](V dy, V at) { return hardsigmoid_gradient<A>(dy, at); });\n",
        "    case ActivationKind::softsign:\n"
        "      return gradients([](V dy, V at) {\n"
        "        const V n = A(1) + (at < V{} ? -at : at);\n"
        "        return dy / (n * n);\n"
        "      });\n",
    ),
    (
        "csrc/cpu/reference/activation_reference.h",
        "      return std::tanh(z);\n",
        "    case ActivationKind::softsign:\n      return z / (1 + std::fabs(z));\n",
    ),
    (
        "csrc/cpu/reference/activation_reference.h",
        "      return z > -3 && z < 3 ? dy / 6 : 0;\n",
        "    case ActivationKind::softsign:\n      return dy * std::pow(1 + std::fabs(z), -2);\n",
    ),
    (
        "triton_kernels/epilogue.py",
        "        z = tanh(z)\n",
        '    elif ACTIVATION == "softsign":\n        z = z / (1.0 + tl.abs(z))\n',
    ),
    (
        "triton_kernels/epilogue.py",
        "        dy = tl.where((z > -3) & (z < 3), dy * (1.0 / 6.0), 0.0)\n",
        '    elif ACTIVATION == "softsign":\n        n = 1.0 + tl.abs(z)\n        dy /= n * n\n',
    ),
    (
        "fastconv/activations.py",
        "    for activation in (\n",
        "        Activation(\n"
        '            name="softsign",\n'
        "            function=F.softsign,\n"
        "            in_place=F.softsign,\n"
        "            module=nn.Softsign,\n"
        "            backward=lambda dy, z: dy / (1 + z.abs()) ** 2,\n"
        "            curvature=lambda z: -2 * z.sign() / (1 + z.abs()) ** 3,\n"
        "        ),\n",
    ),
]
CHECK = """
import torch, torch.nn.functional as F, fastconv
for backend in {backends}:
    x, w = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(4, 3, 2, 2, requires_grad=True)
    y = fastconv.conv2d(x, w, activation="softsign", backend=backend)
    expected = F.softsign(F.conv2d(x, w))
    torch.testing.assert_close(y, expected)
    for got, exact in zip(*(torch.autograd.grad(v.square().sum(), (x, w)) for v in (y, expected))):
        torch.testing.assert_close(got, exact)
x, w = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
conv = lambda x, w: fastconv.conv2d(x, w, activation="softsign")
assert torch.autograd.gradcheck(conv, (x, w), fast_mode=True, check_forward_ad=True)
assert torch.autograd.gradgradcheck(conv, (x, w), fast_mode=True)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.Softsign())
fused, report = fastconv.fuse(model, report=True)
assert [r.fused for r in report] == [("1",)], report
"""
HAS_TRITON = importlib.util.find_spec("triton") is not None


def in_copy(copy, file):
    """Python files lie in the copy's package, as they are installed."""
    if file.startswith("csrc"):
        return copy.source / file
    return copy.site / re.sub(r"^(?!fastconv/)", "fastconv/", file)


def insert(copy, place):
    file, after, text = place
    path = in_copy(copy, file)
    before, found, rest = path.read_text().partition(after)
    assert found and after not in rest, f"{after!r} stands not once in {file}"
    path.write_text(before + after + text + rest)


def compile_cuda_epilogue(copy):
    """The finished compilation, without a result, of a CUDA kernel that activates, as the emulator
    compiles it."""
    includes = [f"-I{folder}" for folder in (emulator.HERE / "include", copy.source / "csrc")]
    source = copy.source / "csrc/cuda/launch/epilogue.cu"
    command = [*shlex.split(emulator.compiler()), *emulator.FLAGS, *includes]
    return subprocess.run(
        [*command, "-fsyntax-only", "-x", "c++", source], capture_output=True, text=True
    )


def test_places_are_where_the_recipe_says():
    recipe = (ROOT / "csrc/README.md").read_text()
    recipe = recipe.partition("## Adding an activation\n")[2].partition("\n## ")[0]
    for file, after, _ in PLACES:
        assert (ROOT / file).read_text().count(after) == 1, f"{after!r} in {file}"
        assert f"`{file}`" in recipe
    named = set(re.findall(r"`([\w/]+\.(?:h|py))`", recipe))
    assert named - {file for file, _, _ in PLACES} == {"tests/conv2d/test_activation_vectors.py"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory, request):
    if not request.config.getoption("--exhaustive"):
        pytest.skip("compiles all kernels first: --exhaustive tries it")
    copy = SourceCopy(tmp_path_factory.mktemp("recipe"))
    for place in PLACES:
        insert(copy, place)
    copy.compile()
    return copy


def check(copy, *backends):
    return copy.run(CHECK.format(backends=backends), TRITON_INTERPRET="1")


def test_the_cuda_kernels_compile(copy):
    done = compile_cuda_epilogue(copy)
    assert done.returncode == 0, done.stderr


def test_it_computes_and_differentiates_as_torchs(copy):
    done = check(copy, "cpu", "reference", *(["triton"] if HAS_TRITON else []))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("left_out", range(len(PLACES)))
def test_a_place_that_is_left_out_says_so(copy, left_out):
    file, after, text = PLACES[left_out]
    path = in_copy(copy, file)
    kept = path.with_name(path.name + ".kept")
    path.rename(kept)  # with the time of its last change: what depends on it is compiled once
    try:
        path.write_text(kept.read_text().replace(after + text, after))
        if file == "csrc/problem/activation.h":
            done = compile_cuda_epilogue(copy)
        else:
            done = copy.build() if file.startswith("csrc") else check(copy, "triton")
    finally:
        kept.replace(path)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    if file == "csrc/problem/epilogue.h":
        assert re.search("softsign.* is not a member of .*ActivationKind", said), said
    elif file.startswith("csrc"):
        name = file.removeprefix("csrc/")
        assert re.search(rf"{name}:\d+:\d+: error: enumeration value .softsign", said), said
    elif file == "triton_kernels/epilogue.py":
        if not HAS_TRITON:
            pytest.skip("no Triton")
        assert "in epilogue.py lacks an activation" in said, said
    else:
        assert "activations of fastconv/activations.py" in said and "lacks ['softsign']" in said
