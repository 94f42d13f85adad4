"""Supervised: the task's own loss against the labels of the rows."""

from __future__ import annotations

import torch

from tunesmith.objectives._base import Objective, Pass


class Supervised(Objective):
    """Loss of the model's outputs against the batch's labels."""

    def loss(self, each: Pass) -> torch.Tensor:
        """One forward pass and the task's loss."""
        if each.lean:
            found = each.task.lean_loss(each.model, each.batch)
            assert found is not None
            return found
        return each.task.loss(each.task.forward(each.model, each.batch), each.batch)
