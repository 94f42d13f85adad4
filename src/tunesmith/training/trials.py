"""What works in a model, technique included, tried on two short rows instead of looked up in a list of architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tunesmith.cache.ragged import RaggedRows
from tunesmith.models.backbone import Backbone
from tunesmith.tasks._base import IGNORED, Batch, Features, Task
from tunesmith.tasks._chunked import nothing_behind
from tunesmith.techniques._base import Technique
from tunesmith.training.attention import attention_kernel
from tunesmith.training.lower_layers import LowerLayers, cut, place

CLOSE = 1e-4  # of the loss: fp32 sums in another order; what is wrong is far above
CLOSE_IN_HALF = 1e-2  # of a gradient in bf16, whose sums some GPU kernels take in an order of their own
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)


def packing_works(task: Task, model: Any, rows: RaggedRows, pad_id: int, device: torch.device) -> bool:
    """Whether packed documents do not see each other.

    Architectures build the mask of packed documents from `position_ids`, and those that do not (or a technique that takes
    positions of its own) give other scores than the documents alone.
    """
    pair = _short(rows)
    if not task.packs or len(pair) < 2:
        return False
    return _same(
        model,
        lambda: _loss(task, model, _batch(task, pair, pad_id, device)),
        lambda: _loss(task, model, _batch(task, [task.pack(pair)], pad_id, device)),
    )


def lean_loss_works(task: Task, model: Any, rows: RaggedRows, pad_id: int, device: torch.device) -> bool:
    """Whether logits may be made a chunk at a time from what the output layer reads (`Task.before_head`): they are the same, and so is the loss.

    They are not where a model does something to the logits behind its output layer (a soft cap, a scale, a bias of its own).
    """
    if type(task).before_head is Task.before_head:
        return False
    batch = _batch(task, _short(rows) or [rows[0]], pad_id, device)
    return _same(model, lambda: task.lean_loss(model, batch), lambda: _loss(task, model, batch)) and _tried(
        model, lambda: nothing_behind(task, model, batch)
    )


def stored_states_work(
    task: Task, technique: Technique, backbone: Backbone, rows: RaggedRows, pad_id: int, lower: LowerLayers
) -> bool:
    """Whether a training step, dropout and all, gives the same loss and gradient from stored states as from the rows.

    It does not where a lower layer hands more on than its states (T5's relative positions), where something below the boundary learns, or
    where it draws dropout outside of any module of its own (BART).
    """
    order = np.argsort(rows.lengths, kind="stable")
    order = order[rows.lengths[order] > 2]
    if not len(order):
        return False
    longer = order[rows.lengths[order] > rows.lengths[order[0]]]  # so that one of the rows is padded, if any row can be
    pair: list[Features] = [rows[int(i)] for i in (order[0], *longer[:1])]
    batch, model = _batch(task, pair, pad_id, lower.device), backbone.model

    def step() -> tuple[float, dict[str, torch.Tensor]]:
        torch.manual_seed(0)  # the same dropout
        with attention_kernel(lower.device):
            loss = _loss(task, model, batch)
            loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        return float(loss.detach()), gradients

    training = model.training
    devices = [lower.device] if lower.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            model.eval()
            lengths = [len(each["input_ids"]) for each in pair]
            pieces = cut(lower.look(task, batch), batch, lengths)
            technique.set_training(backbone)
            loss, gradients = step()
            lower.install()
            lower.states = place([[piece] for piece in pieces], batch).to(lower.device)
            other, others = step()
    except FAILURES:
        return False
    finally:
        lower.remove()
        model.zero_grad(set_to_none=True)
        model.train(training)
    if gradients.keys() != others.keys() or abs(loss - other) > CLOSE * max(1.0, abs(loss)):
        return False
    bound = CLOSE if lower.dtype == torch.float32 else CLOSE_IN_HALF
    norm = torch.stack([g.float().norm() for g in gradients.values()]).norm()
    apart = torch.stack([(gradients[n].float() - others[n].float()).norm() for n in gradients]).norm()
    return bool(norm > 0 and apart <= bound * norm)  # two rows that ask nothing say nothing


def _short(rows: RaggedRows) -> list[Features]:
    """The first 64 positions of the two shortest rows of at least three tokens; all of them where the first 64 have no label."""
    shortest = np.argsort(rows.lengths, kind="stable")
    pair: list[Features] = [rows[int(i)] for i in shortest[rows.lengths[shortest] > 2][:2]]
    cut = ("input_ids", "labels")
    lists = [np.asarray(each["labels"]) for each in pair if "labels" in each]
    if any(labels.ndim and bool((labels[:64] == IGNORED).all()) for labels in lists):
        return pair
    return [{n: v[:64] if n in cut and np.ndim(v) else v for n, v in each.items()} for each in pair]


def _batch(task: Task, features: list[Features], pad_id: int, device: torch.device) -> Batch:
    return {name: tensor.to(device) for name, tensor in task.collate(features, pad_id).items()}


def _loss(task: Task, model: Any, batch: Batch) -> torch.Tensor:
    return task.loss(task.forward(model, batch), batch)


def _same(model: Any, *ways: Callable[[], torch.Tensor | None]) -> bool:
    """Whether all ways exist and give the same loss in evaluation mode."""

    def alike() -> bool:
        losses: list[float] = []
        for way in ways:
            loss = way()
            if loss is None:
                return False
            losses.append(float(loss))
        return abs(losses[0] - losses[1]) <= CLOSE * max(1.0, abs(losses[0]))

    return _tried(model, alike)


def _tried(model: Any, holds: Callable[[], bool]) -> bool:
    """Whether something holds in evaluation mode; what cannot be computed does not."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return holds()
    except FAILURES:
        return False
    finally:
        model.train(training)
