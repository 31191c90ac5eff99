"""The compiled core, or an error that says what to do about its absence."""

from pathlib import Path

try:
    from . import _core as core
except ImportError as error:
    _here = Path(__file__).resolve().parent
    if (_here.parent / "setup.py").exists():
        _advice = (
            f"Python found fastconv's source tree in {_here.parent}, where nothing is compiled, "
            "before the installed package. Start Python in another directory, or install with "
            "`pip install -e .` to work inside the tree."
        )
    else:
        _advice = "The installation is incomplete: run `pip install --force-reinstall fastconv`."
    raise ImportError(f"fastconv._core could not be imported ({error}). {_advice}") from error

__all__ = ["core"]
