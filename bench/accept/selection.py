"""Which tests of the suite show something on a GPU. By what their ids say, so that a file may be
renamed or merged with another; this is the only place that chooses."""

# For pytest's -k, which looks at the names of files, tests and parameters. Left out are the tests
# of Triton and of the wrappers, which have steps of their own, and those that build something or
# read the package's text.
WORDS = (
    "(cuda or gpu) and not (triton or device_wrappers or faults or test_accept or test_bench "
    "or test_build or test_packaging or test_processes or test_readme)"
)


def test_files(folder):
    """The files that mention CUDA at all: to import the others costs each worker seconds."""
    files = sorted(folder.glob("test_*.py"))
    return [path for path in files if "cuda" in path.read_text(encoding="utf-8").lower()]
