"""The model says the same of every row."""

from __future__ import annotations

from tunesmith.training.guards._base import Guard, Lines

STEPS = 10
ROWS = 8
TRUE_SHARE = 0.9


class OneAnswer(Guard):
    """After ten steps or more all answers are one, and at most nine tenths of the true ones are."""

    name = "one-answer"

    def look(self, lines: Lines) -> str | None:
        """See what was measured behind the fit."""
        last = lines.last
        if last["event"] != "measured" or last["step"] < STEPS:
            return None
        for task, found in last["answers"].items():
            if found["rows"] >= ROWS and found["most"] == 1.0 and found["true"] <= TRUE_SHARE:
                what = f"`{found['answer']}`" if found["answer"] else "nothing"
                return (
                    f"of all {found['rows']:,} eval rows{f' of {task}' if task else ''} the model says {what}, which is right for {found['true']:.0%}; train longer or with "
                    "another --learning-rate (most often a lower one), "
                    "and look at how rare the other labels are (`tunesmith doctor`)."
                )
        return None
