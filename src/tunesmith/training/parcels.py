"""What processes send each other: tensors of one dtype a bucketful at a time, and a nested state as its plan and its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

BUCKET = 2**23
"""Numbers that are added up at once: copies of them are all that it takes beside the gradients."""


def buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors of one dtype, a bucketful at a time (a larger one alone)."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[torch.Tensor] = []
        for tensor in (each for each in tensors if each.dtype == dtype):
            if bucket and sum(each.numel() for each in bucket) + tensor.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        if bucket:
            yield bucket


class Place(tuple[torch.dtype, torch.Size]):
    """Where a tensor comes: its dtype and shape."""


def plan(state: Any, tensors: list[torch.Tensor]) -> Any:
    """The same with places for tensors, which are put aside in order."""
    if isinstance(state, torch.Tensor):
        tensors.append(state.detach().cpu().contiguous())
        return Place((state.dtype, state.shape))
    if isinstance(state, Mapping):
        return {name: plan(value, tensors) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(plan(value, tensors) for value in state)
    return state


def filled(plan: Any, tensors: list[torch.Tensor]) -> Any:
    """The state of a plan, with empty tensors that are listed in order."""
    if isinstance(plan, Place):
        tensors.append(torch.empty(plan[1], dtype=plan[0]))
        return tensors[-1]
    if isinstance(plan, dict):
        return {name: filled(value, tensors) for name, value in plan.items()}
    if isinstance(plan, (list, tuple)):
        return type(plan)(filled(value, tensors) for value in plan)
    return plan
