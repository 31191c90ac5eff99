"""Builds fastconv's native modules through ninja. Metadata is in pyproject.toml, how it is done in
csrc/fastconv_build/.

fastconv._core is always built: problems, plans and CPU kernels. A file of csrc/cpu/kernels is
compiled once for each instruction set, into a namespace named after it (csrc/cpu/vectors/isa.h).
fastconv._cuda is built where an nvcc is found: FASTCONV_CUDA=auto|0|1,
FASTCONV_CUDA_ARCHS=80,90a,100+PTX.
"""

import os
import platform
import sys
from pathlib import Path

import setuptools

if int(setuptools.__version__.partition(".")[0]) < 77:
    raise SystemExit(
        "fastconv: building needs setuptools >= 77, which understands pyproject.toml's `license`, "
        f"and this is {setuptools.__version__}. Update it, or let pip build in isolation"
    )

CSRC = Path(__file__).parent.resolve() / "csrc"
sys.path.insert(0, str(CSRC))

from fastconv_build.native import Compilation, NativeModule, NinjaBuild  # noqa: E402
from fastconv_build.toolkit import find_toolkit  # noqa: E402

CXX_FLAGS = [
    *("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden"),
    # The kernels' inner loops are fast as fused multiply-adds.
    "-ffp-contract=fast",
    # No kernel reads errno or floating-point traps. Loops that round vectorise only if the compiler
    # knows this.
    "-fno-math-errno",
    "-fno-trapping-math",
    # Rows are short: a call of memcpy or memset costs more than the loop that it would replace.
    "-fno-tree-loop-distribute-patterns",
    *("-Wall", "-Wextra"),
    # A switch that lacks a value of its enum, or a function its result, computes wrong numbers.
    *("-Werror=switch", "-Werror=return-type"),
]
NVCC_FLAGS = [
    "-std=c++20",
    "-O3",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Werror=switch,-Werror=return-type",
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
INSTRUCTION_SETS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {"avx2": AVX2, "avx512": AVX512}
# FASTCONV_INSTRUCTION_SETS=baseline,avx2 narrows the build; baseline is always there.
if "FASTCONV_INSTRUCTION_SETS" in os.environ:
    wanted = {"baseline", *os.environ["FASTCONV_INSTRUCTION_SETS"].split(",")}
    if not wanted <= INSTRUCTION_SETS.keys():
        raise SystemExit(f"fastconv: FASTCONV_INSTRUCTION_SETS must be of {[*INSTRUCTION_SETS]}")
    INSTRUCTION_SETS = {name: INSTRUCTION_SETS[name] for name in INSTRUCTION_SETS if name in wanted}


def sources(folder, pattern):
    """The files of a folder below csrc, and of its subfolders."""
    return sorted((CSRC / folder).rglob(pattern))


def core_module(cuda_status):
    """Problems, plans, CPU kernels."""
    kernels = sources("cpu/kernels", "*.cpp")
    bindings = CSRC / "bindings" / "core_module.cpp"
    # Each flag goes to the files that read it, so that another value compiles no other file again.
    status = f'-DFASTCONV_CUDA_STATUS="{cuda_status}"'
    built = tuple(f"-DFASTCONV_HAS_{isa.upper()}" for isa in INSTRUCTION_SETS)
    compilations = [
        # Ninja starts them in this order: what takes longest comes first.
        Compilation(bindings, (status,), bindings=True),
        *(Compilation(source, bindings=True) for source in sources("bindings/prepared", "*.cpp")),
        *(
            Compilation(source, (f"-DFASTCONV_ISA={isa}", *flags), variant=isa)
            for isa, flags in INSTRUCTION_SETS.items()
            for source in kernels
        ),
        *(
            Compilation(
                source, ("-DFASTCONV_ISA=baseline", *(built if source.stem == "dispatch" else ()))
            )
            for source in sources("cpu", "*.cpp")
            if source not in kernels
        ),
        *(Compilation(source) for source in sources("plan", "*.cpp")),
    ]
    return NativeModule("fastconv._core", compilations, CXX_FLAGS)


def cuda_module(toolkit, missing):
    """CUDA kernels, and the plans' tables that their launches read."""
    module = NativeModule("fastconv._cuda", missing=missing)
    if toolkit is None:
        return module
    archs = f'-DFASTCONV_CUDA_ARCHS="{toolkit.describe_archs()}"'
    bindings = CSRC / "bindings" / "cuda_module.cpp"
    module.compilations = [
        *(Compilation(source) for source in sources("cuda/launch", "*.cu")),
        Compilation(bindings, (archs,), bindings=True),
        *(Compilation(source) for source in sources("plan", "*.cpp")),
    ]
    module.cxx_flags = [*CXX_FLAGS, *(f"-isystem{path}" for path in toolkit.include_folders)]
    module.nvcc, module.nvcc_flags = toolkit.nvcc, [*NVCC_FLAGS, *toolkit.gencode_flags()]
    # Static and hidden, so that its symbols are never taken for those of torch's own cudart.
    module.link_flags = [
        *(f"-L{path}" for path in toolkit.library_folders),
        *("-lcudart_static", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,ALL"),
    ]
    return module


toolkit, missing = find_toolkit()
modules = [cuda_module(toolkit, missing), core_module(missing or "fastconv._cuda was built")]
setuptools.setup(
    ext_modules=[module.extension() for module in modules],
    cmdclass={"build_ext": NinjaBuild},
)
