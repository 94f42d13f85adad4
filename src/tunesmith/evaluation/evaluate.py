"""Metrics of a model on encoded rows, streamed: what is kept is an answer a row, never the logits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.cache.ragged import RaggedRows
from tunesmith.console import counted
from tunesmith.data.batching import by_length
from tunesmith.evaluation.shortage import is_shortage, let_go
from tunesmith.tasks._base import Answer, Task


@dataclass
class Scored:
    """Metrics, and an answer for every row in order."""

    metrics: dict[str, float]
    answers: list[Answer]


def evaluate(
    model: Any,
    task: Task,
    table: Sequence[Any],
    encoded: RaggedRows,
    *,
    batch_size: int,
    device: torch.device,
    pad_id: int,
    title: str = "evaluate",
    predicting: bool = False,
    watch: Callable[[int], None] | None = None,
) -> Scored:
    """Score a model on rows in evaluation mode; `loss` is the mean over supervised units.

    Args:
        model: transformers model under the task's head.
        task: says what is read from outputs and how a row's windows are joined.
        table: the rows, each a mapping of columns.
        encoded: their features; rows without labels give answers and no metrics.
        batch_size: features in a forward pass.
        device: where the model is.
        pad_id: token id of padding.
        title: of the progress bar.
        predicting: every row needs its answer, and nothing is measured.
        watch: called with the number of features that are done, in place of a progress bar.
    """
    metric = task.metric()
    labelled = "labels" in encoded.columns and not predicting
    owners = np.asarray([int(encoded.columns["row"][i]) for i in range(len(encoded))], np.int64)
    pieces = np.bincount(owners, minlength=len(table))
    waiting: dict[int, dict[int, Any]] = {}
    answers: list[Any] = [None] * len(table)
    total, units = 0.0, 0.0
    training = model.training
    model.eval()
    with torch.no_grad(), counted(title, len(encoded), watch) as advance:
        waits = deque(by_length(encoded.lengths, batch_size))
        while waits:
            indices, failed = waits.popleft(), None
            try:
                loss, count, records = _answers(model, task, encoded, indices, device, pad_id, labelled, predicting)
            except Exception as error:
                if not is_shortage(error) or len(indices) < 2:
                    raise
                failed = error
            if failed is not None:  # half as many at a time; the numbers are the same
                let_go(failed)
                waits.extendleft([indices[len(indices) // 2 :], indices[: len(indices) // 2]])
                continue
            total, units = total + loss, units + count
            for index, record in zip(indices, records, strict=True):
                owner = int(owners[index])
                found = waiting.setdefault(owner, {})
                found[int(index)] = record
                if len(found) == pieces[owner]:
                    del waiting[owner]
                    row = table[owner]
                    answer = task.join([found[i] for i in sorted(found)], row)
                    answers[owner] = answer
                    if labelled:
                        metric.update(answer.value, task.truth(row))
            advance(len(indices))
    model.train(training)
    for empty in np.flatnonzero(pieces == 0).tolist():  # nothing of the row reached the model: what it misses counts
        answers[empty] = task.join([], table[empty])
        if labelled:
            metric.update(answers[empty].value, task.truth(table[empty]))
    metrics = {**metric.compute(), "loss": total / units} if labelled and units else {}
    return Scored({name: float(np.float64(value)) for name, value in metrics.items()}, answers)


def try_longest(
    model: Any, task: Task, encoded: RaggedRows, batch_size: int, device: torch.device, pad_id: int
) -> None:
    """Read the first batch of `evaluate` alone, that of the longest rows: it takes as much memory as any."""
    training = model.training
    model.eval()
    with torch.no_grad():
        _answers(model, task, encoded, by_length(encoded.lengths, batch_size)[0], device, pad_id, True, False)
    model.train(training)


def _answers(
    model: Any,
    task: Any,
    encoded: RaggedRows,
    indices: Any,
    device: torch.device,
    pad_id: int,
    labelled: bool,
    predicting: bool,
) -> tuple[float, float, list[Any]]:
    """Loss (a sum), supervised units and records of a batch."""
    features = [encoded[int(i)] for i in indices]
    batch = {n: t.to(device) for n, t in task.collate(features, pad_id).items()}
    outputs = task.forward(model, batch)
    loss, units = (float(task.loss(outputs, batch)), task.units(batch)) if labelled else (0.0, 0.0)
    return loss, units, list(task.read(model, outputs, batch, features, predicting=predicting))
