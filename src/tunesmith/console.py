"""The two streams a command writes: results on stdout, everything for people on stderr.

With `--json` stdout carries exactly one object, so nothing else may be printed there. `-q` silences the
people's stream, `-v` adds detail.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from tunesmith.private import hide

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_verbosity = 0  # -1 quiet, 0 normal, 1 verbose
_nested = False


def set_verbosity(level: int, *, nested: bool = False) -> None:
    """Set what people see: -1 nothing but errors, 0 the usual, 1 detail.

    Args:
        level: as above.
        nested: this process is one of many runs: progress bars, but lines only with detail.
    """
    global _verbosity, _nested
    _verbosity, _nested = level, nested


def verbosity() -> int:
    """The level that `set_verbosity` set."""
    return _verbosity


def nested() -> bool:
    """Whether this process is one of many runs."""
    return _nested


BARS = "TUNESMITH_BARS"
"""Set to `off` in the environment of processes that share a terminal with others: lines of progress in place of bars."""
PROGRESS_SECONDS = 30.0  # between two lines of progress in a log
WIDTH = 120  # columns where no terminal says how wide it is (a pipe, a log)


@lru_cache(maxsize=2)
def people(stderr: bool = True) -> Console:
    """The console that people read: stderr, or stdout for what a command was asked to show."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else WIDTH)


CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
"""What moves a terminal's cursor, clears it or sets its title; not a new line, nor a tab."""
TURNS = {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""What turns the direction of writing, so that a name reads as another."""


def visible(text: str) -> str:
    """A text whose control characters are shown instead of obeyed, without secrets."""
    return hide(text).translate({**CONTROLS, **TURNS})


def say(message: str, *, level: int = 0) -> None:
    """Print one line for people when the verbosity is at least `level`."""
    if _verbosity >= level + _nested:
        people().print(visible(message), markup=False)


def warn(message: str) -> None:
    """Print a warning for people; shown unless `-q`."""
    if _verbosity >= 0:
        people().print(f"warning: {visible(message)}", markup=False, style="yellow")


class ProgressLines:
    """Progress where no terminal shows a bar (a pipe, a log): one line now and then, none for work that is soon done."""

    def __init__(self) -> None:
        self.total: float | None = None
        self.done, self.title, self.info = 0.0, "", ""
        self.next = time.monotonic() + PROGRESS_SECONDS

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def add_task(self, description: str, total: float | None = None, **_: object) -> TaskID:
        """Begin something of so many parts."""
        self.title, self.total = description, total
        return cast("TaskID", 0)

    def advance(self, task: TaskID, advance: float = 1) -> None:
        """So many parts more are done."""
        self.update(task, completed=self.done + advance)

    def update(self, task: TaskID, *, completed: float, info: str = "") -> None:
        """So many parts are done."""
        self.done, self.info = completed, info or self.info
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + PROGRESS_SECONDS
            whole = f" of {self.total:,.0f}" if self.total else ""
            people().print(f"{self.title}: {completed:,.0f}{whole}  {self.info}".rstrip(), markup=False)


def progress(*columns: object, transient: bool = True) -> Progress | ProgressLines:
    """A progress display on the people's stream: bars on a terminal, lines in a log, nothing when quiet."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    if _verbosity >= 0 and (not sys.stderr.isatty() or os.environ.get(BARS) == "off"):
        return ProgressLines()
    chosen = columns or (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*chosen, console=people(), transient=transient, disable=_verbosity < 0)  # type: ignore[arg-type]


@contextmanager
def counted(
    title: str, total: float | None, watch: Callable[[int], None] | None = None
) -> Iterator[Callable[[int], None]]:
    """Something of so many parts under a bar of its own; whoever watches it from outside is told instead.

    Args:
        title: of the bar.
        total: parts, where they are known.
        watch: is called with the number of parts that are done, each time some are.

    Yields:
        What to call with the number of parts that are done.
    """
    if watch is not None:
        yield watch
        return
    with progress() as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)


def quiet_libraries() -> None:
    """Turn off the progress bars, notices and telemetry of the libraries underneath; ours are enough."""
    import logging
    import os

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault(
        "TOKENIZERS_PARALLELISM", "false"
    )  # a fork after tokenising would warn, and two cores gain little
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    import transformers

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
