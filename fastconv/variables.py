"""The FASTCONV_* variables of the environment. What nobody would read, and what reads as neither
yes nor no, is said when fastconv is imported: it would change nothing, without a word."""

import difflib
import os
import warnings

# "0" or "1"; an empty one is as good as none.
FLAGS = ("FASTCONV_STRICT", "FASTCONV_AUTOTUNE", "FASTCONV_SELFTEST")
KNOWN = (
    *FLAGS,
    "FASTCONV_ISA",  # checked where the instruction set is chosen, in csrc/cpu/runtime/dispatch.cpp
    "FASTCONV_CUDA_MODULE",
    "FASTCONV_CACHE_DIR",
    "FASTCONV_COMMIT",
    # Of the build and of the tests: they may stay in the environment of other programs.
    "FASTCONV_CUDA",
    "FASTCONV_CUDA_ARCHS",
    "FASTCONV_INSTRUCTION_SETS",
    "FASTCONV_EMULATOR_ASYNC",
    "FASTCONV_EMULATOR_CACHE",
    "FASTCONV_EMULATOR_SEED",
    "FASTCONV_EMULATOR_WORKERS",
)


def is_set(flag):
    """Whether one of FLAGS is "1". ValueError for what is neither "0" nor "1"."""
    return _value(flag) == "1"


def is_off(flag):
    """Whether one of FLAGS, of those that are on by default, is "0". ValueError as is_set."""
    return _value(flag) == "0"


def _value(flag):
    value = os.environ.get(flag, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{flag} must be 0 or 1, got {value!r}")
    return value


def check():
    """Raises ValueError for a flag's unknown value, and warns of names that nobody reads."""
    for flag in FLAGS:
        is_set(flag)
    for name in sorted(os.environ):
        if not name.startswith("FASTCONV_") or name in KNOWN:
            continue
        nearest = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0)[0]
        warnings.warn(
            f"{name} is no variable of fastconv's and changes nothing; did you mean {nearest}?",
            stacklevel=3,
        )
