"""Gradients grow far beyond what they were."""

from __future__ import annotations

from statistics import median

from tunesmith.training.guards._base import Guard, Lines

WINDOW = 5  # lines at least
LONGEST = 50
FACTOR = 20.0
FLOOR = 10.0
"""A norm below this explodes nothing: it is ten times what is clipped to by default."""


class ExplodingGradients(Guard):
    """A norm 20 times the median of up to fifty lines before it, and above 10."""

    name = "exploding-gradients"

    def look(self, lines: Lines) -> str | None:
        """See the newest norm against those before it."""
        found = lines.train[-LONGEST:]
        if not lines.are("train", found, WINDOW + 1):
            return None
        norm, usual = found[-1]["gradient_norm"], median(line["gradient_norm"] for line in found[:-1])
        if norm <= FLOOR or norm <= FACTOR * usual:
            return None
        layers = found[-1].get("layers") or {}
        where = f", most of it in {max(layers, key=layers.__getitem__)}" if layers else ""
        return (
            f"the gradient's norm is {norm:.3g} at step {found[-1]['step']}{where}, {norm / max(usual, 1e-30):.0f} times what it was; lower --learning-rate, or clip "
            "harder (training.max_grad_norm)."
        )
