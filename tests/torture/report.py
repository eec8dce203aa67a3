"""What the long tests print: progress on a terminal, and the rows of a table in Markdown."""

import contextlib
import sys
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One test: its name, what was tried and how much of it, what was found, how to repeat it."""

    name: str
    tried: str
    found: str
    command: str

    def __str__(self):
        return f"| {self.name} | {self.tried} | {self.found} | `python -m torture {self.command}` |"


HEAD = "| test | what was tried | what was seen | again, in `tests` |\n|---|---|---|---|"


@contextlib.contextmanager
def bar(total, unit, what):
    """A progress bar on a terminal; elsewhere a line now and then."""
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()
    with tqdm(total=total, unit=unit, desc=what, mininterval=60 if quiet else 0.5, ascii=quiet) as shown:
        yield shown


class Clock:
    """Seconds that a process has run: while it is stopped or frozen none pass, but one."""

    def __init__(self):
        self.seconds = 0.0
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self):
        last = time.monotonic()
        while True:
            time.sleep(0.1)
            now = time.monotonic()
            self.seconds += min(now - last, 1.0)
            last = now
