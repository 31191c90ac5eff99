"""Which tests of the suite show something on a GPU. Only this file chooses, by words in the tests'
ids, so that a file may be renamed or merged with another."""

# Words in the names of files or tests that are left out: Triton, the wrappers and the self-test
# have steps of their own, the others build something or read the package's text.
LEFT_OUT = (
    *("triton", "device_wrappers", "faults", "test_accept", "test_bench", "test_build"),
    *("test_packaging", "test_processes", "test_readme", "test_selftest"),
)
# For pytest's -k, which looks at the names of files, tests and parameters.
WORDS = f"(cuda or gpu) and not ({' or '.join(LEFT_OUT)})"


def test_files(folder):
    """The files that mention CUDA at all: to import the others costs each worker seconds."""
    return [
        path
        for path in sorted(folder.rglob("test_*.py"))
        if not any(word in path.name for word in LEFT_OUT)
        and "cuda" in path.read_text(encoding="utf-8").lower()
    ]
