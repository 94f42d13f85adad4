"""The contract of an objective: from a model and a batch to a loss summed over the batch's supervised units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import torch

from tunesmith.config import Options
from tunesmith.tasks._base import Batch, Task


class Pass(Protocol):
    """What of a forward pass an objective sees (`training.feed.Pass`)."""

    task: Task
    model: Any
    batch: Batch
    rows: Any


class Objective(ABC):
    """What is minimised."""

    family: ClassVar[str] = "objective"
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any) -> None:
        self.options = options

    def required_outputs(self) -> set[str]:
        """Model outputs needed beside logits (`hidden_states`, `attentions`)."""
        return set()

    @abstractmethod
    def loss(self, each: Pass) -> torch.Tensor:
        """Loss of one forward pass, summed over its units."""
