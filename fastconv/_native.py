"""The compiled modules: `core`, or an error that says what to do where it is missing; and `cuda`,
or None and the reason in `cuda_missing`."""

import importlib.util
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

try:
    from . import _core as core
except ImportError as error:
    _here = Path(__file__).resolve().parent
    if any((_here / f"_core{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        _advice = "It does not load: an undefined symbol is a kernel that no source has."
    elif (_here.parent / "setup.py").exists():
        _advice = (
            f"Python found fastconv's source tree in {_here.parent}, where nothing is compiled, "
            "before the installed package. Start Python in another directory, or install with "
            "`pip install -e .` to work inside the tree."
        )
    else:
        _advice = "The installation is incomplete: run `pip install --force-reinstall fastconv`."
    raise ImportError(f"fastconv._core could not be imported ({error}). {_advice}") from error


def _load_cuda():
    """(module, None) or (None, reason). FASTCONV_CUDA_MODULE is the path of another build of the
    module, such as the emulated one of tests/emulator, whose kernels run on the CPU."""
    path = os.environ.get("FASTCONV_CUDA_MODULE")
    if path:
        spec = importlib.util.spec_from_file_location("fastconv._cuda", path)
        if spec is None or not Path(path).is_file():
            raise ImportError(f"FASTCONV_CUDA_MODULE={path!r} is not a compiled Python module")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module, None
    if not list(Path(__file__).parent.glob("_cuda.*")):
        return None, core.cuda_status
    try:
        from . import _cuda
    except ImportError as error:
        return None, f"fastconv._cuda could not be imported: {error}"
    return _cuda, None


cuda, cuda_missing = _load_cuda()

__all__ = ["core", "cuda", "cuda_missing"]
