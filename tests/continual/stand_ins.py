"""A session small enough to compute by hand: named tensors, and rows that a model of a few numbers reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from tunesmith.training.precision import Masters


class Weights(torch.nn.Module):
    """Named parameters and nothing else."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, torch.nn.Parameter(torch.as_tensor(value, dtype=torch.float32)))


class Session(SimpleNamespace):
    """With a generator that begins anew whenever it is made, as the real one does."""

    def make_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def train_mode(self) -> None:
        self.model.train()


def session(number: int = 0, **values: Any) -> Any:
    """What strategies that only look at parameters need."""
    model = Weights(**values)
    masters = Masters(model, torch.float32)
    known = {name: tuple(tensor.shape) for name, tensor in masters.tensors.items()}
    return Session(masters=masters, stage_number=number, known=known, stage="", step=0, model=model)


def move(given: Any, name: str, value: Any) -> None:
    """Set a parameter."""
    with torch.no_grad():
        given.masters.tensors[name].copy_(torch.as_tensor(value, dtype=torch.float32))
