"""Bottleneck adapters: a small two-layer network added inside every block.

    h ---> frozen sublayer ---> (+) ---> dropout, residual, norm
                       |         ^
                       `-> W_down, act, W_up      d -> r -> d,   r = d / reduction

    adapter(h) = W_up act(W_down h + b_down) + b_up,     2 d r + r + d parameters each

W_up starts at zero, so the model starts as it was. Placements:
- `houlsby`: after the attention output and after the feed-forward output (Houlsby et al. 2019, section 2.1);
- `pfeiffer`: after the feed-forward output only (Pfeiffer et al. 2021, section 3.2.1, the placement their search found);
- `parallel`: beside the feed-forward network, reading its input, scaled by `scale` (He et al. 2022, section 3.3).

A recurrent layer is one sublayer without a feed-forward network: the adapter follows the layer, or stands beside it. `layers` keeps
to the last N layers.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from tunesmith.errors import TechniqueError
from tunesmith.models.backbone import Backbone, dimensions, role_of
from tunesmith.techniques._base import Technique
from tunesmith.techniques._layers import LayerOptions, last_layers, within

CHILD = "tunesmith_adapter"  # name of the added module inside the linear module it follows


class Options(LayerOptions):
    """Options of bottleneck adapters."""

    placement: Literal["houlsby", "pfeiffer", "parallel"] = Field(
        "houlsby", description="where adapters stand in a block"
    )
    reduction: float = Field(8, ge=1, description="width of the hidden states / width of the bottleneck")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field("gelu", description="between the two maps")
    scale: float = Field(1.0, gt=0, description="factor on what the adapter adds")
    dropout: float = Field(0.0, ge=0, lt=1, description="on what enters the adapter")


class Bottleneck(nn.Module):
    """[..., d] -> [..., d] through r, zero at the start."""

    def __init__(self, width: int, inner: int, activation: str, scale: float, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.up = nn.Linear(inner, width)
        self.activation = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}[activation]()
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """What is added to the sublayer's output, in its dtype."""
        inner = self.activation(self.down(self.dropout(hidden.to(self.down.weight.dtype))))
        return (self.up(inner) * self.scale).to(hidden.dtype)


class Adapter(Technique):
    """Bottleneck adapters on hooks: the model's modules stay what they are."""

    Options = Options
    default_learning_rate = 1e-3

    def attach(self, backbone: Backbone) -> None:
        """Freeze, add one bottleneck a place."""
        backbone.freeze()
        if self.options.placement == "parallel":
            self._attach_parallel(backbone)
            return
        for module, width in self._sites(backbone):
            bottleneck = self._make(module, width)
            module.add_module(CHILD, bottleneck)
            module.register_forward_hook(_add_to_output)

    def _sites(self, backbone: Backbone) -> list[tuple[nn.Module, int]]:
        """Modules that an adapter follows, with the width of their output."""
        layers = last_layers(backbone, self.layers, self.name)
        if backbone.recurrent:
            return [(layer, backbone.hidden_size) for _, layer in layers]
        roles = ("o", "down") if self.options.placement == "houlsby" else ("down",)
        chosen = [module for name, module in backbone.linears(*roles).items() if within(name, layers)]
        return [(module, dimensions(module)[1]) for module in chosen]

    def _pairs(self, backbone: Backbone) -> list[tuple[nn.Module, nn.Module, int]]:
        """(module that reads the feed-forward input, module that writes its output, width) of every block."""
        layers = last_layers(backbone, self.layers, self.name)
        if backbone.recurrent:
            return [(layer, layer, backbone.hidden_size) for _, layer in layers]
        pairs = []
        for prefix, layer in layers:
            named = [(role_of(f"{prefix}.{n}"), m) for n, m in layer.named_modules()]
            first = next((m for role, m in named if role == "up"), None)
            last = next((m for role, m in named if role == "down"), None)
            if first is not None and last is not None:
                pairs.append((first, last, dimensions(first)[0]))
        if not pairs:
            raise TechniqueError(
                f"adapter.placement=parallel needs a feed-forward network in every block, and {type(backbone.model).__name__} "
                "has none that is known; use houlsby."
            )
        return pairs

    def _attach_parallel(self, backbone: Backbone) -> None:
        for first, last, width in self._pairs(backbone):
            last.add_module(CHILD, self._make(last, width))
            box: dict[str, Any] = {}
            first.register_forward_pre_hook(_Keep(box))
            last.register_forward_hook(_AddFromInput(box))

    def _make(self, module: nn.Module, width: int) -> Bottleneck:
        inner = max(1, round(width / self.options.reduction))
        weight = next(module.parameters())
        bottleneck = Bottleneck(width, inner, self.options.activation, self.options.scale, self.options.dropout)
        return bottleneck.to(weight.device)

    def closed_form_count(self, backbone: Backbone) -> int:
        """Sum of 2 d r + r + d over the places."""
        if self.options.placement == "parallel":
            widths = [width for _, _, width in self._pairs(backbone)]
        else:
            widths = [width for _, width in self._sites(backbone)]
        inner = [max(1, round(d / self.options.reduction)) for d in widths]
        return sum(2 * d * r + r + d for d, r in zip(widths, inner, strict=True))


def _add_to_output(module: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
    return output + getattr(module, CHILD)(output)


class _Keep:
    """Pre-hook that remembers what enters the feed-forward network."""

    def __init__(self, box: dict[str, Any]) -> None:
        self.box = box

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.box["input"] = inputs[0]


class _AddFromInput:
    """Hook that adds the adapter of the remembered input to the network's output."""

    def __init__(self, box: dict[str, Any]) -> None:
        self.box = box

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + getattr(module, CHILD)(self.box.pop("input"))
