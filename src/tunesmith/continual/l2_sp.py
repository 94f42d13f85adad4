"""L2-SP: parameters are drawn back to where the stage began (Li, Grandvalet & Davoine 2018, equation 4).

    penalty = strength / 2 * || theta - theta_0 ||^2          gradient: strength (theta - theta_0)

theta_0 are the weights after the stage before; in the first stage those of the pretrained model, as in the paper, if
`first_stage` is on. Every parameter counts alike, which is what EWC improves on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from tunesmith.config import Options as BaseOptions
from tunesmith.continual._base import Strategy


class Options(BaseOptions):
    """Options of L2-SP."""

    strength: float = Field(0.01, ge=0, description="factor of the squared distance")
    first_stage: bool = Field(False, description="also hold the first stage near the pretrained weights")


class L2SP(Strategy):
    """A spring from every parameter to its place before the stage."""

    Options = Options
    looks_back: ClassVar[bool] = False

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.start: dict[str, torch.Tensor] = {}

    def before_stage(self, session: Any) -> None:
        """Remember the weights, those of earlier heads included; what is new (a head, further labels of one) is free."""
        self.start = {}
        if session.stage_number or self.options.first_stage:
            tensors = session.masters.tensors
            self.start = {
                n: tensors[n].detach()[_part(shape)].clone() for n, shape in session.known.items() if n in tensors
            }

    def penalty(self, session: Any) -> None:
        """Strength times (theta - theta_0)."""
        for name, start in self.start.items():
            now = session.masters.tensors[name].detach()
            gradient = torch.zeros_like(now)
            gradient[_part(start.shape)] = self.options.strength * (now[_part(start.shape)] - start)
            session.masters.add_gradient(name, gradient)

    def state_dict(self) -> dict[str, Any]:
        """The weights before the stage."""
        return {"start": self.start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.start = dict(state["start"])


def _part(shape: Sequence[int]) -> tuple[slice, ...]:
    """Where a smaller tensor stands in one that grew."""
    return tuple(slice(0, n) for n in shape)
