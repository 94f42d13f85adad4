"""Root mean square norms on a GPU as one kernel each way.

    y = x / sqrt(mean(x^2) + eps) w         w as stored, or 1 + w (Gemma)            (Zhang & Sennrich 2019, section 4)

Models write it as eight operations in fp32, and autograd as a dozen more; torch has it as one. Whether a module is such a norm is tried on
random numbers, not looked up. On a CPU torch's own is these operations too, and nothing changes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import rms_norm

CLOSE = 1e-5  # of numbers around 1, in fp32


def install(model: nn.Module, device: torch.device) -> None:
    """Let every norm of a model that is one run as one kernel (modules keep name, state and what they are an instance of)."""
    if device.type != "cuda":
        return
    for module in model.modules():
        found = kind(module)
        if found is not None:
            module.__class__ = fused(type(module), *found)  # type: ignore[arg-type]


def kind(module: nn.Module) -> tuple[str, float] | None:
    """(the name of its epsilon, what is added to its weight), if a module is a root mean square norm."""
    names = [name for name, _ in module.named_parameters(recurse=False)]
    if names != ["weight"] or isinstance(module, nn.RMSNorm):
        return None
    epsilon = next((name for name in ("variance_epsilon", "eps") if isinstance(getattr(module, name, None), float)), "")
    weight: Any = module.weight
    if not epsilon or weight.dim() != 1 or module._forward_hooks or module._forward_pre_hooks:
        return None
    x = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.device)
    with torch.no_grad():
        wide = weight.detach().float()
        seen = module(x).float()
        for added in (0.0, 1.0):
            told = rms_norm(x, wide.shape, wide + added, getattr(module, epsilon))
            if seen.shape == told.shape and bool((seen - told).abs().max() <= CLOSE * told.abs().max().clamp(min=1.0)):
                return epsilon, added
    return None


@lru_cache(maxsize=64)
def fused(cls: type, epsilon: str, added: float) -> type:
    """A class of norms whose forward pass is one kernel."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        """As the model's own."""
        weight = self.weight + added if added else self.weight
        return rms_norm(hidden_states, weight.shape, weight, getattr(self, epsilon)).to(hidden_states.dtype)

    return type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__})
