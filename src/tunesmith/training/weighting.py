"""How the losses of a step's parts (tasks) become one update.

fixed         sum_t w_t L_t
uncertainty   sum_t exp(-s_t) w_t L_t + s_t / 2, with s_t = log of the task's noise learned along (Kendall et al. 2018, equation 10)
pcgrad        where two tasks' gradients point against each other, each loses its part along the other (Yu et al. 2020, algorithm 1),
              over the parameters that both have: heads of their own take no part
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.seeding import derive
from tunesmith.training.precision import Masters

NOISE_RATE = 1e-2
"""Learning rate of the log-noises: they are a handful of numbers of order one, whatever rate the model learns at."""


class Weighting:
    """The weights as they are given.

    Attributes:
        apart: it looks at the gradient of each part, so processes add them up one by one.
    """

    apart = False

    def __init__(self, parts: Sequence[str], seed: int) -> None:
        self.parts, self.seed = list(parts), seed

    def factor(self, part: str) -> float:
        """Of a part's loss."""
        return 1.0

    def after_part(self, part: str, loss: Callable[[], float], masters: Masters) -> None:
        """A part's gradient is in place (added to those before it); `loss` reads its mean, and waits for the device."""

    def forget(self) -> None:
        """A step that did not come to its end begins again."""

    def finish(self, masters: Masters, step: int) -> None:
        """All parts are there."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


class Uncertainty(Weighting):
    """Noisy tasks count less; s_t follows the gradient 1/2 - exp(-s_t) L_t by Adam."""

    def __init__(self, parts: Sequence[str], seed: int) -> None:
        super().__init__(parts, seed)
        self.noise = {part: torch.zeros(1, requires_grad=True) for part in self.parts}
        self.optimizer = torch.optim.Adam(self.noise.values(), lr=NOISE_RATE)

    def factor(self, part: str) -> float:
        """exp(-s); parts that a strategy adds are not weighed."""
        return math.exp(-float(self.noise[part].detach())) if part in self.noise else 1.0

    def after_part(self, part: str, loss: Callable[[], float], masters: Masters) -> None:
        """The gradient of s."""
        if part in self.noise:
            self.noise[part].grad = torch.full((1,), 0.5 - self.factor(part) * loss())

    def finish(self, masters: Masters, step: int) -> None:
        """Move the noises."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Noises and their moments."""
        return {"noise": {k: v.detach() for k, v in self.noise.items()}, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        with torch.no_grad():
            for part, value in state["noise"].items():
                self.noise[part].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])


class PCGrad(Weighting):
    """Projects conflicting gradients; costs one more copy of the gradients for every part."""

    apart = True

    def __init__(self, parts: Sequence[str], seed: int) -> None:
        super().__init__(parts, seed)
        self.gradients: list[dict[str, torch.Tensor]] = []

    def after_part(self, part: str, loss: Callable[[], float], masters: Masters) -> None:
        """Take the part's gradient out."""
        self.gradients.append({n: t.grad.clone() for n, t in masters.tensors.items() if t.grad is not None})
        masters.clear()

    def forget(self) -> None:
        """Drop what was taken out."""
        self.gradients = []

    def finish(self, masters: Masters, step: int) -> None:
        """Project each against the others in random order, and put their sum in place."""
        generator = np.random.default_rng(derive(self.seed, "pcgrad", step))
        found = [dict(g) for g in self.gradients]
        for i, mine in enumerate(found):
            for j in generator.permutation(len(found)).tolist():
                other = self.gradients[j]
                both = mine.keys() & other.keys()
                if i == j or not both:
                    continue
                along = sum(float((mine[n] * other[n]).sum()) for n in both)
                if along < 0:  # so neither is zero
                    length = sum(float(other[n].square().sum()) for n in both)
                    for name in both:
                        mine[name] = mine[name] - (along / length) * other[name]
        self.forget()
        for name in masters.tensors:
            parts = [g[name] for g in found if name in g]
            if parts:
                total = parts[0]
                for part in parts[1:]:
                    total = total + part
                masters.set_gradient(name, total)


KINDS = {"fixed": Weighting, "uncertainty": Uncertainty, "pcgrad": PCGrad}
