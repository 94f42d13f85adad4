"""Metrics of a model on encoded rows, streamed: what is kept is a prediction a row, never the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.cache.ragged import RaggedRows
from tunesmith.console import progress
from tunesmith.data.batching import by_length
from tunesmith.tasks._base import Task


@dataclass
class Scored:
    """Metrics, and each row's prediction and score in the order of the rows."""

    metrics: dict[str, float]
    predicted: list[Any]
    scores: list[Any]


def evaluate(
    model: Any,
    task: Task,
    rows: RaggedRows,
    *,
    batch_size: int,
    device: torch.device,
    pad_id: int,
    title: str = "evaluate",
) -> Scored:
    """Score a model on rows in evaluation mode; `loss` is the mean over supervised units.

    Rows without labels give predictions and no metrics.
    """
    metric = task.metric()
    labelled = "labels" in rows.columns
    total, units = 0.0, 0.0
    predicted: list[Any] = [None] * len(rows)
    scores: list[Any] = [None] * len(rows)
    training = model.training
    model.eval()
    with torch.no_grad(), progress() as bar:
        shown = bar.add_task(title, total=len(rows))
        for indices in by_length(rows.lengths, batch_size):
            batch = {n: t.to(device) for n, t in task.collate([rows[int(i)] for i in indices], pad_id).items()}
            outputs = model(**task.model_inputs(batch))
            values, certainty = task.decode(outputs, batch)
            if labelled:
                total += float(task.loss(outputs, batch))
                units += task.units(batch)
                metric.update(values, task.truth(batch))
            for place, index in enumerate(indices):
                predicted[index], scores[index] = values[place], certainty[place]
            bar.advance(shown, len(indices))
    model.train(training)
    metrics = {**metric.compute(), "loss": total / units} if labelled and len(rows) else {}
    return Scored({name: float(np.float64(value)) for name, value in metrics.items()}, predicted, scores)
