"""csrc/README.md, "Adding a kernel": a toy algorithm for the CPU, added by the recipe, is run by
the tests of all algorithms; a place of the recipe that is left out is named."""

import re

import pytest
from copied_tree import Insertion, build_copy

KERNEL = """
// One output after the other; dgrad and wgrad are the direct algorithm's.
#include "cpu/runtime/kernels.h"
#include "cpu/staging/epilogue.h"
#include "cpu/vectors/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

void conv2d_direct(ConvOp op, const CpuConvArgs& args);

template <typename T>
static void fprop(const CpuConvArgs& args) {
  const ConvProblem& o = args.problem;
  for (int64_t at = 0; at < o.y_elements(); ++at) {
    const int64_t q = at % o.Q(), p = at / o.Q() % o.P(), k = at / o.Q() / o.P() % o.K;
    const int64_t n = at / o.Q() / o.P() / o.K, channels = o.channels_per_group();
    accumulator_t<T> sum = 0;
    for (int64_t t = 0; t < channels * o.R * o.S; ++t) {
      const int64_t c = t / o.S / o.R, r = t / o.S % o.R, s = t % o.S;
      const int64_t h = p * o.stride_h - o.pad_h + r * o.dilation_h;
      const int64_t w = q * o.stride_w - o.pad_w + s * o.dilation_w;
      if (h < 0 || h >= o.H || w < 0 || w >= o.W) continue;
      const int64_t source = k / o.filters_per_group() * channels + c;
      sum += to_accumulator(*args.x.at<T>(n, source, h, w)) *
             to_accumulator(*args.w.at<T>(k, c, r, s));
    }
    const Epilogue& e = args.epilogue;
    const T* const bias = e.bias == nullptr ? nullptr : static_cast<const T*>(e.bias) + k;
    const T* const residual = e.residual.data == nullptr ? nullptr : e.residual.at<T>(n, k, p, q);
    store_epilogue<T>(&sum, 1, e, bias, 0, residual, 1, args.y.at<T>(n, k, p, q), 1);
  }
}

void conv2d_toy(ConvOp op, const CpuConvArgs& args) {
  if (op != ConvOp::fprop) return conv2d_direct(op, args);
  dispatch_dtype(args.dtype, [&](auto tag) { fprop<decltype(tag)>(args); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
"""
# Each place of the recipe, and what is said where it is left out.
PLACES = {
    Insertion("csrc/cpu/kernels/conv2d_toy.cpp", "", KERNEL): "undefined symbol: .*conv2d_toy",
    Insertion(
        "csrc/plan/cpu_algorithms.h", "  X(direct)                        \\\n", "  X(toy) \\\n"
    ): "toy. is not a member of",
    Insertion(
        "csrc/plan/cpu_plan.cpp",
        "    case CpuAlgorithm::reference:\n",
        "    case CpuAlgorithm::toy:\n",
    ): "enumeration value .toy. not handled in switch",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory, request):
    return build_copy(tmp_path_factory.mktemp("algorithm"), request)


def test_the_recipe_is_complete(tree):
    tree.follow(PLACES)
    status, output = tree.build()
    assert status == 0, output
    tests = "tests/conv2d/test_conv2d_kernels.py", "-k", "cpu and toy and (exactly or strided)"
    status, output = tree.pytest(*tests)
    assert status == 0 and " passed" in output, output


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_place_left_out_is_named(tree, place):
    tree.follow(one for one in PLACES if one is not place)
    status, output = tree.build()
    if status == 0:
        status, output = tree.python("import fastconv")
    assert status != 0 and re.search(PLACES[place], output), output
