"""The contract of a strategy. Every hook has a default that does nothing.

before_stage -> [ task_losses -> backward -> after_backward -> optimiser step -> after_step ]* -> after_stage
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from tunesmith.config import Options


class Strategy:
    """How earlier stages are kept."""

    family: ClassVar[str] = "strategy"
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any) -> None:
        self.options = options

    def before_stage(self, session: Any) -> None:
        """Called before the first step of a stage."""

    def task_losses(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One loss from the losses of the tasks in a batch."""
        values = list(losses.values())
        return values[0] if len(values) == 1 else torch.stack(values).sum()

    def after_backward(self, session: Any) -> None:
        """Called with the raw task gradient in place, before clipping."""

    def after_step(self, session: Any) -> None:
        """Called when the parameters have changed."""

    def after_stage(self, session: Any) -> None:
        """Called after the last step of a stage."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
