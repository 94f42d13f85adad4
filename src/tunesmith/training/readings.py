"""Losses and gradient norms of steps, read from the device together.

Reading a number waits for everything that a GPU was told to do before it, and the GPU then waits to be told more. So its losses stay there
until a line is logged. A loss that is not finite must not be learned from meanwhile: a flag on the device, once raised, keeps the
optimiser from moving anything (the fused optimiser's `found_inf`), until the host looks and stops the run. On a CPU reading costs
nothing, and the run stops at once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from tunesmith.errors import TunesmithError


class Diverged(TunesmithError):
    """The loss is not a finite number; nothing was learned from that step."""


class _Part(NamedTuple):
    losses: list[torch.Tensor]
    units: float
    weight: float


class _Step(NamedTuple):
    rate: float
    parts: list[_Part]


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
        self._norm: torch.Tensor | None = None
        self._bad = torch.zeros((), device=device) if device.type == "cuda" else None

    def begin(self, rate: float) -> None:
        """A step with this learning rate."""
        self._steps.append(_Step(rate, []))

    def drop(self) -> None:
        """The step that was begun last begins again."""
        self._steps.pop()

    def check(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of a pass, before its way back; refused if it is not finite (on a GPU when it is read)."""
        if self._bad is not None:
            self._bad = torch.maximum(self._bad, 1.0 - torch.isfinite(loss).float())
        else:
            self._refuse(float(loss), self._steps[-1].rate)
        return loss

    def part(self, losses: list[torch.Tensor], units: float, weight: float) -> None:
        """The losses of the passes of one part of the step: summed over `units`, their mean weighs `weight`."""
        self._steps[-1].parts.append(_Part(losses, units, weight))

    def last(self) -> float:
        """The last part's mean, by its weight; waits for the device."""
        part = self._steps[-1].parts[-1]
        return _mean([float(loss) for loss in part.losses], part)

    def hold_back(self, optimizer: Any) -> None:
        """Let the optimiser do nothing once a loss was not finite."""
        if self._bad is not None:
            optimizer.found_inf = self._bad

    def end(self, norm: torch.Tensor) -> None:
        """The step's gradient norm before clipping."""
        self._norm = norm

    def fetch(self) -> list[float]:
        """The losses of the steps since the last time, and `norm` of the last one."""
        flat = [loss for step in self._steps for part in step.parts for loss in part.losses]
        values = iter(torch.stack([each.float() for each in flat]).tolist() if flat else [])
        found = []
        for step in self._steps:
            total = 0.0
            for part in step.parts:
                read = [next(values) for _ in part.losses]
                for value in read:
                    self._refuse(value, step.rate)
                total += _mean(read, part)
            found.append(total)
        self._steps = []
        self.norm = float(self._norm) if self._norm is not None else self.norm
        return found

    def _refuse(self, value: float, rate: float) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"the loss is {value} at a learning rate of {rate:g}; lower --learning-rate (now {self.peak:g}) or use --dtype "
                "float32, and add --overwrite."
            )


def _mean(values: list[float], part: _Part) -> float:
    mean = 0.0
    for value in values:
        mean += value / part.units
    return part.weight * mean
