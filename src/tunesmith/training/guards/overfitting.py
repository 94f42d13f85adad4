"""The model gets better on its training rows and worse on others."""

from __future__ import annotations

from tunesmith.training.guards._base import Guard, Lines

EVALUATIONS = 2
LATER = 2
"""So many evaluations ago the lowest was: one that is worse may be chance."""
WORSE = 1.25
"""Of the loss on other rows, against its lowest, or against the training loss before much was learned."""
LEARNED = 0.5
"""Of that training loss: what is below it was learned."""


class Overfitting(Guard):
    """On rows that it does not learn from the loss rises while the training loss falls.

    Either it is a quarter above its lowest, two evaluations ago or more; or, where a run is measured seldom and its first evaluation comes too late to see a low
    one, it rose and is a quarter above the first training loss that was written down (before much was learned), which has halved at least.
    """

    name = "overfitting"

    def look(self, lines: Lines) -> str | None:
        """See the newest evaluation against the best one, and against where training started."""
        found, train = lines.evaluate, lines.train
        if not lines.are("evaluate", found, EVALUATIONS):
            return None
        losses = [line["metrics"].get("loss") for line in found]
        if None in losses:
            return None
        best = losses.index(min(losses))
        then = [line["loss"] for line in train if line["step"] <= found[best]["step"]]
        if best == len(losses) - 1 or not then or train[-1]["loss"] >= then[-1]:
            return None
        begun, now = train[0]["loss"], train[-1]["loss"]
        late = losses[-1] > WORSE * begun and now < LEARNED * begun
        if late:
            since = (
                f"rose from {losses[best]:.3g} at step {found[best]['step']} to {losses[-1]:.3g} at step {found[-1]['step']}, more than the {begun:.3g} that "
                "training began with"
            )
        elif len(losses) - 1 - best >= LATER and losses[-1] > WORSE * losses[best]:
            since = f"was {losses[best]:.3g} at step {found[best]['step']} and is {losses[-1]:.3g} at step {found[-1]['step']}"
        else:
            return None
        return (
            f"the model overfits: on {found[-1]['split']} rows the loss {since}, while the training loss fell from {then[-1]:.3g} to {now:.3g}; keep the best "
            "(training.keep_best=true), stop early (training.early_stopping=2), train fewer epochs, or bring more rows."
        )
