r"""Synaptic intelligence: importance is how much a parameter's way lowered the loss (Zenke, Poole & Ganguli 2017, equations 3 to 5).

    omega_i = - sum_t g_i(t) (theta_i(t + 1) - theta_i(t))         the path integral of the gradient along training
    Omega_i += max(omega_i, 0) / (Delta_i^2 + damping)             Delta: the way of the whole stage
    penalty = strength * sum_i Omega_i (theta_i - theta*_i)^2

g is the raw gradient of the task's loss, before penalty and clipping. It costs nothing but memory: three numbers a parameter. With
a pretrained model whose ways are short the damping decides the scale, so it is small against typical Delta^2; by default Omega is
scaled to a mean of 1 after each stage, as EWC's Fisher is. It is more unevenly spread than that: with a strength of 0.1 nothing new was
learned any more, and 0.001 scored best of five on held-out rows, on others as well as 0.01 (benchmarks/strategy_strength.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from tunesmith.config import Options as BaseOptions
from tunesmith.continual._base import Strategy


class Options(BaseOptions):
    """Options of synaptic intelligence."""

    strength: float = Field(0.01, ge=0, description="factor of the penalty")
    damping: float = Field(
        1e-6, gt=0, description="added to the squared way, so that a parameter that stood still gets none"
    )
    normalise: bool = Field(True, description="scale each stage's importance to a mean of 1 over the parameters")


class SynapticIntelligence(Strategy):
    """A spring from every parameter to its place after the last stage, as stiff as its share in lowering the losses."""

    Options = Options

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.importance: dict[str, torch.Tensor] = {}
        self.anchor: dict[str, torch.Tensor] = {}
        self.path: dict[str, torch.Tensor] = {}
        self.start: dict[str, torch.Tensor] = {}
        self.before: dict[str, torch.Tensor] = {}
        self.gradient: dict[str, torch.Tensor] = {}

    def before_stage(self, session: Any) -> None:
        """Start the path anew."""
        tensors = session.masters.tensors
        self.path = {n: torch.zeros_like(t) for n, t in tensors.items()}
        self.start = {n: t.detach().clone() for n, t in tensors.items()}

    def after_backward(self, session: Any) -> None:
        """Keep the raw gradient and the place it was taken at."""
        tensors = session.masters.tensors
        self.gradient = {n: t.grad.clone() for n, t in tensors.items() if t.grad is not None}
        self.before = {n: tensors[n].detach().clone() for n in self.gradient}

    def penalty(self, session: Any) -> None:
        """2 strength Omega (theta - theta*)."""
        for name, importance in self.importance.items():
            tensor = session.masters.tensors.get(name)
            if tensor is not None:
                old = tuple(slice(0, n) for n in importance.shape)
                now = tensor.detach()
                gradient = torch.zeros_like(now)
                gradient[old] = 2 * self.options.strength * importance * (now[old] - self.anchor[name])
                session.masters.add_gradient(name, gradient)

    def after_step(self, session: Any) -> None:
        """The path: omega -= g (theta after - theta before)."""
        for name, gradient in self.gradient.items():
            self.path[name] -= gradient * (session.masters.tensors[name].detach() - self.before[name])

    def after_stage(self, session: Any) -> None:
        """Importance from the path, at the weights that are kept."""
        tensors = session.masters.tensors
        found = {
            name: path.clamp(min=0) / ((tensors[name].detach() - self.start[name]).square() + self.options.damping)
            for name, path in self.path.items()
        }
        if self.options.normalise:
            mean = sum(float(v.sum()) for v in found.values()) / max(sum(v.numel() for v in found.values()), 1)
            found = {name: v / max(mean, 1e-30) for name, v in found.items()}
        for name, value in found.items():
            old = self.importance.get(name)
            if old is not None:
                value[tuple(slice(0, n) for n in old.shape)] += old
            self.importance[name] = value
            self.anchor[name] = tensors[name].detach().clone()
        self.path, self.start, self.before, self.gradient = {}, {}, {}, {}

    def mark(self) -> dict[str, torch.Tensor]:
        """The path as far as the weights have come."""
        return {name: path.clone() for name, path in self.path.items()}

    def return_to(self, marked: Any) -> None:
        """The path ends where the kept weights are."""
        self.path = dict(marked)

    def state_dict(self) -> dict[str, Any]:
        """Importances, anchors, and the path so far."""
        return {"importance": self.importance, "anchor": self.anchor, "path": self.path, "start": self.start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.importance, self.anchor = dict(state["importance"]), dict(state["anchor"])
        self.path, self.start = dict(state["path"]), dict(state["start"])
