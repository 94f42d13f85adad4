"""Tables of what teachers said, as the tensors that a batch needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.objectives._divergences import FLOOR, Choices


def gather(tables: Any, places: Any, name: str, device: torch.device) -> torch.Tensor:
    """A column of several features, one after the other."""
    return torch.from_numpy(np.concatenate([np.atleast_1d(tables.columns[name][int(i)]) for i in places])).to(device)


def choices(tables: Any, places: Any, task: Any, batch: Mapping[str, torch.Tensor], temperature: float) -> Choices:
    """What a teacher said of the decisions of a batch.

    Args:
        tables: from `_outputs.told`.
        places: the batch's features.
        task: what they are for.
        batch: as the student reads it.
        temperature: of the comparison; tables of the likeliest tokens were made at it.
    """
    device = batch["input_ids"].device
    if task.aligned_by == "character":
        return Choices(borders([tables.columns["logp"][int(i)] for i in places], batch["candidates"], temperature))
    log_p = gather(tables, places, "logp", device).float()
    if "ids" not in tables.columns:
        return Choices((log_p / temperature).log_softmax(-1))
    rest = gather(tables, places, "rest", device).float()
    return Choices(log_p, gather(tables, places, "ids", device).long(), rest)


def borders(found: Sequence[Any], candidates: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities of start and end over the positions of each window, [2 B, T], as `Task.distribution` lays them out."""
    table = torch.full((*candidates.shape, 2), -float("inf"))
    for i, each in enumerate(found):
        table[i, : len(each)] = torch.from_numpy(np.array(each, np.float32)).clamp(min=FLOOR)
    table = (table.to(candidates.device) / temperature).masked_fill(~candidates[..., None], -float("inf"))
    return table.log_softmax(1).transpose(1, 2).flatten(0, 1)


def shares(task: Any, batch: Mapping[str, torch.Tensor], count: int) -> torch.Tensor:
    """How much of a supervised unit every decision is, [count]: one of several labels of a row, or of two borders, is a part of one."""
    device = batch["input_ids"].device
    if task.aligned_by == "character":
        weights = batch.get("weights", torch.ones(count // 2, device=device))
        return weights.float().repeat_interleave(2) / 2
    rows = len(batch["input_ids"]) if task.aligned_by == "row" else count
    return torch.full((count,), rows / max(count, 1), device=device)
