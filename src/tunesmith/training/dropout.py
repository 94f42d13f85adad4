"""Dropout from 16 random bits an element instead of one Bernoulli draw each: the same noise, faster on a CPU.

torch draws Bernoulli samples one after the other (about 5 ns each); with dropout on every hidden state and every LoRA
input that was a third of a step. One 64-bit draw serves four elements here, and integers do the rest, because they are vectorised where
booleans are not (a product with a boolean mask takes twenty times as long as a bitwise and):

    keep = -1 if bits < (1 - p) 2^15 else 0        15 random bits, from an integer shift of 16
    y = (x as integer) & keep                      x or zero
    y = y / P(keep)

P(keep) is what the rounded threshold gives, so the mean is exact; p itself is met within 1 / 2^16. The mask is kept as one byte an element.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

STEPS = 1 << 15
INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}
"""As wide as the floats that they mask."""


def keep_mask(x: torch.Tensor, p: float) -> tuple[torch.Tensor, float]:
    """A mask of x's shape for `masked`, and the scale that keeps the mean.

    Args:
        x: whose elements are dropped, of one of the dtypes of `INTEGERS`.
        p: probability of dropping one, below 1.

    Returns:
        (-1 where an element is kept, else 0, as int8; 1 / P(keep)).
    """
    kept = max(round((1.0 - p) * STEPS), 1)
    if x.device.type == "cpu":
        bits = (
            torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
            .random_(-(1 << 63), None)
            .view(torch.int16)[: x.numel()]
        )
        bits = bits.bitwise_right_shift_(1).sub_(kept - STEPS // 2).bitwise_right_shift_(15)  # nothing overflows
        mask = bits.view(x.shape).to(torch.int8)
    else:
        mask = -torch.empty(x.shape, dtype=torch.int8, device=x.device).bernoulli_(kept / STEPS)
    return mask, STEPS / kept


def masked(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What the mask keeps of x, and zeros; no gradient."""
    integers = INTEGERS[x.dtype]
    return (x.view(integers) & mask.to(integers)).view(x.dtype)


def masked_(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`masked` in place."""
    integers = INTEGERS[x.dtype]
    x.view(integers).bitwise_and_(mask.to(integers))
    return x


class _Masked(torch.autograd.Function):
    """x & mask * scale, keeping one byte an element for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return masked(x, mask).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        return masked(gradient, mask).mul_(ctx.scale), None, None


class FastDropout(nn.Dropout):
    """`nn.Dropout` with cheap random bits on the CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Zero elements with probability p while training."""
        plain = self.inplace or input.device.type != "cpu" or input.dtype not in INTEGERS or self.p >= 1.0
        if not self.training or self.p == 0.0 or plain or torch.compiler.is_compiling():
            return super().forward(input)
        return _Masked.apply(input, *keep_mask(input, self.p))


def install(model: nn.Module) -> None:
    """Let every plain dropout of a model draw cheap bits (the modules stay `nn.Dropout` in name and state)."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout
