"""The two streams a command writes: results on stdout, everything for people on stderr.

With `--json` stdout carries exactly one object, so nothing else may be printed there. `-q` silences the
people's stream, `-v` adds detail.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

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


WIDTH = 120  # columns where no terminal says how wide it is (a pipe, a log)


@lru_cache(maxsize=2)
def people(stderr: bool = True) -> Console:
    """The console that people read: stderr, or stdout for what a command was asked to show."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else WIDTH)


def say(message: str, *, level: int = 0) -> None:
    """Print one line for people when the verbosity is at least `level`."""
    if _verbosity >= level + _nested:
        people().print(message, markup=False)


def warn(message: str) -> None:
    """Print a warning for people; shown unless `-q`."""
    if _verbosity >= 0:
        people().print(f"warning: {message}", markup=False, style="yellow")


def progress(*columns: object, transient: bool = True) -> Progress:
    """A progress display on the people's stream, off when quiet or when stderr is not a terminal."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    chosen = columns or (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    off = _verbosity < 0 or not sys.stderr.isatty()
    return Progress(*chosen, console=people(), transient=transient, disable=off)  # type: ignore[arg-type]


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
