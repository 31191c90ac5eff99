"""How much dynamic shared memory a kernel's launch asks for, where its type alone says so.

It stands in no cubin. A host program of nvcc's prints the size of each kernel's storage.
"""

import re
import tempfile
from pathlib import Path

import cubins

# Kernel -> its storage, of the kernel's template arguments {0}, {1}, as its launcher has it.
_STORAGE = {
    "conv2d_implicit_gemm": "ImplicitGemmStorage<{0}, {1}>",
    "conv2d_wgrad_implicit_gemm": "{1}::Storage",
    "conv2d_gather_direct": "GatherStorage<{0}>",
    "conv2d_wgrad_direct": "WgradStorage<{0}>",
}
# The storages of two headers have the same name: one program for each.
_HEADERS = {
    "gemm": ("gemm/conv2d_implicit_gemm.cuh", "gemm/conv2d_wgrad_implicit_gemm.cuh"),
    "direct": ("direct/conv2d_gather_direct.cuh", "direct/conv2d_wgrad_direct.cuh"),
}


def dynamic_shared_bytes(names):
    """{demangled name: bytes} of those names that are instances of kernels in the table above."""
    storages = {name: storage for name in names if (storage := _storage(name))}
    found = {}
    for family, headers in _HEADERS.items():
        types = {name: kind for name, (kernel, kind) in storages.items() if family in kernel}
        if types:
            found |= _sizes(headers, types)
    return found


def _storage(name):
    """(kernel, type) of a demangled name, None where the table has none."""
    match = re.match(r"void fastconv::cuda::(\w+)<(.*)>\(", name)
    if match is None or match[1] not in _STORAGE:
        return None
    arguments = _arguments(match[2])
    return (match[1], _STORAGE[match[1]].format(*arguments)) if len(arguments) == 2 else None


def _arguments(text):
    """The template arguments of a list: commas inside of brackets part none."""
    arguments, depth = [""], 0
    for letter in text:
        depth += (letter in "<(") - (letter in ">)")
        if letter == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += letter
    return [argument.strip() for argument in arguments]


def _sizes(headers, types):
    lines = [f'#include "cuda/kernels/{header}"' for header in headers]
    lines += ["#include <cstdio>", "using namespace fastconv::cuda;", "int main() {"]
    lines += [f'  std::printf("%zu\\n", sizeof({kind}));' for kind in types.values()]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "sizes.cu"), Path(folder, "sizes")
        source.write_text("\n".join([*lines, "}"]))
        nvcc = cubins.find_tool("nvcc")
        include = cubins.ROOT / "csrc"
        cubins.run(nvcc, "-std=c++20", f"-I{include}", source, "-o", program)
        return dict(zip(types, map(int, cubins.run(program).split())))
