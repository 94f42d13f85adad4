"""AdamW over named groups and the learning-rate schedules, as functions of the step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from tunesmith.config import TrainingOptions

DECADES = 5.0
"""How many a range test goes through (`range_test`)."""


def make_optimizer(
    groups: list[dict[str, Any]], tensors: Mapping[str, torch.Tensor], options: TrainingOptions
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); vectors (biases, norms, scales) are not decayed.

    Args:
        groups: {"names", "lr"} from the technique.
        tensors: what is optimised, by name.
        options: decay, betas, epsilon.
    """
    built = []
    for group in groups:
        for decayed in (True, False):
            chosen = [tensors[n] for n in group["names"] if (tensors[n].dim() > 1) == decayed]
            if chosen:
                built.append(
                    {
                        "params": chosen,
                        "lr": group["lr"],
                        "peak": group["lr"],
                        "weight_decay": options.weight_decay if decayed else 0.0,
                    }
                )
    device = next(iter(tensors.values())).device.type
    return torch.optim.AdamW(
        built, betas=(options.beta1, options.beta2), eps=options.epsilon, fused=device in ("cpu", "cuda")
    )


def factor(step: int, total: int, options: TrainingOptions) -> float:
    """Share of the peak rate at an optimiser step (0-based): linear warm-up, then the schedule down to 0."""
    if options.schedule == "range":
        return float(10.0 ** (-DECADES * (1 - step / max(1, total - 1))))
    warm = options.warmup * total if options.warmup < 1 else options.warmup
    warm = min(math.ceil(warm), total)
    if step < warm:
        return (step + 1) / warm
    if options.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, total - warm)
    return 1.0 - done if options.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Set every group to its share of its peak; returns the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    return float(optimizer.param_groups[0]["lr"])
