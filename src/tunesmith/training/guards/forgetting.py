"""What was to be retained is forgotten: the learning rate is too high for what the model knew."""

from __future__ import annotations

from tunesmith.training.guards._base import Guard, Lines

SHARE = 0.5
"""Of what was measured before: bits per byte half as many again, accuracy half gone."""


class Forgetting(Guard):
    """On what is to be retained the metric is worse by half of what it was."""

    name = "forgetting"

    def look(self, lines: Lines) -> str | None:
        """See what was measured behind the fit."""
        found = lines.last.get("retain") if lines.last["event"] == "measured" else None
        if not found or not found["before"] or found["change"] <= SHARE * abs(found["before"]):
            return None
        metric = str(found["metric"]).replace("_", " ")
        return (
            f"much of {found['source']} is forgotten: {metric} went from {found['before']:.3g} to {found['after']:.3g}; lower --learning-rate, train fewer "
            "steps, take a technique with fewer parameters, or learn some of those rows along."
        )
