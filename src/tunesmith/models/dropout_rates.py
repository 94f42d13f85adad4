"""Dropout rates of a model, whatever its modules call them."""

from __future__ import annotations

from typing import Any

import torch

NAMES = ("attention_dropout", "dropout", "dropout_prob", "activation_dropout", "attention_probs_dropout_prob")


def set_dropout(model: Any, rate: float) -> None:
    """Set every dropout rate of a model; before a technique is attached, whose own is its own option."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
        for name in NAMES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rate)
