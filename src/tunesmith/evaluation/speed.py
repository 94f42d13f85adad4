"""How fast models read the same rows: the time of one row alone, and rows a second in full batches.

Models take turns, row by row and batch by batch, so that whatever else the machine does meets all of them alike; the middle value counts,
because a few slow passes say something about the machine and not about the model. Rows are encoded before the clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from tunesmith.cache.ragged import RaggedRows

SINGLE, BATCHES = 20, 3  # rows timed alone, and batches timed
WARM = 2  # passes before the clock starts
PATIENCE, LEAST = 20.0, 2  # seconds after which no further turn begins, once there were so many


@dataclass(frozen=True)
class Runner:
    """A model with rows as it reads them."""

    model: Any
    task: Any
    encoded: RaggedRows
    pad_id: int
    rows: int

    @property
    def pieces(self) -> float:
        """Features a row: a long row is several windows."""
        return len(self.encoded) / self.rows

    def batch(self, first: int, count: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Some features as one batch, from the start again behind the last."""
        total = len(self.encoded)
        features = [self.encoded[(first + i) % total] for i in range(min(count, total))]
        return {name: tensor.to(device) for name, tensor in self.task.collate(features, self.pad_id).items()}

    def seconds(self, batch: dict[str, torch.Tensor], device: torch.device) -> float:
        """Of one forward pass."""
        _wait(device)
        started = time.perf_counter()
        self.task.forward(self.model, batch)
        _wait(device)
        return time.perf_counter() - started


def race(runners: Mapping[str, Runner], batch_size: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Each model's `latency_seconds` (one row) and `rows_per_second` (in batches of `batch_size`), in evaluation mode.

    Args:
        runners: models by name, with the same rows.
        batch_size: rows of a full batch.
        device: where the models are.
    """
    states = {name: runner.model.training for name, runner in runners.items()}
    alone: dict[str, list[float]] = {name: [] for name in runners}
    full: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner.model.eval()
    with torch.no_grad():
        for times, count, passes in ((alone, 1, SINGLE), (full, batch_size, BATCHES)):
            began = time.perf_counter()
            for number in range(-WARM, passes):
                if number >= LEAST and time.perf_counter() - began > PATIENCE:
                    break
                for name, runner in runners.items():
                    batch = runner.batch(max(number, 0) * count, count, device)
                    spent = runner.seconds(batch, device)
                    if number >= 0:
                        times[name].append(spent / len(batch["input_ids"]) * runner.pieces)
    for name, runner in runners.items():
        runner.model.train(states[name])
    return {
        name: {"latency_seconds": median(alone[name]), "rows_per_second": 1 / median(full[name])} for name in runners
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
