"""The output folder: at most eight files, and a log that cannot fill a disk."""

import os
import sys
from pathlib import Path

# All that a run leaves behind.
FILES = (
    "log.txt",
    "summary.txt",
    "environment.json",
    "wrappers.csv",
    "tests.csv",
    "triton.csv",
    "layers.csv",
    "pools.csv",
)
MAX_STEP_LOG = 1 << 20  # bytes that are kept of what a command prints: its beginning and its end
TAIL_LINES = 25  # of what a failed step printed, shown on the screen


class Output:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results = {}  # step: (seconds, None or what went wrong)
        self._log = open(self.folder / "log.txt", "a")

    def say(self, text):
        print(text, flush=True)
        self._log.write(text + "\n")
        self._log.flush()

    def begin(self, name, seconds):
        self._tail = ""
        self.say(f"=== {name} (at most {seconds:.0f} s)")

    def keep(self, command, raw):
        """Copies what a command printed into the log, without the middle where it is long.

        Args:
            raw: an open file.
        """
        raw.flush()
        size = os.fstat(raw.fileno()).st_size
        with open(raw.name, "rb") as file:
            head = file.read(MAX_STEP_LOG // 2 if size > MAX_STEP_LOG else size)
            text = head.decode(errors="replace")
            if size > MAX_STEP_LOG:
                file.seek(size - MAX_STEP_LOG // 2)
                text += "\n... (left out)\n" + file.read().decode(errors="replace")
        self._log.write(f"$ {' '.join(map(str, command))}\n{text}\n")
        self._log.flush()
        self._tail = "\n".join(text.splitlines()[-TAIL_LINES:])

    def end(self, name, seconds, wrong):
        self.results[name] = (seconds, wrong)
        if wrong and self._tail:
            print(self._tail, file=sys.stdout)
        self.say(f"--- {name}: {wrong or 'passed'} ({seconds:.0f} s)")

    def finish(self, text):
        (self.folder / "summary.txt").write_text(text)
        self.say(text)
        self._log.close()
