"""Supervised: the task's own loss against the labels of the rows."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.objectives._base import Objective
from tunesmith.tasks._base import Batch, Task


class Supervised(Objective):
    """Loss of the model's outputs against the batch's labels."""

    def loss(self, model: Any, task: Task, batch: Batch) -> torch.Tensor:
        """One forward pass and the task's loss."""
        return task.loss(task.forward(model, batch), batch)
