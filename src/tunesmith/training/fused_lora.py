"""LoRA beside a frozen weight in one autograd function: what peft computes, in fewer passes over the activations.

    x [n, d], W [m, d], A [r, d], B [m, r], s = alpha / r, x~ = x with dropout, D its mask

    forward    u = s A x~              y = W x + B u                           B u is added by the product itself
    backward   du = s B^T dy           dx = W^T dy + D (A^T du)
               dA = du^T x~            dB = dy^T u                             x~ is made again from x and one byte an element

peft's module holds x~ and scales and adds [n, m] tensors in passes of their own, and autograd adds the two gradients of x in another.

DoRA, with m the magnitudes and g = m / ||W + s B A|| by rows, the norm a constant (Liu et al. 2024, section 4.3):

    forward    h = W x~ + s B A x~         y = W x + b + (g - 1) W x~ + g s B A x~ = g h + b without dropout
    backward   dm = sum_n (dy h) / ||W + s B A||, the rest as LoRA's with g dy in the place of dy

    ||W + s B A||^2 = ||W||^2 + 2 s (W A^T) B + s^2 B (A A^T) B          by rows, in fp32: B A [m, d] is never made

Modules keep their names and state; only their `forward` is another, and it steps aside for whatever it does not know (several adapters,
merged weights, hooks inside, mixed batches).
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from tunesmith.training.dropout import INTEGERS, keep_mask, masked, masked_


class _Beside(torch.autograd.Function):
    """y = W x + b + s B A x~ for a frozen W; the first gradient pass of a step is the only one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
        p: float,
    ) -> torch.Tensor:
        mask = None
        seen = x
        if p:
            mask, more = keep_mask(x, p)
            seen, scale = masked(x, mask), scale * more
        inner = torch.mm(seen, down.t()).mul_(scale)
        found = torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
        found.addmm_(inner, up.t())
        ctx.save_for_backward(x, mask, weight, down, up, inner)
        ctx.scale = scale
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (of_y,) = gradients
        x, mask, weight, down, up, inner = ctx.saved_tensors
        of_inner = torch.mm(of_y, up).mul_(ctx.scale)
        of_down = of_up = of_x = None
        if ctx.needs_input_grad[3]:
            of_down = torch.mm(of_inner.t(), x if mask is None else masked(x, mask))
        if ctx.needs_input_grad[4]:
            of_up = torch.mm(of_y.t(), inner)
        if ctx.needs_input_grad[0]:
            of_x = torch.mm(of_y, weight)
            if mask is None:
                of_x.addmm_(of_inner, down)
            else:
                of_x.add_(masked_(torch.mm(of_inner, down), mask))
        return of_x, None, None, of_down, of_up, None, None


