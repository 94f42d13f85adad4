"""Cross-entropy of an output layer over a large vocabulary, some positions at a time, its gradient made on the way forward.

    z = W h + b         [c, V] for c of the n positions at a time
    loss += sum_i logsumexp(z_i) - z_i[y_i]
    dz = softmax(z) - onehot(y)          dh = dz W          dW += dz^T h          db += sum dz

Logits are overwritten by their own gradient and let go with their chunk, so that nothing of size [n, V] exists at any time: of a vocabulary
of 262,000 tokens a plain cross-entropy holds four such tensors. The backward pass multiplies what was made by a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

NUMBERS = 1 << 23  # logits in a chunk: 32 MiB in fp32
FEWEST = 128  # positions in a chunk: the weight is read again for each


class _Sum(torch.autograd.Function):
    """Cross-entropy summed over positions."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, rows: int
    ) -> torch.Tensor:
        total = states.new_zeros((), dtype=torch.float32)
        of_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        # Two buffers serve all chunks: fresh blocks of this size cost a page fault for every 4 KiB of them.
        full = torch.promote_types(weight.dtype, torch.float32)
        made = weight.new_empty(min(rows, len(states)), weight.shape[0])
        wide = made if weight.dtype == full else made.new_empty(made.shape, dtype=full)
        for start in range(0, len(states), rows):
            part, truth = states[start : start + rows], labels[start : start + rows, None]
            logits, narrow = wide[: len(part)], made[: len(part)]
            if bias is None:
                torch.mm(part, weight.t(), out=narrow)
            else:
                torch.addmm(bias, part, weight.t(), out=narrow)
            if narrow.dtype != full:
                logits.copy_(narrow)
            top = logits.amax(1, keepdim=True)
            right = logits.gather(1, truth) - top
            sums = logits.sub_(top).exp_().sum(1, keepdim=True)
            total += (sums.log() - right).sum()
            if of_states is None and of_weight is None and of_bias is None:
                continue
            logits.mul_(1.0 / sums).scatter_add_(1, truth, torch.full_like(top, -1.0))
            gradient = narrow.copy_(logits) if narrow.dtype != full else logits
            if of_states is not None:
                torch.mm(gradient, weight, out=of_states[start : start + rows])
            if of_weight is not None:
                of_weight.addmm_(gradient.t(), part)
            if of_bias is not None:
                of_bias += gradient.sum(0)
        ctx.made = of_states, of_weight, of_bias
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (factor,) = gradients
        made = [None if each is None else each.mul_(factor.to(each.dtype)) for each in ctx.made]
        ctx.made = None
        return (*made, None, None)


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
    rows = rows or max(FEWEST, NUMBERS // head.weight.shape[0])
    found: torch.Tensor = _Sum.apply(states, head.weight, head.bias, labels, rows)
    return found


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
