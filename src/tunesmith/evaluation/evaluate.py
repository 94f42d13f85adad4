"""Metrics of a model on encoded rows, streamed: what is kept is an answer a row, never the logits."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.cache.ragged import RaggedRows
from tunesmith.console import counted
from tunesmith.data.batching import by_length, evaluated_tokens
from tunesmith.evaluation.shortage import is_shortage, let_go
from tunesmith.tasks._base import IGNORED, Answer, Task

SAMPLE = 64  # rows that tell how many tokens are supervised
LOGITS_A_TOKEN = 1 << 14  # of a batch as large as suits the machine


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
    around: AbstractContextManager[Any] | None = None,
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
        around: is entered for the first batch, which takes as much memory as any.
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
        waits = deque(by_length(encoded.lengths, batch_size, tokens_at_a_time(model, task, encoded)))
        while waits:
            indices, failed = waits.popleft(), None
            try:
                with around or nullcontext():
                    loss, count, records = _answers(model, task, encoded, indices, device, pad_id, labelled, predicting)
            except Exception as error:
                if not is_shortage(error) or len(indices) < 2:
                    raise
                failed = error
            around = None
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


def tokens_at_a_time(model: Any, task: Task, encoded: RaggedRows) -> int:
    """Tokens in a batch: what suits the machine, and no more than make so many logits, of which a loss needs three copies.

    Of 4,096 tokens on a CPU that is 2^26 logits (256 MiB in fp32): with a vocabulary of 262,000 one token in 16 may be supervised.
    """
    most = evaluated_tokens()
    head = None if type(task).before_head is Task.before_head else model.get_output_embeddings()
    if head is None or "labels" not in encoded.columns or not len(encoded):
        return most
    rows = [np.asarray(encoded[i]["labels"]) for i in range(0, len(encoded), math.ceil(len(encoded) / SAMPLE))]
    supervised = max(1, sum(int((labels != IGNORED).sum()) for labels in rows)) / max(1, sum(map(len, rows)))
    vocabulary = int(head.weight.shape[0])
    return max(1, min(most, int(most * LOGITS_A_TOKEN / (vocabulary * supervised))))


def try_longest(
    model: Any, task: Task, encoded: RaggedRows, batch_size: int, device: torch.device, pad_id: int
) -> None:
    """Read the first batch of `evaluate` alone, that of the longest rows: it takes as much memory as any."""
    training = model.training
    model.eval()
    with torch.no_grad():
        _answers(
            model,
            task,
            encoded,
            by_length(encoded.lengths, batch_size, tokens_at_a_time(model, task, encoded))[0],
            device,
            pad_id,
            True,
            False,
        )
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
