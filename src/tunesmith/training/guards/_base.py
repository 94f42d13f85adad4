"""What a guard is, and the lines that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, ClassVar

Line = dict[str, Any]


class Lines:
    """The lines of a fit so far.

    Attributes:
        last: the newest.
        train: those of logged steps.
        evaluate: those of evaluations.
    """

    def __init__(self) -> None:
        self.last: Line = {}
        self.train: list[Line] = []
        self.evaluate: list[Line] = []

    def add(self, line: Line) -> None:
        """The next one (`event` train, evaluate, end or measured)."""
        self.last = line
        if line["event"] in ("train", "evaluate"):
            getattr(self, line["event"]).append(line)

    def are(self, event: str, lines: Sequence[Line], enough: int) -> bool:
        """Whether the newest is of a kind, and there are enough."""
        return self.last["event"] == event and len(lines) >= enough


class Guard:
    """Looks for one thing that goes wrong."""

    name: ClassVar[str]

    def look(self, lines: Lines) -> str | None:
        """A sentence once it is seen in the newest line, with what to do; None as long as it is not."""
        raise NotImplementedError


def spread(values: Sequence[float]) -> float:
    """Median distance to the median."""
    middle = median(values)
    return float(median(abs(each - middle) for each in values))
