"""Run a frozen backbone once and train on what it left, cached on disk.

    rows -> base (with the technique's hooks, evaluation mode) -> states, [rows][slots or T][d] -> disk
    training: the base is replaced by a stand-in that serves the stored states, so the head sees the same numbers

With pooled features a row has one slot a layer, and the technique's reader combines them (a learned step); without,
all positions of the last layer are stored. BERT's pooler is computed again, because it may be learning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.cache import store
from tunesmith.cache.ragged import RaggedColumn, RaggedRows, RaggedWriter, open_rows
from tunesmith.console import progress
from tunesmith.data.batching import by_length
from tunesmith.models.backbone import Backbone
from tunesmith.tasks._base import Task
from tunesmith.training.attention import attention_kernel

SAMPLED = 4  # batches that are timed for a plan
CODE = 4  # part of the key: raise it when what is stored changes


class StandIn:
    """Serves stored states in place of the base's forward pass, between `install` and `remove`."""

    def __init__(self, backbone: Backbone, output_class: type[Any], fields: Sequence[str], reader: Any) -> None:
        self.base: Any = backbone.base
        self.output_class, self.fields, self.reader = output_class, fields, reader
        self.states: torch.Tensor | None = None
        self.hooks: Any = None

    def install(self) -> None:
        """Stand in for the base; its hooks are off, because their effect is in the states."""
        self.hooks = self.base._forward_hooks, self.base._forward_pre_hooks
        self.base._forward_hooks, self.base._forward_pre_hooks = (type(hooks)() for hooks in self.hooks)
        self.base.forward = self

    def remove(self) -> None:
        """Let the base run again."""
        del self.base.forward
        self.base._forward_hooks, self.base._forward_pre_hooks = self.hooks

    def __call__(self, input_ids: torch.Tensor | None = None, **_: Any) -> Any:
        """The base's output for the rows whose states were set."""
        assert self.states is not None
        states = self.states
        values: dict[str, Any] = {}
        if self.reader is not None:
            pooled = self.reader.combine(states)
            width = input_ids.shape[1] if input_ids is not None else 1
            values["last_hidden_state"] = pooled[:, None].expand(-1, width, -1)
            values["pooler_output"] = pooled
        else:
            values["last_hidden_state"] = states
            if "pooler_output" in self.fields:
                values["pooler_output"] = self.base.pooler(states)
        values = {name: value for name, value in values.items() if name in self.fields}
        return self.output_class(**values)


@contextmanager
def computing_in(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Inside, a model's parameters are copies in another dtype; buffers stay (rotary frequencies in bf16 would be wrong)."""
    own = [(parameter, parameter.data) for parameter in model.parameters() if parameter.is_floating_point()]
    try:
        for parameter, data in own:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def compute(
    backbone: Backbone,
    task: Task,
    rows: RaggedRows,
    key: Mapping[str, Any],
    batch_size: int,
    device: torch.device,
    pad_id: int,
    reader: Any,
    dtype: torch.dtype,
    *,
    only_plan: bool = False,
) -> tuple[RaggedRows, StandIn, float]:
    """States of every row (from the cache if they are there), the stand-in that serves them, and the seconds they took.

    The backbone computes them in `dtype` and is afterwards what it was; they are stored in fp32. For a plan, a few batches are timed and all states are
    zero, unless the cache has them.
    """
    seen: dict[str, Any] = {}

    def record(module: Any, args: Any, output: Any) -> None:
        seen["output"] = output

    def run(indices: Any) -> tuple[Any, torch.Tensor]:
        batch = task.collate([rows[int(i)] for i in indices], pad_id)
        handle = backbone.base.register_forward_hook(record)
        try:
            with torch.no_grad(), attention_kernel(device):
                task.forward(backbone.model, {n: t.to(device) for n, t in batch.items()})
        finally:
            handle.remove()
        output = seen.pop("output")
        return output, reader.collected if reader is not None else output["last_hidden_state"]

    backbone.model.eval()
    probe, _ = run([0])
    stand_in = StandIn(backbone, type(probe), [name for name in probe if name != "hidden_states"], reader)

    def make(folder: Path) -> None:
        started = time.perf_counter()
        kept: list[np.ndarray[Any, Any] | None] = [None] * len(rows)
        with progress() as bar, computing_in(backbone.model, dtype):
            bar_task = bar.add_task("features of the frozen backbone", total=len(rows))
            for indices in by_length(rows.lengths, batch_size):
                states = run(indices)[1].float().cpu().numpy()
                for place, index in enumerate(indices):
                    kept[index] = states[place, : None if reader is not None else rows.lengths[index]].copy()
                bar.advance(bar_task, len(indices))
        writer = RaggedWriter(folder)
        for row in kept:
            assert row is not None
            writer.append({"states": row})
        writer.close({"seconds": time.perf_counter() - started})

    name = store.key_of(code=CODE, dtype=str(dtype), **key)
    if only_plan and not store.has("features", name):
        with computing_in(backbone.model, dtype):
            return _as_if(rows, lambda indices: run(indices)[1], batch_size, reader is not None, stand_in)
    states = open_rows(store.folder("features", name, make))
    columns: dict[str, RaggedColumn] = {**rows.columns, **states.columns}
    return RaggedRows(columns, rows.meta), stand_in, float(states.meta["seconds"])


def _as_if(
    rows: RaggedRows, run: Callable[[Any], torch.Tensor], batch_size: int, pooled: bool, stand_in: StandIn
) -> tuple[RaggedRows, StandIn, float]:
    """Rows whose states are zero, and the seconds that the real ones would take: those of a few batches, by their positions."""
    batches = by_length(rows.lengths, batch_size)
    states = run(batches[-1])  # what a first pass pays for is not counted
    spent, done = 0.0, 0
    for place in np.unique(np.linspace(len(batches) - 1, 0, SAMPLED).round().astype(int)).tolist():
        indices = batches[place]
        started = time.perf_counter()
        run(indices)
        spent += time.perf_counter() - started
        done += len(indices) * int(rows.lengths[indices].max())
    whole = sum(len(indices) * int(rows.lengths[indices].max()) for indices in batches)
    each = np.full(len(rows), states.shape[1], np.int64) if pooled else rows.lengths
    offsets = np.concatenate([[0], np.cumsum(each)]).astype(np.int64)
    values = np.broadcast_to(np.float32(0), (int(offsets[-1]), states.shape[-1]))
    columns: dict[str, RaggedColumn] = {**rows.columns, "states": RaggedColumn(values, offsets)}
    return RaggedRows(columns, rows.meta), stand_in, spent * whole / max(done, 1)


def stack(rows: Sequence[Mapping[str, Any]], device: torch.device) -> torch.Tensor:
    """Stored states of some rows as [rows, longest, d], zero-padded on the right."""
    longest = max(len(row["states"]) for row in rows)
    width = rows[0]["states"].shape[-1]
    table = np.zeros((len(rows), longest, width), np.float32)
    for i, row in enumerate(rows):
        table[i, : len(row["states"])] = row["states"]
    return torch.from_numpy(table).to(device)