def _norms(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """||W + s B A|| by rows, [m], in fp32 or wider."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    across = torch.mm(weight, down.t()).to(wide)
    down, up = down.to(wide), up.to(wide)
    more = (up * (2 * scale * across + scale * scale * (up @ (down @ down.t())))).sum(1)
    found: torch.Tensor = (torch.linalg.vector_norm(weight, dim=1, dtype=wide).square_() + more).clamp_(min=0).sqrt_()
    return found


class _Scaled(torch.autograd.Function):
    """DoRA: y = W x + b + (g - 1) W x~ + g s B A x~ for a frozen W and a norm that is held constant."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        magnitude: torch.Tensor,
        scale: float,
        p: float,
    ) -> torch.Tensor:
        norms = _norms(weight, down, up, scale)
        factor = (magnitude.to(norms.dtype) / norms).to(x.dtype)
        mask, seen, more = None, x, 1.0
        if p:
            mask, more = keep_mask(x, p)
            seen = masked(x, mask)
        inner = torch.mm(seen, down.t()).mul_(scale * more)
        inside = torch.mm(seen, weight.t())
        if mask is None:
            inside.addmm_(inner, up.t())
            found = inside * factor if bias is None else torch.addcmul(bias, inside, factor)
        else:
            found = torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
            found.sub_(inside.mul_(more))
            found.addcmul_(inside.addmm_(inner, up.t()), factor)
        ctx.save_for_backward(x, mask, weight, down, up, inner, inside, factor, norms)
        ctx.scale, ctx.more = scale, more
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (of_y,) = gradients
        x, mask, weight, down, up, inner, inside, factor, norms = ctx.saved_tensors
        of_down = of_up = of_magnitude = of_x = None
        if ctx.needs_input_grad[5]:
            of_magnitude = ((of_y * inside).sum(0, dtype=norms.dtype) / norms).to(down.dtype)
        of_inside = of_y * factor
        of_inner = torch.mm(of_inside, up).mul_(ctx.scale * ctx.more)
        if ctx.needs_input_grad[3]:
            of_down = torch.mm(of_inner.t(), x if mask is None else masked(x, mask))
        if ctx.needs_input_grad[4]:
            of_up = torch.mm(of_inside.t(), inner)
        if ctx.needs_input_grad[0]:
            if mask is None:
                of_x = torch.mm(of_inside, weight).addmm_(of_inner, down)
            else:
                of_x = torch.mm(of_inside.sub_(of_y).mul_(ctx.more), weight).addmm_(of_inner, down)
                of_x = masked_(of_x, mask).addmm_(of_y, weight)
        return of_x, None, None, of_down, of_up, of_magnitude, None, None


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _magnitudes(module: Any, name: str) -> torch.Tensor | None:
    """What DoRA multiplies with, if that is what a module does."""
    from peft.tuners.lora.variants import DoraLinearVariant

    if type(module.lora_variant.get(name)) is not DoraLinearVariant or module.fan_in_fan_out:
        return None
    layer = module.lora_magnitude_vector[name]
    found: torch.Tensor | None = None if _hooked(layer) else layer.weight
    return found


def _beside(module: Any, x: torch.Tensor) -> torch.Tensor | None:
    """What a peft LoRA module gives for x; None where something about it is unknown here."""
    names, base = module.active_adapters, module.base_layer
    if module.disable_adapters or module.merged or len(names) != 1 or names[0] not in module.lora_A:
        return None
    name = names[0]
    if type(base) is not nn.Linear or any(p.requires_grad for p in base.parameters()):
        return None
    magnitudes = _magnitudes(module, name)
    if name in module.lora_variant and magnitudes is None:
        return None
    down, up, dropout = module.lora_A[name], module.lora_B[name], module.lora_dropout[name]
    if any(type(each) is not nn.Linear or each.bias is not None for each in (down, up)):
        return None
    if any(map(_hooked, (base, down, up, dropout))):
        return None
    learned = (down.weight, up.weight) if magnitudes is None else (down.weight, up.weight, magnitudes)
    if any(each.dtype != x.dtype for each in (base.weight, *learned)) or x.dtype not in INTEGERS:
        return None
    p = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    if p >= 1.0 or not isinstance(dropout, nn.Dropout | nn.Identity):
        return None
    flat = x.reshape(-1, x.shape[-1])
    function = _Beside if magnitudes is None else _Scaled
    found: torch.Tensor = function.apply(flat, base.weight, base.bias, *learned, float(module.scaling[name]), p)
    return found.view(*x.shape[:-1], found.shape[-1])


@lru_cache(maxsize=1)
def _classes() -> tuple[type, type]:
    """Peft's module and the one that takes its place; peft is imported where LoRA is used."""
    from peft.tuners.lora.layer import Linear

    class FusedLinear(Linear):
        """`Linear` of peft with another way to the same result."""

        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            """As peft's."""
            plain = args or kwargs or not torch.is_grad_enabled() or torch.compiler.is_compiling()
            found = None if plain else _beside(self, x)
            return super().forward(x, *args, **kwargs) if found is None else found

    return Linear, FusedLinear


def install(model: nn.Module) -> None:
    """Let every LoRA module on a linear layer of a model run in fewer passes."""
    if "peft.tuners.lora.layer" not in sys.modules:  # no such module without it, and a second to import
        return
    plain, fused = _classes()
    for module in model.modules():
        if type(module) is plain:
            module.__class__ = fused
