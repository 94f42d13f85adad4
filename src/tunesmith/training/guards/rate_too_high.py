"""The learning rate is so high that the loss rises instead of falling."""

from __future__ import annotations

from statistics import mean

from tunesmith.training.guards._base import Guard, Lines

LINES = 8
WORSE = 1.05


class RateTooHigh(Guard):
    """The last quarter's mean loss is 5 % above the first line's."""

    name = "rate-too-high"

    def look(self, lines: Lines) -> str | None:
        """See the whole curve once the fit has ended."""
        found = lines.train
        if not lines.are("end", found, LINES):
            return None
        first, last = found[0]["loss"], mean(line["loss"] for line in found[-len(found) // 4 :])
        if last <= WORSE * first:
            return None
        rate = max(line["learning_rate"] for line in found)
        return (
            f"the training loss ended at {last:.3g} and had begun at {first:.3g}: the learning rate ({rate:g}) is too high for this model; lower "
            "--learning-rate to a tenth, or ask --find-learning-rate."
        )
