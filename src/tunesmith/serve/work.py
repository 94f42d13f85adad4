"""What the engine has to do: texts that are written, jobs in steps, and what it says when it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from tunesmith.serve.writing import Piece, Request, Writer


class Busy(Exception):
    """The queue is full.

    Args:
        seconds: after which it is worth trying again.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s.")
        self.seconds = seconds


class Stopped(Exception):
    """The server stopped before the work was done."""


class Gone(Exception):
    """The adapter was unloaded between the question what there is and the request."""


@dataclass(eq=False)
class Ticket:
    """A request in the engine's hands."""

    request: Request
    deliver: Callable[[Piece], None]
    writer: Writer
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    token: int = -1
    cancelled: bool = False


@dataclass(eq=False)
class Job:
    """Work in steps: a generator that yields between them and returns the result."""

    steps: Generator[None, None, Any]
    future: Future[Any]
    adapter: str | None
    counted: bool
    cancelled: bool = False


@dataclass(eq=False)
class Group:
    """A batch and the tickets of its rows."""

    batch: Any = None  # a `Batch`, made with the first prompt
    tickets: list[Ticket] = field(default_factory=list)
