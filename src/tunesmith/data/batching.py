"""The order of the rows: a function of seed and epoch alone, so that any position can be resumed.

Length buckets: rows are shuffled, cut into windows of `WINDOW` batches, sorted by length inside a window, cut
into batches, and the batches shuffled. A batch whose lengths still differ is cut into several forward passes of like
lengths (`passes`), which leaves its gradient what it was. Padding falls from about half of all positions to a tenth, the
number of optimiser steps stays the same, and every row is still seen once an epoch.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tunesmith.seeding import derive

# Batches per window. A batch of like lengths is a biased sample of the rows: with 50 batches a window (98 % of positions real
# on short reviews) minilm lost 0.9 points of accuracy over four seeds against windows of 8 (89 %), which lose nothing.
WINDOW = 8


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


def passes(lengths: np.ndarray[Any, Any], overhead: int, most: int) -> list[np.ndarray[Any, Any]]:
    """Cut one batch into forward passes so that padding and passes together cost least.

    With lengths in descending order a pass over rows i..j costs l_i (j - i) + overhead; the cheapest cut is found by
    dynamic programming over its end.

    Args:
        lengths: tokens of the batch's rows, [rows].
        overhead: what a pass costs beside its positions, in positions.
        most: rows in a pass, at most.

    Returns:
        Places in the batch, one array a pass, longest rows first.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order].astype(np.float64)
    best = np.zeros(len(order) + 1)
    start = np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):
        starts = np.arange(max(0, end - most), end)
        costs = best[starts] + ordered[starts] * (end - starts) + overhead
        chosen = int(costs.argmin())
        best[end], start[end] = costs[chosen], starts[chosen]
    found, end = [], len(order)
    while end > 0:
        found.append(order[start[end] : end])
        end = int(start[end])
    return found[::-1]


def pack(lengths: np.ndarray[Any, Any], capacity: int) -> list[np.ndarray[Any, Any]]:
    """Put short rows together into sequences of at most `capacity` tokens: best-fit decreasing (Johnson 1973).

    Each row, longest first, goes where it leaves the least room; with at most 11/9 of the best possible number of
    sequences.

    Args:
        lengths: tokens of each row, [rows].
        capacity: tokens of a sequence; a longer row stands alone.

    Returns:
        Row indices, one array a sequence.
    """
    order = np.argsort(-lengths, kind="stable")
    rooms: list[list[int]] = [[] for _ in range(capacity + 1)]  # open sequences by the room they have
    found: list[list[int]] = []
    open_rooms: list[int] = []  # rooms that some sequence has, ascending
    for index in order.tolist():
        length = int(lengths[index])
        at = bisect.bisect_left(open_rooms, length)
        if at == len(open_rooms):
            place, room = len(found), capacity - length
            found.append([index])
        else:
            old = open_rooms[at]
            place, room = rooms[old].pop(), old - length
            if not rooms[old]:
                del open_rooms[at]
            found[place].append(index)
        if room > 0:
            if not rooms[room]:
                bisect.insort(open_rooms, room)
            rooms[room].append(place)
    return [np.asarray(places, np.int64) for places in found]


@lru_cache(maxsize=1)
def evaluated_tokens() -> int:
    """Tokens in a batch of evaluation at most: more is no faster on a CPU and would be the peak of a run's memory."""
    import torch

    return 65_536 if torch.cuda.is_available() else 4_096


def by_length(lengths: np.ndarray[Any, Any], batch_size: int, tokens: int | None = None) -> list[np.ndarray[Any, Any]]:
    """Batches for evaluation: longest first, so that running out of memory shows at once.

    Args:
        lengths: tokens of each row.
        batch_size: rows in a batch at most.
        tokens: positions in a batch at most, padding included (default: what suits the machine); a longer row stands alone.
    """
    order, tokens = np.argsort(-lengths, kind="stable"), tokens or evaluated_tokens()
    found, start = [], 0
    while start < len(order):
        size = min(batch_size, max(1, tokens // max(int(lengths[order[start]]), 1)))
        found.append(order[start : start + size])
        start += size
    return found
