"""The learning rate is so low that nothing moves."""

from __future__ import annotations

from statistics import mean

from tunesmith.training.guards._base import Guard, Lines

LINES = 8
LESS = 0.01
PATH = 1e-3
"""What a weight can have moved at most, since AdamW moves each by about the rate a step."""


class RateTooLow(Guard):
    """The loss fell by less than 1 %, and no weight can have moved by a thousandth."""

    name = "rate-too-low"

    def look(self, lines: Lines) -> str | None:
        """See the whole curve once the fit has ended."""
        found = lines.train
        if not lines.are("end", found, LINES):
            return None
        quarter = max(1, len(found) // 4)
        first, last = mean(line["loss"] for line in found[:quarter]), mean(line["loss"] for line in found[-quarter:])
        path = sum(line["learning_rate"] for line in found) / len(found) * found[-1]["step"]
        if first - last >= LESS * first or path >= PATH:
            return None
        rate = max(line["learning_rate"] for line in found)
        return (
            f"the training loss stayed at {last:.3g} over {found[-1]['step']:,} steps: at a learning rate of {rate:g} nothing moves; raise --learning-rate "
            "ten times, train longer, or ask --find-learning-rate."
        )
