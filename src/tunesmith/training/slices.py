"""The share of a forward pass that a process of a group takes, and what the shares add up to."""

from __future__ import annotations

from dataclasses import replace

import torch

from tunesmith.training.feed import Pass
from tunesmith.training.group import Alone
from tunesmith.training.precision import Masters


def share(each: Pass, number: int, group: Alone) -> Pass | None:
    """The rows of a pass that this process runs; None if there are none for it.

    Its rows are every n-th one, because a pass is sorted by length, and the first row goes to another process from pass to pass. Where
    parameters are sharded every process must run every pass, so one without rows of its own runs a row that counts for nothing.

    Args:
        each: the whole pass.
        number: which one of the step.
        group: whose processes share it.
    """
    if group.size == 1:
        return each
    rows = len(next(iter(each.batch.values())))
    first = (group.rank - number) % group.size
    mine = torch.arange(first, rows, group.size)
    idle = not len(mine)
    if idle and not group.shards:
        return None
    if idle:
        mine = torch.zeros(1, dtype=torch.long)
    return replace(
        each,
        batch={name: tensor[mine.to(tensor.device)] for name, tensor in each.batch.items()},
        states=None if each.states is None else each.states[mine.to(each.states.device)],
        idle=idle,
    )


def add_up(masters: Masters, group: Alone) -> None:
    """Gradients over all processes: what got one in any of them has it in all."""
    if group.size == 1:
        return
    whole = {
        name: each for name, each in masters.tensors.items() if name not in masters.shards
    }  # those were on the way back
    anywhere = group.any(*(tensor.grad is not None for tensor in whole.values()))
    found = []
    for (name, tensor), present in zip(whole.items(), anywhere, strict=True):
        if present:
            if tensor.grad is None:
                masters.set_gradient(name, torch.zeros_like(tensor))
            assert tensor.grad is not None
            found.append(tensor.grad)
    group.add(found)
