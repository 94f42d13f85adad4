"""The model gets better on its training rows and worse on others."""

from __future__ import annotations

from tunesmith.training.guards._base import Guard, Lines

EVALUATIONS = 3
WORSE = 1.25
"""Of the loss on other rows, against its lowest."""


class Overfitting(Guard):
    """On rows that it does not learn from the loss is a quarter above its lowest, two evaluations ago or more, while the training loss fell."""

    name = "overfitting"

    def look(self, lines: Lines) -> str | None:
        """See the newest evaluation against the best one."""
        found = lines.evaluate
        if not lines.are("evaluate", found, EVALUATIONS):
            return None
        losses = [line["metrics"].get("loss") for line in found]
        if None in losses:
            return None
        best = losses.index(min(losses))
        train = lines.train
        then = [line["loss"] for line in train if line["step"] <= found[best]["step"]]
        if (
            len(losses) - 1 - best < 2
            or losses[-1] <= WORSE * losses[best]
            or not then
            or train[-1]["loss"] >= then[-1]
        ):
            return None
        return (
            f"the model overfits: on {found[-1]['split']} rows the loss was {losses[best]:.3g} at step {found[best]['step']} and is {losses[-1]:.3g} at step "
            f"{found[-1]['step']}, while the training loss fell from {then[-1]:.3g} to {train[-1]['loss']:.3g}; keep the best (training.keep_best=true), stop "
            "early (training.early_stopping=2), train fewer epochs, or bring more rows."
        )
