"""The order of the rows: a function of seed and epoch alone, so that any position can be resumed.

Length buckets: rows are shuffled, cut into windows of `WINDOW` batches, sorted by length inside a window, cut
into batches, and the batches shuffled. Padding falls from about half of all positions to a few per cent, the
number of optimiser steps stays the same, and every row is still seen once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.seeding import derive

WINDOW = 50  # batches per window: large enough to fill buckets, small enough that neighbours stay random


@dataclass(frozen=True)
class BatchOrder:
    """Batches of row indices for every epoch.

    Attributes:
        lengths: tokens of each row, [rows].
        batch_size: rows in a batch; the last batch of an epoch may be smaller.
        seed: the run's seed.
        buckets: whether rows of like length are put together.
    """

    lengths: np.ndarray[Any, Any]
    batch_size: int
    seed: int
    buckets: bool = True

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the rows."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def epoch(self, number: int) -> list[np.ndarray[Any, Any]]:
        """All batches of one epoch in order."""
        generator = np.random.default_rng(derive(self.seed, "order", number))
        order = generator.permutation(len(self.lengths))
        size = self.batch_size
        if not self.buckets:
            return [order[i : i + size] for i in range(0, len(order), size)]
        batches = []
        for start in range(0, len(order), size * WINDOW):
            window = order[start : start + size * WINDOW]
            window = window[np.argsort(self.lengths[window], kind="stable")]
            batches += [window[i : i + size] for i in range(0, len(window), size)]
        return [batches[i] for i in generator.permutation(len(batches))]

    def steps(self, first: int, total: int) -> Iterator[np.ndarray[Any, Any]]:
        """Batches for optimiser steps `first` to `total` (exclusive), across epochs."""
        step = first
        while step < total:
            batches = self.epoch(step // self.steps_per_epoch)
            for batch in batches[step % self.steps_per_epoch :]:
                if step >= total:
                    return
                yield batch
                step += 1


def by_length(lengths: np.ndarray[Any, Any], batch_size: int) -> list[np.ndarray[Any, Any]]:
    """Batches for evaluation: longest first, so that running out of memory shows at once."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
