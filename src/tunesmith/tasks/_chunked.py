"""Losses over a large vocabulary, some positions at a time, their gradients made on the way forward.

    z = W h + b         [c, V] for c of the n positions at a time
    loss += f(z)        dz = f'(z)          dh = dz W          dW += dz^T h          db += sum dz

A chunk's logits are let go with it, so that nothing of size [n, V] exists at any time: of a vocabulary of 262,000 tokens a plain
cross-entropy holds four such tensors, and a divergence from a teacher more. The backward pass multiplies what was made by a number.

    cross-entropy   f = sum_i logsumexp(z_i) - z_i[y_i],  dz = softmax(z) - onehot(y), which overwrites z
    any other f     dz from autograd, within the chunk
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

NUMBERS = 1 << 23  # logits in a chunk: 32 MiB in fp32
FEWEST = 128  # positions in a chunk: the weight is read again for each

CLOSE = 1e-4  # of the largest logit: sums in another order
LOUD = 100.0  # what logits are also tried at: a soft cap hardly bends those of a model that is not trained

LossOf = Callable[[torch.Tensor, slice], torch.Tensor]
"""From the logits of some positions, and which those are, to their loss, summed."""


@dataclass(frozen=True)
class BeforeHead:
    """What a language model's output layer would read at the positions that have a label.

    Attributes:
        states: [n, d].
        head: the output layer, [V, d] and a bias if it has one.
        labels: a token id for each position, [n].
    """

    states: torch.Tensor
    head: nn.Linear
    labels: torch.Tensor


class _Made:
    """Gradients of states, weight and bias, chunk after chunk; None for what does not learn."""

    def __init__(
        self, wanted: Sequence[bool], states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        self.inputs, self.weight = states, weight
        self.of_states = torch.empty_like(states) if wanted[0] else None
        self.of_weight = torch.zeros_like(weight) if wanted[1] else None
        self.of_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None

    def add(self, gradient: torch.Tensor, places: slice) -> None:
        """The gradient of a chunk's logits, [c, V], goes on to what they were made of."""
        if self.of_states is not None:
            torch.mm(gradient, self.weight, out=self.of_states[places])
        if self.of_weight is not None:
            self.of_weight.addmm_(gradient.t(), self.inputs[places])
        if self.of_bias is not None:
            self.of_bias += gradient.sum(0)

    def done(self) -> list[torch.Tensor | None]:
        """The gradients, with nothing else held."""
        return [self.of_states, self.of_weight, self.of_bias]


def _logits(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, made: torch.Tensor) -> torch.Tensor:
    """W h + b of a chunk, written into a buffer."""
    out = made[: len(states)]
    return torch.mm(states, weight.t(), out=out) if bias is None else torch.addmm(bias, states, weight.t(), out=out)


def _chunks(count: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


class _Sum(torch.autograd.Function):
    """Cross-entropy summed over positions."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, rows: int
    ) -> torch.Tensor:
        total = states.new_zeros((), dtype=torch.float32)
        gradients = _Made(ctx.needs_input_grad, states, weight, bias)
        # Two buffers serve all chunks: fresh blocks of this size cost a page fault for every 4 KiB of them.
        full = torch.promote_types(weight.dtype, torch.float32)
        made = weight.new_empty(min(rows, len(states)), weight.shape[0])
        wide = made if weight.dtype == full else made.new_empty(made.shape, dtype=full)
        for places in _chunks(len(states), rows):
            truth = labels[places, None]
            narrow = _logits(states[places], weight, bias, made)
            logits = wide[: len(truth)]
            if narrow.dtype != full:
                logits.copy_(narrow)
            top = logits.amax(1, keepdim=True)
            right = logits.gather(1, truth) - top
            sums = logits.sub_(top).exp_().sum(1, keepdim=True)
            total += (sums.log() - right).sum()
            if not any(ctx.needs_input_grad[:3]):
                continue
            logits.mul_(1.0 / sums).scatter_add_(1, truth, torch.full_like(top, -1.0))
            gradients.add(narrow.copy_(logits) if narrow.dtype != full else logits, places)
        ctx.made = gradients.done()
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return (*_multiplied(ctx, *gradients), None, None)


class _Any(torch.autograd.Function):
    """A loss of logits summed over positions, differentiated chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, loss_of: LossOf, rows: int
    ) -> torch.Tensor:
        total = states.new_zeros((), dtype=torch.float32)
        gradients = _Made(ctx.needs_input_grad, states, weight, bias)
        made = weight.new_empty(min(rows, len(states)), weight.shape[0])
        for places in _chunks(len(states), rows):
            logits = _logits(states[places], weight, bias, made).detach().requires_grad_()
            with torch.enable_grad():
                loss = loss_of(logits, places)
            total += loss.detach()
            gradients.add(torch.autograd.grad(loss, logits)[0], places)
            del logits, loss  # before the next chunk's are made
        ctx.made = gradients.done()
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return (*_multiplied(ctx, *gradients), None, None)


