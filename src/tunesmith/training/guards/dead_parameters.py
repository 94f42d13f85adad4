"""Parameters that were to learn and never got a gradient."""

from __future__ import annotations

from tunesmith.training.guards._base import Guard, Lines

STEPS = 10


class DeadParameters(Guard):
    """Ten steps or more, and not once any gradient: Adam's second moment would remember it."""

    name = "dead-parameters"

    def look(self, lines: Lines) -> str | None:
        """See which are named once the fit has ended."""
        last = lines.last
        if last["event"] != "end" or last["step"] < STEPS or not last.get("still"):
            return None
        named, count = list(last["still"]), int(last["of"])
        more = f" and {len(named) - 2} more" if len(named) > 2 else ""
        return (
            f"{len(named)} of {count} tensors that were to learn never got a gradient ({', '.join(named[:2])}{more}): nothing reads what they are attached "
            "to; choose other target modules or layers, or another technique."
        )
