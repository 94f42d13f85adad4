"""The loss jumps far above what it was."""

from __future__ import annotations

from statistics import median

from tunesmith.training.guards._base import Guard, Lines, spread

WINDOW = 10  # lines
FAR = 8.0  # times the usual distance from the median
AT_LEAST = 1.5  # times the median


class LossSpike(Guard):
    """A window's mean loss beyond median + 8 x median deviation of the ten before, and half as much again as their median."""

    name = "loss-spike"

    def look(self, lines: Lines) -> str | None:
        """See the newest line against the ten before it."""
        found = lines.train[-WINDOW - 1 :]
        if not lines.are("train", found, WINDOW + 1):
            return None
        before = [line["loss"] for line in found[:-1]]
        loss, middle = found[-1]["loss"], median(before)
        if loss <= middle + FAR * spread(before) or loss <= AT_LEAST * middle:
            return None
        return (
            f"the loss jumped to {loss:.3g} at step {found[-1]['step']}, from about {middle:.3g} before; if it does not come back, lower "
            "--learning-rate, lengthen training.warmup, or look at the rows there."
        )
