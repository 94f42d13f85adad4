"""Losses and gradient norms of steps, read from the device together.

Reading a number waits for everything that a GPU was told to do before it, and the GPU then waits to be told more. So its losses stay there
until a line is logged. A loss that is not finite must not be learned from meanwhile: a flag on the device, once raised, keeps the
optimiser from moving anything (the fused optimiser's `found_inf`), until the host looks and stops the run. On a CPU reading costs
nothing, and the run stops at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from tunesmith.training.diverged import Diverged
from tunesmith.training.feed import Pass


class _Part(NamedTuple):
    losses: list[torch.Tensor]
    passes: list[Pass]
    units: float
    weight: float


class _Step(NamedTuple):
    number: int
    rate: float
    parts: list[_Part]
    norms: list[torch.Tensor]


class Readings:
    """What steps leave to be read.

    Args:
        device: where the numbers are.
        peak: the run's learning rate, for the advice when it diverges.
    """

    def __init__(self, device: torch.device, peak: float) -> None:
        self.peak = peak
        self.norm = 0.0
        self._steps: list[_Step] = []
        self._bad = torch.zeros((), device=device) if device.type == "cuda" else None

    def begin(self, number: int, rate: float) -> None:
        """A step, counted from 1, with this learning rate."""
        self._steps.append(_Step(number, rate, [], []))

    def drop(self) -> None:
        """The step that was begun last begins again."""
        self._steps.pop()

    def check(self, loss: torch.Tensor, each: Pass) -> torch.Tensor:
        """The loss of a pass, before its way back; refused if it is not finite (on a GPU when it is read)."""
        if self._bad is not None:
            self._bad = torch.maximum(self._bad, 1.0 - torch.isfinite(loss).float())
        else:
            self._refuse("loss", float(loss), self._steps[-1], [each])
        return loss

    def part(self, losses: list[torch.Tensor], passes: Sequence[Pass], units: float, weight: float) -> None:
        """The losses of the passes of one part of the step: summed over `units`, their mean weighs `weight`."""
        self._steps[-1].parts.append(
            _Part(losses, [replace(each, batch={}, states=None) for each in passes], units, weight)
        )

    def last(self) -> float:
        """The last part's mean, by its weight; waits for the device."""
        part = self._steps[-1].parts[-1]
        return _mean([float(loss) for loss in part.losses], part)

    def hold_back(self, optimizer: Any, norm: torch.Tensor) -> None:
        """Let the optimiser do nothing once a loss or gradient was not finite; refused at once where looking costs nothing.

        Args:
            optimizer: about to move.
            norm: the step's gradient norm before clipping.
        """
        step = self._steps[-1]
        if self._bad is not None:
            self._bad = torch.maximum(self._bad, 1.0 - torch.isfinite(norm).float())
            optimizer.found_inf = self._bad
        else:
            self._refuse("gradient's norm", float(norm), step, [each for part in step.parts for each in part.passes])
        step.norms.append(norm)

    def fetch(self) -> list[float]:
        """The losses of the steps since the last time, and `norm` of the last one."""
        flat = [each for step in self._steps for part in step.parts for each in part.losses]
        flat += [norm for step in self._steps for norm in step.norms]
        values = iter(torch.stack([each.float() for each in flat]).tolist() if flat else [])
        found = []
        for step in self._steps:
            total = 0.0
            for part in step.parts:
                read = [next(values) for _ in part.losses]
                for value, each in zip(read, part.passes, strict=True):
                    self._refuse("loss", value, step, [each])
                total += _mean(read, part)
            found.append(total)
        for step in self._steps:
            for norm in [next(values) for _ in step.norms]:
                self._refuse("gradient's norm", norm, step, [each for part in step.parts for each in part.passes])
                self.norm = norm
        self._steps = []
        return found

    def _refuse(self, what: str, value: float, step: _Step, passes: Sequence[Pass]) -> None:
        if math.isfinite(value):
            return
        rows: dict[str, list[int]] = {}
        for each in passes:
            rows.setdefault(each.part, []).extend(int(i) for i in each.rows)
        raise Diverged(
            f"the {what} is {value} at step {step.number}, at a learning rate of {step.rate:g}; lower --learning-rate (now {self.peak:g}) or use --dtype "
            "float32, and add --overwrite.",
            step.number,
            rows,
        )


def _mean(values: list[float], part: _Part) -> float:
    mean = 0.0
    for value in values:
        mean += value / part.units
    return part.weight * mean
