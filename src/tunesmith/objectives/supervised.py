"""Supervised: the task's own loss against the labels of the rows."""

from __future__ import annotations

import torch

from tunesmith.objectives._base import Objective, Pass, labels_loss


class Supervised(Objective):
    """Loss of the model's outputs against the batch's labels."""

    def loss(self, each: Pass) -> torch.Tensor:
        """One forward pass and the task's loss."""
        return labels_loss(each)
