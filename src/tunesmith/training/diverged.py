"""A loss or gradient that is not a finite number: the run stops before it learns from it, and keeps the rows that it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tunesmith import durable
from tunesmith.errors import TunesmithError

FILE = "diverged.jsonl"
NAMED = 8  # rows in the sentence


class Diverged(TunesmithError):
    """Nothing was learned from that step.

    Attributes:
        step: its number, from 1.
        rows: numbers of the rows of the passes it is about, from 0, by task (empty: the only one).
    """

    def __init__(self, message: str, step: int, rows: Mapping[str, list[int]]) -> None:
        super().__init__(message)
        self.step, self.rows = step, {task: sorted(set(numbers)) for task, numbers in rows.items()}


class Run(Protocol):
    """What is needed of a fit (`session.Session`)."""

    @property
    def folder(self) -> Path:
        """Of the run."""

    @property
    def parts(self) -> Mapping[str, Any]:
        """Its tasks, with their rows."""


def with_rows(error: Diverged, run: Run) -> Diverged:
    """The same error that names its rows, which are written to the run's folder."""
    lines: list[str] = []
    places: list[str] = []
    for name, numbers in error.rows.items():
        part = run.parts.get(name) if name else next(iter(run.parts.values()))
        if part is None:  # what a strategy adds is of no part of this stage
            continue
        rows = part.roles.train
        for number in numbers:
            if number < len(rows):
                place = rows.where(number)
                row = {"step": error.step, "task": name, "at": place, "row": dict(rows.table[number])}
                places.append(place)
                lines.append(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    if not lines:
        return error
    durable.write(run.folder / FILE, "".join(lines))
    named = "; ".join(places[:NAMED]) + (f" and {len(places) - NAMED} more" if len(places) > NAMED else "")
    return Diverged(f"{error} The rows of that pass are in {run.folder / FILE}: {named}.", error.step, error.rows)
