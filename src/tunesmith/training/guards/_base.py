"""What a guard is, and the lines that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, ClassVar

Line = dict[str, Any]


class Guard:
    """Looks for one thing that goes wrong."""

    name: ClassVar[str]

    def look(self, lines: Sequence[Line]) -> str | None:
        """A sentence once it is seen, with what to do; None as long as it is not.

        Args:
            lines: those of this fit so far, the newest last (`event` train, evaluate, or end).
        """
        raise NotImplementedError


def newest(lines: Sequence[Line], event: str, more: int = 1) -> list[Line]:
    """All lines of a kind if the newest is one of them and there are enough, else none."""
    if not lines or lines[-1]["event"] != event:
        return []
    found = [line for line in lines if line["event"] == event]
    return found if len(found) >= more else []


def ended(lines: Sequence[Line], more: int = 1) -> list[Line]:
    """All training lines once the fit has ended, if there are enough."""
    if not lines or lines[-1]["event"] != "end":
        return []
    found = [line for line in lines if line["event"] == "train"]
    return found if len(found) >= more else []


def spread(values: Sequence[float]) -> float:
    """Median distance to the median."""
    middle = median(values)
    return float(median(abs(each - middle) for each in values))
