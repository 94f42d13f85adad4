"""How much memory a run will take at its peak, part by part.

What is there already is read off the process: libraries, rows and weights stand in memory when the plan is made. What will come is counted:

    gradients    4 bytes a number that learns (and 2 more in half precision, where the backward pass leaves its own)
    optimizer    8 bytes: two moments in fp32
    activations  what tensors hold at the peak of passes with few of the longest rows, both ways (`alive`), scaled to the largest pass
                 and what allocator and kernels were seen to take beyond tensors while passes were timed, in proportion
    head         the share of the first that is as wide as the vocabulary
    cache        stored features of frozen parts, which are read through a memory map
    evaluation   what measuring the artifact takes beyond all that: it is opened anew in fp32 when training has given back what it held, and its
                 passes hold what those of the untouched model held (`untouched.Score`)

A run's peak is the highest of three moments: what preparing has taken (read off), a training step, measuring what was kept. On a GPU only what is
allocated counts; on a CPU everything that is resident does, and a C library that hands small blocks back late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.plan.alive import peak_of
from tunesmith.plan.prediction import SPARE
from tunesmith.plan.shapes import Shape
from tunesmith.training import memory
from tunesmith.training.precision import Masters

FEW = (2, 4)  # rows of the passes that are counted
WIDE = 4096  # what is at least so wide is the head's, where the head is so wide
A_MOMENT = 4  # bytes of a number in fp32


@dataclass(frozen=True)
class Line:
    """Bytes as a line in the rows of a pass.

    Attributes:
        row: of each.
        rest: whatever the rows.
    """

    row: float
    rest: float

    def of(self, rows: float) -> float:
        """Of so many rows."""
        return rows * self.row + self.rest

    @classmethod
    def through(cls, counts: Sequence[int], values: Sequence[float]) -> Line:
        """Two points, or one and the origin."""
        if len(counts) == 1:
            return cls(values[0] / counts[0], 0.0)
        row = max(0.0, (values[1] - values[0]) / (counts[1] - counts[0]))
        return cls(row, max(0.0, values[1] - counts[1] * row))


@dataclass(frozen=True)
class Kept:
    """What tensors hold at the peak of a pass of rows that are so long.

    Attributes:
        forward: at the end of the forward pass.
        both: both ways, gradients included.
        wide: of that, what is as wide as the head.
        length: tokens of the rows.
    """

    forward: Line
    both: Line
    wide: Line
    length: int

    def of(self, rows: float, gradients: float) -> float:
        """Bytes of a pass over `rows` rows that leaves `gradients` bytes.

        With few rows gradients outweigh what is kept for them, with many it is the other way round: the highest moment is not a line in the rows,
        and the sum of both bounds it.
        """
        return max(self.forward.of(rows) + gradients, self.both.of(rows))

    @property
    def row(self) -> float:
        """Bytes that one row more takes, where there are many."""
        return max(self.forward.row, self.both.row)


def kept(shape: Shape, work: Callable[[Shape, Callable[[], None]], Any], model: Any, head_width: int) -> Kept | None:
    """Count what is held in passes over few of the longest rows; None where they do not run.

    Args:
        shape: the largest pass.
        work: carries a pass out, both ways, leaves nothing, and calls what it is given in between.
        model: whose parameters and buffers exist anyway.
        head_width: numbers that the head gives for a position.
    """
    known = {each.untyped_storage().data_ptr() for each in tensors_of(model)}
    few = FEW if shape.rows >= FEW[-1] else tuple(sorted({1, shape.rows}))  # two of them tell gradients from rows
    wide = head_width if head_width >= WIDE else 0
    try:
        found = [peak_of(lambda turn, c=count: work(shape.few(c), turn), known, wide) for count in few]  # type: ignore[misc]
    except (RuntimeError, ValueError, TypeError, IndexError, MemoryError):
        return None
    forward, both, head = (
        Line.through(few, [getattr(each, name) for each in found]) for name in ("forward", "all", "wide")
    )
    return Kept(forward, both, head, shape.length)


def chunked(found: Kept, rows: int, most: float) -> Kept:
    """What is held where logits are made a chunk at a time: of so many rows they take no more than `most` bytes.

    Args:
        found: of few rows, whose logits may be less than a chunk.
        rows: of the largest pass.
        most: bytes of a chunk of logits.
    """
    if found.wide.of(rows) <= most:
        return found

    def less(line: Line) -> Line:
        return Line(max(0.0, line.row - found.wide.row), line.rest + most)

    return Kept(less(found.forward), less(found.both), Line(0.0, most), found.length)


@dataclass(frozen=True)
class Room:
    """Memory of a run as it stands before its first step.

    Attributes:
        parts: bytes by part.
        available: what the process has and can get.
        largest: the most rows of the longest kind in one pass that fit.
    """

    parts: dict[str, int]
    available: int
    largest: int


def room(
    model: Any,
    masters: Masters,
    device: torch.device,
    found: Kept,
    rows: int,
    most: int,
    stored: int,
    file_bytes: int,
    *,
    now: int,
    peak: int,
    slack: float = 0.0,
    stays: float = 0.0,
    evaluated: int = 0,
    best: bool = False,
) -> Room:
    """The parts of the peak.

    Args:
        model: as it will train.
        masters: what the optimiser sees.
        device: where.
        found: what a pass keeps.
        rows: of the largest pass.
        most: rows that there are at all.
        stored: bytes of stored features that will be read.
        file_bytes: of the weights as they are opened again to be measured.
        now: bytes that the process holds.
        peak: the most that it has held since the run began.
        slack: what allocator and kernels were seen to hold beyond tensors, for the largest pass.
        stays: what they were seen to keep when the passes were over.
        evaluated: bytes that tensors hold in a pass of the evaluation beside the model.
        best: a copy of the best values is kept.
    """
    learned = {id(t): t for t in masters.tensors.values()}.values()
    numbers = sum(t.numel() for t in learned)
    weights = _bytes(tensors_of(model))
    copies = _bytes([*masters.tensors.values(), *(exact for _, exact in masters.exact)]) if masters.split else 0
    left = (2 if masters.split else A_MOMENT) * numbers  # gradients as the backward pass leaves them
    gradients = left + (A_MOMENT * numbers if masters.split else 0)
    flowing = found.of(rows, left) - left
    head = min(found.wide.of(rows), flowing)
    parts = {
        "libraries": max(0, now - weights - copies),
        "weights": min(now, weights + copies) + (A_MOMENT * numbers if best else 0),
        "gradients": int(gradients),
        "optimizer": 2 * A_MOMENT * numbers,
        "activations": int(flowing - head + slack),
        "head": int(head),
        "cache": stored,
    }
    step = sum(parts.values())
    again = parts["libraries"] + file_bytes + evaluated + int(stays)
    beside = max(peak, again)  # which no smaller pass makes less
    parts["evaluation"] = max(0, beside - step)
    available = memory.available(device) + now
    free = available / SPARE - (step - rows * found.row)
    largest = int(max(0, min(most, free // found.row))) if found.row > 0 else most
    return Room(parts, available, largest if beside * SPARE <= available else 0)


def tensors_of(model: Any) -> list[torch.Tensor]:
    """Parameters and buffers of a model, or of several heads."""
    buffers = [buffer for module in model.modules() for buffer in module.buffers(recurse=False)]
    return [*model.parameters(), *buffers]


def _bytes(tensors: Any) -> int:
    """Of storages, each once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
