"""A learning rate for heads: they begin at random and have further to go than pretrained layers, and bend those where they are no quicker (docs/decisions/0012)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from tunesmith.cache.ragged import RaggedRows
    from tunesmith.models.load import Loaded
    from tunesmith.tasks._base import Task

HIGHEST = 5e-3
"""The rate that a fresh head gets of itself, at most."""
STEP = 0.6
"""By how much one step may move an answer of a fresh head: rate x the size of what it reads."""
ROWS = 4


def usual_head_rate(size: float) -> float:
    """The peak rate of a head that begins at random, where nobody gave one: `min(HIGHEST, STEP / size)`, to two digits.

    One step of Adam moves each weight by up to the rate, so an answer `w h` moves by up to `rate |h|_1`. With one rate for all, models whose states are wide or large
    would take steps that undo what the head knew (the rule for the output layer of Yang & Hu 2022, "Tensor Programs V", table 3, has the width in this place). `STEP` is what
    was measured: encoders gain most at 5e-3 and have sizes of about 110; smollm2's states have one of 600, and it bears 1e-3.

    Args:
        size: of the states that the head reads, `|h|_1` (`size_of_states`).
    """
    return float(f"{min(HIGHEST, STEP / max(size, 1e-6)):.1e}")


def size_of_states(task: Task, loaded: Loaded, rows: RaggedRows) -> float:
    """The mean `|h|_1` of what the fresh parameters of a head read, before anything is learned: over a few rows of middling length, the largest of the head's layers.

    The width of the model where the head's input cannot be seen (no rows, or modules that take no tensor).
    """
    found: dict[str, float] = {}
    model, backbone = loaded.model, loaded.backbone
    names = {name.rpartition(".")[0] for name, _ in backbone.head_parameters() if name in backbone.fresh}

    def listen(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].is_floating_point():
                found[name] = float(inputs[0].detach().float().abs().sum(-1).mean())

        return hook

    order = np.argsort(rows.lengths, kind="stable")
    middle = order[max(0, len(order) // 2 - ROWS // 2) :][:ROWS]
    hooks = [model.get_submodule(name).register_forward_pre_hook(listen(name)) for name in sorted(names)]
    training = model.training
    try:
        model.eval()
        device = next(model.parameters()).device
        batch = task.collate([rows[int(i)] for i in middle], int(loaded.tokenizer.pad_token_id))
        with torch.no_grad():
            task.forward(model, {name: tensor.to(device) for name, tensor in batch.items()})
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return max(found.values(), default=float(backbone.hidden_size))


def head_rate(
    asked: float | Literal["auto"] | None, readers: Iterable[tuple[Task, Loaded, RaggedRows]], rate: float
) -> float | None:
    """The rate that heads have at least; None: the run's.

    Args:
        asked: what `training.head_learning_rate` says.
        readers: task, model and features of everything that is learned through a fresh head.
        rate: the run's.
    """
    if asked != "auto":
        return asked
    usual = min((usual_head_rate(size_of_states(*reader)) for reader in readers if rate < HIGHEST), default=0.0)
    return usual if usual > rate else None


def with_head_rate(
    groups: Sequence[Mapping[str, Any]], heads: Collection[str], rate: float | None
) -> list[dict[str, Any]]:
    """Groups with those of a task's head apart and at `rate`, where that is more than what they have.

    A head begins with random numbers, and the rest with pretrained ones. At one rate for both the backbone may bend to the head before that has learned how frequent
    each label is, and end with the same state for every row.

    Args:
        groups: {"names", "lr"}.
        heads: names of parameters of heads.
        rate: peak rate of heads; None: the group's own.
    """
    found: list[dict[str, Any]] = []
    for group in groups:
        head = [name for name in group["names"] if rate is not None and rate > group["lr"] and name in heads]
        rest = [name for name in group["names"] if name not in head]
        found += [{**group, "names": names, "lr": lr} for names, lr in ((rest, group["lr"]), (head, rate)) if names]
    return found
