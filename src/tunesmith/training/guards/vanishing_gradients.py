"""Next to nothing of the gradient reaches some layers."""

from __future__ import annotations

from tunesmith.training.guards._base import Guard, Lines

LINES = 3
RATIO = 1e-6


class VanishingGradients(Guard):
    """In three lines one after the other, a layer's norm above zero and below a millionth of the largest layer's."""

    name = "vanishing-gradients"

    def look(self, lines: Lines) -> str | None:
        """See the layers of the newest lines."""
        found = lines.train[-LINES:]
        weak: set[str] | None = None
        for line in found if lines.are("train", found, LINES) else ():
            layers = line.get("layers") or {}
            top = max(layers.values(), default=0.0)
            here = {name for name, norm in layers.items() if 0.0 < norm < RATIO * top}
            weak = here if weak is None else weak & here
        if not weak:
            return None
        return (
            f"hardly any gradient reaches {', '.join(sorted(weak)[:3])} (below {RATIO:g} of the largest layer's at step {found[-1]['step']}); what lies "
            "there does not learn: train fewer layers (`layers: N`), or take a model with residual connections or gates."
        )
