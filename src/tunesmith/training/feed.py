"""What each optimiser step is made of: a list of forward passes, each with its task, model and tensors.

The loop knows nothing of order, buckets, caches or tasks; it asks a feed for the passes of a step. Several tasks
in one step, or extra batches from a memory, are further passes in the same list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.cache.ragged import RaggedRows
from tunesmith.data.batching import BatchOrder, pack, passes
from tunesmith.seeding import derive
from tunesmith.tasks._base import Batch, Task
from tunesmith.training.features import StandIn, stack

# What a forward and backward pass costs beside its positions, in positions: launching operations on a CPU, filling the
# device on a GPU.
OVERHEAD = {"cpu": 128, "cuda": 8192, "mps": 4096}


@dataclass
class Pass:
    """One forward pass: what runs on what, and how many supervised units it holds.

    `rows` are the numbers of the rows that the features belong to, for what is kept beside rows (a teacher's outputs, a memory).
    """

    task: Task
    model: Any
    batch: Batch
    units: float
    tokens: int
    rows: np.ndarray[Any, Any]
    stand_in: StandIn | None = None
    states: torch.Tensor | None = None

    def arm(self) -> None:
        """Hand the stored states to the stand-in, where the base does not run."""
        if self.stand_in is not None:
            self.stand_in.states = self.states


def packing_works(task: Task, model: Any, rows: RaggedRows, pad_id: int, device: torch.device) -> bool:
    """Whether packed documents do not see each other in this model, technique included: tried on two short ones.

    Architectures build the mask of packed documents from `position_ids`, and those that do not (or a technique that takes
    positions of its own) give other scores than the documents alone.
    """
    shortest = np.argsort(rows.lengths, kind="stable")
    pair = [rows[int(i)] for i in shortest[rows.lengths[shortest] > 2][:2]]
    if not task.packs or len(pair) < 2:
        return False
    pair = [{n: v[:64] if n in ("input_ids", "labels") else v for n, v in each.items()} for each in pair]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            losses = []
            for features in (pair, [task.pack(pair)]):
                batch = {n: t.to(device) for n, t in task.collate(features, pad_id).items()}
                losses.append(float(task.loss(task.forward(model, batch), batch)))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    finally:
        model.train(training)
    return abs(losses[0] - losses[1]) <= 1e-4 * max(
        1.0, abs(losses[0])
    )  # fp32 sums in another order; a leak is far above


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
    ) -> None:
        self.task, self.model, self.rows = task, model, rows
        self.bins = pack(rows.lengths, capacity) if capacity else None
        self.lengths = rows.lengths
        if self.bins is not None:
            self.lengths = np.asarray([int(rows.lengths[places].sum()) for places in self.bins], np.int64)
        self.order = BatchOrder(self.lengths, batch_size, seed, buckets)
        self.micro = micro_batch_size or batch_size
        self.seed, self.device, self.pad_id, self.stand_in = seed, device, pad_id, stand_in

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the rows."""
        return self.order.steps_per_epoch

    def steps(self, first: int, total: int) -> Iterator[list[Pass]]:
        """Passes of the optimiser steps `first` to `total` (exclusive)."""
        for step, indices in enumerate(self.order.steps(first, total), first):
            rng = np.random.default_rng(derive(self.seed, "collate", step))
            if self.order.buckets:
                cut = passes(self.lengths[indices], OVERHEAD.get(self.device.type, 0), self.micro)
            else:
                cut = [np.arange(i, min(i + self.micro, len(indices))) for i in range(0, len(indices), self.micro)]
            yield [self._pass(indices[places], rng) for places in cut]

    def _pass(self, indices: np.ndarray[Any, Any], rng: np.random.Generator) -> Pass:
        if self.bins is None:
            features = [self.rows[int(i)] for i in indices]
            owners = np.asarray([int(each["row"]) for each in features])
        else:
            parts = [[self.rows[int(i)] for i in self.bins[int(place)]] for place in indices]
            owners = np.asarray([int(each["row"]) for part in parts for each in part])
            features = [self.task.pack(part) for part in parts]
        batch = self.task.collate(features, self.pad_id, rng)
        units = self.task.units(batch)
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        states = stack(features, self.device) if self.stand_in is not None else None
        tokens = int(self.lengths[indices].sum())
        return Pass(self.task, self.model, batch, units, tokens, owners, self.stand_in, states)
