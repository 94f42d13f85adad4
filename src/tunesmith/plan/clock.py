"""How long training will take: a few of the run's own passes are timed, and what they say of all of them is added up.

    seconds of a pass = a + b n T + c n T^2        n rows of T tokens, a, b, c >= 0, fitted to passes of several sizes

The passes are forward and backward on real batches, in the dtype, kernels and state of the run; gradients are thrown away and the random state is put back,
so that training goes on as if nothing had been (bit for bit). What the optimiser costs is known of the machine (`machine`). The search for
(a, b, c) minimises relative errors under the bound that none is negative (Lawson & Hanson 1974, chapter 23).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tunesmith.plan.shapes import Shape

SIZES = 5  # passes of different size that are timed
SHARE, LEAST, MOST = 0.04, 0.15, 4.0  # of the time that is predicted, and seconds, that timing may take
ONE = 1.5  # seconds that one timed pass may take; of a larger one a part is timed


@dataclass(frozen=True)
class Pace:
    """Seconds of a pass by its size.

    Attributes:
        fixed: whatever it holds.
        position: a position, padding included.
        square: a position and token of its row.
        timed: how many passes that is known from.
    """

    fixed: float
    position: float
    square: float
    timed: int = field(default=0)

    def of(self, rows: float, length: float) -> float:
        """Of a pass of `rows` rows of `length` tokens."""
        return self.fixed + self.position * rows * length + self.square * rows * length**2


def fit(sizes: Sequence[tuple[int, int]], seconds: Sequence[float]) -> Pace:
    """The pace that explains what was timed.

    Args:
        sizes: rows and tokens of each pass.
        seconds: of each.
    """
    from scipy.optimize import nnls

    spent = np.asarray(seconds, np.float64)
    terms = np.asarray([(1.0, n * length, n * float(length) ** 2) for n, length in sizes])
    if len({n * length for n, length in sizes}) < 2:  # one size says nothing of what a pass costs by itself
        return Pace(0.0, float(np.mean(spent / terms[:, 1])), 0.0, len(spent))
    if len({length for _, length in sizes}) < 3:
        terms = terms[:, :2]
    scale = terms.max(axis=0)
    found, _ = nnls(terms / scale / spent[:, None], np.ones(len(spent)))
    fixed, position, square = [*(found / scale).tolist(), 0.0][:3]
    return Pace(fixed, position, square, len(spent))


def spread(all_of_them: Sequence[Shape], count: int = SIZES) -> list[Shape]:
    """Passes of different size, from the smallest to the largest."""
    ordered = sorted(all_of_them, key=lambda shape: (shape.area, shape.length))
    places = np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int))
    found: dict[tuple[int, int], Shape] = {}
    for place in places.tolist():
        shape = ordered[place]
        found.setdefault((shape.rows, shape.length), shape)
    return list(found.values())


def pace(all_of_them: Sequence[Shape], run: Callable[[Shape], None]) -> Pace:
    """Time some of the passes.

    Args:
        all_of_them: of the run, as far as they are looked at.
        run: carries one out, ready when it returns.
    """
    chosen = spread(all_of_them)

    def timed(shape: Shape) -> float:
        started = time.perf_counter()
        run(shape)
        return time.perf_counter() - started

    began = time.perf_counter()
    smallest, one = chosen[0], chosen[0].few(1)
    timed(one)  # the first pass of a process pays for much that later ones do not
    expected = timed(one) * smallest.area / max(one.area, 1)
    if expected > ONE:
        smallest = smallest.few(max(1, int(smallest.rows * ONE / expected)))
    first = timed(smallest)
    known: dict[int, list[float]] = {0: [first]}
    sizes = [smallest]
    for shape in chosen[1:]:
        last = sizes[-1]
        expected = known[len(sizes) - 1][-1] * shape.area / max(last.area, 1)
        if expected > ONE:
            part = max(1, int(shape.rows * ONE / expected))
            shape = shape.few(part)
        sizes.append(shape)
        known[len(sizes) - 1] = [timed(shape)]
        if time.perf_counter() - began > MOST:
            break
    rough = fit([(s.rows, s.length) for s in sizes], [each[-1] for each in known.values()])
    whole = sum(rough.of(shape.rows, shape.length) for shape in all_of_them)
    allowed = min(MOST, max(LEAST, SHARE * whole))
    one_round = sum(each[-1] for each in known.values())
    while time.perf_counter() - began + one_round < allowed and len(known[0]) < 4:
        for i, shape in enumerate(sizes):
            known[i].append(timed(shape))
    # Of several rounds the first is left out: memory that a size takes for the first time is taken once a run.
    spent = [float(np.median(each[1:] or each)) for each in known.values()]
    return fit([(s.rows, s.length) for s in sizes], spent)


def seconds_of(steps: Sequence[Sequence[Shape]], total: int, pace: Pace, a_step: float) -> float:
    """All passes of a run and its optimiser steps, from those of its first steps.

    Args:
        steps: passes of the steps that were looked at.
        total: steps of the run.
        pace: of a pass.
        a_step: what a step costs beside its passes.
    """
    passes = sum(pace.of(shape.rows, shape.length) for step in steps for shape in step)
    return passes * total / max(len(steps), 1) + a_step * total