def _multiplied(ctx: Any, factor: torch.Tensor) -> list[torch.Tensor | None]:
    made, ctx.made = ctx.made, None
    return [None if each is None else each.mul_(factor.to(each.dtype)) for each in made]


def chunked_cross_entropy(
    states: torch.Tensor, head: nn.Linear, labels: torch.Tensor, rows: int | None = None
) -> torch.Tensor:
    """Cross-entropy of `head(states)` against labels, summed over positions, in fp32; once differentiable.

    Args:
        states: what the output layer reads, [n, d].
        head: the output layer, [V, d] and a bias if it has one.
        labels: a token id for each position, [n].
        rows: positions in a chunk (default: as many as make 32 MiB of logits, and at least 128).
    """
    found: torch.Tensor = _Sum.apply(states, head.weight, head.bias, labels, rows or positions(head))
    return found


def chunked(states: torch.Tensor, head: nn.Linear, loss_of: LossOf, rows: int | None = None) -> torch.Tensor:
    """The sum of `loss_of` over chunks of `head(states)`, in fp32; once differentiable, through states and the layer alone.

    Args:
        states: what the output layer reads, [n, d].
        head: the output layer, [V, d] and a bias if it has one.
        loss_of: from logits [c, V] and their places among the n to their loss, a scalar that depends on the logits.
        rows: positions in a chunk (default: as many as make 32 MiB of logits, and at least 128).
    """
    rows = rows or positions(head)
    if torch.is_grad_enabled():
        found: torch.Tensor = _Any.apply(states, head.weight, head.bias, loss_of, rows)
        return found
    total = states.new_zeros((), dtype=torch.float32)
    for places in _chunks(len(states), rows):
        total += loss_of(head(states[places]), places)
    return total


def positions(head: nn.Linear) -> int:
    """How many there are in a chunk."""
    return max(FEWEST, NUMBERS // head.weight.shape[0])


def logits_by_group(found: BeforeHead, counts: Sequence[int]) -> Iterator[torch.Tensor]:
    """The logits of groups of positions, one after the other, made for as many whole groups at a time as fit a chunk.

    Args:
        found: of all positions.
        counts: positions in each group.
    """
    most, first, start = positions(found.head), 0, 0
    while first < len(counts):
        last, size = first + 1, counts[first]
        while last < len(counts) and size + counts[last] <= most:
            size += counts[last]
            last += 1
        yield from found.head(found.states[start : start + size]).split(list(counts[first:last]))
        first, start = last, start + size


def plain_head(model: Any) -> nn.Linear | None:
    """The output layer, if it is a linear module that nothing was hung on (no LoRA beside it, no few bits, no hooks)."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or not head.weight.is_floating_point():
        return None
    hooks = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks)
    return None if any(hooks) else head


@contextmanager
def states_at(head: nn.Linear, mask: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Inside, the output layer multiplies nothing: it hands over what it would read at `mask` [B, T], as [n, d]."""
    seen: list[torch.Tensor] = []

    def take(states: torch.Tensor) -> torch.Tensor:
        seen.append(states[mask])
        return states.new_zeros(1, 1)

    head.forward = take  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        del head.forward


@contextmanager
def times(head: nn.Linear, factor: float) -> Iterator[None]:
    """Inside, what the output layer says is multiplied."""
    handle = head.register_forward_hook(lambda module, args, output: factor * output)
    try:
        yield
    finally:
        handle.remove()


def nothing_behind(task: Any, model: Any, batch: Any) -> bool:
    """Whether the logits that a task sees are what the output layer makes of its states, tried on a batch in evaluation mode.

    They are not where a model does something behind its output layer (a soft cap, a scale, a bias of its own). What cannot be tried is not.
    """
    try:
        found = task.before_head(model, batch)
        if found is None or not len(found.states):
            return False
        made = found.head(found.states)
        for factor in (1.0, LOUD):
            with times(found.head, factor):
                seen = task.distribution(task.forward(model, batch), batch)
            most = CLOSE * factor * made.abs().max()
            if seen.shape != made.shape or not bool((seen - factor * made).abs().max() <= most):
                return False
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True
