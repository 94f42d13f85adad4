"""What each optimiser step is made of: a list of forward passes, each with its task, model and tensors.

The loop knows nothing of order, buckets, caches or tasks; it asks a feed for the passes of a step. Several tasks
in one step, or extra batches from a memory, are further passes in the same list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.cache.ragged import RaggedRows
from tunesmith.data.batching import BatchOrder, pack, passes
from tunesmith.models.recorder import Recorder
from tunesmith.seeding import derive
from tunesmith.tasks._base import Batch, Task
from tunesmith.training.features import StandIn, stack
from tunesmith.training.lower_layers import LowerLayers

# What a forward and backward pass costs beside its positions, in positions: launching operations on a CPU, filling the
# device on a GPU.
OVERHEAD = {"cpu": 128, "cuda": 8192, "mps": 4096}


@dataclass
class Pass:
    """One forward pass: what runs on what, and how many supervised units it holds.

    `rows` are the numbers of the rows that the features belong to, and `places` those of the features themselves among all that are
    learned from (a row may have several; None: they are not among them), for what is kept beside either (a teacher's outputs, a
    memory). Without `labelled` the targets in the batch are stand-ins, which no loss may read. `recorder` holds what an objective
    asked for beside logits, once the pass has run.
    `part` groups the passes of a step whose loss has one mean (a task, a memory), and `weight` is that mean's factor. `loss` stands
    in for the objective, given this pass, where a strategy asks for something else; a sum over `units`. `lean`: logits over a vocabulary
    may be made a chunk at a time (`Task.before_head`). `idle`: it only keeps other processes company, and its loss counts for nothing.
    """

    task: Task
    model: Any
    batch: Batch
    units: float
    tokens: int
    rows: np.ndarray[Any, Any]
    stand_in: StandIn | LowerLayers | None = None
    states: torch.Tensor | None = None
    places: np.ndarray[Any, Any] | None = None
    labelled: bool = True
    recorder: Recorder | None = None
    part: str = ""
    weight: float = 1.0
    loss: Callable[[Pass], torch.Tensor] | None = None
    lean: bool = False
    idle: bool = False

    @property
    def length(self) -> int:
        """Tokens of a row, padding included."""
        return int(self.batch["input_ids"].shape[1]) if "input_ids" in self.batch else 0

    def arm(self) -> None:
        """Hand the stored states to the stand-in, where the base, or its lower layers, do not run."""
        if self.stand_in is not None:
            self.stand_in.states = self.states


class Feed:
    """Passes of every step for one task's rows.

    With a `capacity`, short rows share sequences of that many tokens, and `batch_size` counts sequences.
    """

    def __init__(
        self,
        task: Task,
        model: Any,
        rows: RaggedRows,
        *,
        batch_size: int,
        micro_batch_size: int | None,
        seed: int,
        buckets: bool,
        device: torch.device,
        pad_id: int,
        stand_in: StandIn | None = None,
        capacity: int | None = None,
        labelled: np.ndarray[Any, Any] | None = None,
        recorder: Recorder | None = None,
        lean: bool = False,
    ) -> None:
        self.task, self.model, self.rows, self.lean = task, model, rows, lean
        self.labelled, self.recorder = labelled, recorder
        self.bins = self._pack(capacity) if capacity else None
        self.lengths = rows.lengths
        if self.bins is not None:
            self.lengths = np.asarray([int(rows.lengths[places].sum()) for places in self.bins], np.int64)
        self.order = BatchOrder(self.lengths, batch_size, seed, buckets)
        self.micro = micro_batch_size or batch_size
        self.seed, self.device, self.pad_id, self.stand_in = seed, device, pad_id, stand_in
        self.lower: LowerLayers | None = None
        """What serves the states of frozen lower layers, if it was given."""

    def _pack(self, capacity: int) -> list[np.ndarray[Any, Any]]:
        """Sequences of features; labelled rows share none with the others."""
        lengths = self.rows.lengths
        if self.labelled is None:
            return pack(lengths, capacity)
        groups = [np.flatnonzero(self.labelled), np.flatnonzero(~self.labelled)]
        return [group[places] for group in groups if len(group) for places in pack(lengths[group], capacity)]

    def _has_labels(self, index: int) -> bool:
        """Whether a feature (or packed sequence) has targets of its own."""
        if self.labelled is None:
            return True
        return bool(self.labelled[index if self.bins is None else self.bins[index][0]])

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the rows."""
        return self.order.steps_per_epoch

    def limit(self, rows: int) -> None:
        """At most so many rows (or packed sequences) in a forward pass from here on."""
        self.micro = rows

    def steps(self, first: int, total: int) -> Iterator[list[Pass]]:
        """Passes of the optimiser steps `first` to `total` (exclusive)."""
        for step, indices in enumerate(self.order.steps(first, total), first):
            yield self.cut(indices, step)

    def cut(self, indices: np.ndarray[Any, Any], step: int) -> list[Pass]:
        """The forward passes of some rows (or packed sequences) in a step."""
        rng = np.random.default_rng(derive(self.seed, "collate", step))
        return [self.make(group, rng) for group in self.layout(indices)]

    def layout(self, indices: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """Which rows (or packed sequences) of a step share a forward pass."""
        found = []
        for group in self._groups(indices):
            if self.order.buckets:
                cut = passes(self.lengths[group], OVERHEAD.get(self.device.type, 0), self.micro)
            else:
                cut = [np.arange(i, min(i + self.micro, len(group))) for i in range(0, len(group), self.micro)]
            found += [group[places] for places in cut]
        return found

    def _groups(self, indices: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """What may stand in one pass: rows with labels, and rows without."""
        if self.labelled is None:
            return [indices]
        known = np.asarray([self._has_labels(int(i)) for i in indices], bool)
        return [group for group in (indices[known], indices[~known]) if len(group)]

    def make(self, indices: np.ndarray[Any, Any], rng: np.random.Generator) -> Pass:
        """One forward pass over some rows (or packed sequences)."""
        places = indices if self.bins is None else np.concatenate([self.bins[int(place)] for place in indices])
        if self.bins is None:
            features = [self.rows[int(i)] for i in indices]
            owners = np.asarray([int(each["row"]) for each in features])
        else:
            parts = [[self.rows[int(i)] for i in self.bins[int(place)]] for place in indices]
            owners = np.asarray([int(each["row"]) for part in parts for each in part])
            features = [self.task.pack(part) for part in parts]
        batch = self.task.collate(features, self.pad_id, rng)
        units = self.task.units(batch)
        states = stack(features, self.device) if self.stand_in is not None else None
        if self.lower is not None:
            groups = [np.asarray([i]) for i in indices] if self.bins is None else [self.bins[int(i)] for i in indices]
            states = self._moved(self.lower.batch(groups, batch))
        batch = {name: self._moved(tensor) for name, tensor in batch.items()}
        tokens = int(self.lengths[indices].sum())
        return Pass(
            self.task, self.model, batch, units, tokens, owners, self.lower or self.stand_in, states, places, self._has_labels(int(indices[0])),
            self.recorder, lean=self.lean,
        )  # fmt: skip

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the device; a GPU copies from pinned memory while it computes, and from any other it is waited for."""
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


class MixedFeed:
    """Steps whose rows come from several tasks.

    A step has `SLOTS` slots (as many as there are tasks, if those are more), each filled by the task that is furthest behind its
    share, so that shares are exact over time and a function of the step alone. The loss is the mean over slots of the tasks' means:

        L = sum_t w_t (n_t / N) mean_t          n_t of N slots went to task t
    """

    SLOTS = 4

    def __init__(
        self, feeds: Mapping[str, Feed], shares: Mapping[str, float], weights: Mapping[str, float], rows: int
    ) -> None:
        total = sum(shares.values())
        self.feeds = dict(feeds)
        self.shares = np.asarray([shares[name] / total for name in self.feeds])
        self.weights = dict(weights)
        self.slots = max(self.SLOTS, len(self.feeds))
        self.steps_per_epoch = max(1, -(-rows // (self.slots * next(iter(self.feeds.values())).order.batch_size)))
        self.bins = None

    @property
    def micro(self) -> int:
        """The most rows in a forward pass."""
        return max(feed.micro for feed in self.feeds.values())

    def limit(self, rows: int) -> None:
        """At most so many rows in a forward pass from here on."""
        for feed in self.feeds.values():
            feed.limit(min(rows, feed.micro))

    @classmethod
    def slot(cls, batch_size: int, tasks: int) -> int:
        """Rows in a slot: a feed's batch size."""
        return max(1, batch_size // max(cls.SLOTS, tasks))

    def counts(self, first: int, total: int) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """(slots given before, slots given in) each step from `first` on."""
        given = np.zeros(len(self.feeds), np.int64)
        for step in range(total):
            before = given.copy()
            for _ in range(self.slots):
                given[int((self.shares * (given.sum() + 1) - given).argmax())] += 1
            if step >= first:
                yield before, given - before

    def steps(self, first: int, total: int) -> Iterator[list[Pass]]:
        """Passes of the optimiser steps `first` to `total` (exclusive)."""
        for step, drawn in enumerate(self.drawn(first, total), first):
            found: list[Pass] = []
            for name, (indices, count) in drawn.items():
                for each in self.feeds[name].cut(indices, step):
                    each.part, each.weight = name, self.weights[name] * count / self.slots
                    found.append(each)
            yield found

    def drawn(self, first: int, total: int) -> Iterator[dict[str, tuple[np.ndarray[Any, Any], int]]]:
        """By task, the rows of each step and how many slots they fill."""
        orders: list[Iterator[np.ndarray[Any, Any]]] = []
        for before, now in self.counts(first, total):
            if not orders:
                orders = [f.order.steps(int(b), 1 << 62) for f, b in zip(self.feeds.values(), before, strict=True)]
            yield {
                name: (np.concatenate([next(order) for _ in range(count)]), count)
                for name, order, count in zip(self.feeds, orders, now.tolist(), strict=True)
                if count
            }
