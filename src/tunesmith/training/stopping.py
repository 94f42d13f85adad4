"""Stops that a fit can be resumed from: Ctrl-C and SIGTERM, taken after the current step, and a pause at a step that was asked for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Pause:
    """Where a fit is to stop, to be judged and perhaps gone on with.

    Attributes:
        share: of its steps, and
        step: a number of them, whichever comes first; neither: it does not stop.
        reached: filled in there: step, of (all steps), seconds, primary.
    """

    share: float | None = None
    step: int | None = None
    reached: dict[str, Any] | None = None

    def due(self, step: int, total: int) -> bool:
        """Whether this is the step; a pause at the end is none."""
        places = [] if self.share is None else [max(1, round(self.share * total))]
        places += [] if self.step is None else [self.step]
        return bool(places) and min(places) <= step < total


_pause = Pause()


@contextmanager
def pausing(pause: Pause) -> Iterator[None]:
    """Fits in here pause."""
    global _pause
    before, _pause = _pause, pause
    try:
        yield
    finally:
        _pause = before


def asked_pause() -> Pause:
    """The pause that fits are to make now."""
    return _pause


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask for a stop after the current step; a second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
