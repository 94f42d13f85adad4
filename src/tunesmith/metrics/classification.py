"""Accuracy, macro F1 and Matthews correlation, for one label a row or several.

Only label indices are kept (a few bytes a row); the arithmetic is scikit-learn's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tunesmith.metrics.counts import Array, Drawn, kept, share


class SingleLabel:
    """Metrics of rows with exactly one label.

    accuracy = share of rows whose label is right; f1_macro = unweighted mean of the labels' F1 over the labels that occur in truth
    or prediction (an answer that is no label, index -1, is wrong and is no label of its own); mcc = Matthews correlation (Gorodkin
    2004 for more than two labels), 0 when either side is constant.
    """

    def __init__(self) -> None:
        self.predicted: list[Any] = []
        self.true: list[Any] = []

    def update(self, predicted: Any, true: Any) -> None:
        """Add one row: two label indices (0/1 vectors with several labels)."""
        self.predicted.append(predicted)
        self.true.append(true)

    def compute(self) -> dict[str, float]:
        """The metrics over everything added."""
        from sklearn.metrics import accuracy_score, f1_score

        true, predicted = np.stack(self.true), np.stack(self.predicted)
        labels = [label for label in np.unique([true, predicted]) if label >= 0]
        return {
            "accuracy": float(accuracy_score(true, predicted)),
            "f1_macro": float(f1_score(true, predicted, labels=labels, average="macro", zero_division=0)),
            "mcc": correlation(true, predicted),
        }

    def counts(self, predicted: Any, true: Any) -> dict[str, float]:
        """The cell of the table of true and predicted labels that a row falls into."""
        return {f"{int(true)}>{int(predicted)}": 1}

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows; of several labels mcc is (c s - t p) / sqrt((s^2 - p p)(s^2 - t t)) (Gorodkin 2004)."""
        cells = {tuple(map(int, name.split(">"))): drawn[name] for name in drawn.columns if ">" in name}
        labels = sorted({label for cell in cells for label in cell})
        zero = np.zeros(len(drawn.weights))
        right = np.stack([cells.get((label, label), zero) for label in labels], -1)
        true = np.stack([sum((n for (t, _), n in cells.items() if t == label), zero) for label in labels], -1)
        guessed = np.stack([sum((n for (_, p), n in cells.items() if p == label), zero) for label in labels], -1)
        total = true.sum(-1)
        named = np.asarray(labels) >= 0
        each, seen = share(2 * right, true + guessed)[:, named], ((true + guessed) > 0)[:, named]
        return {
            "accuracy": share(right.sum(-1), total),
            "f1_macro": share((each * seen).sum(-1), seen.sum(-1)),
            "mcc": _correlation_of_sums(right.sum(-1), total, true, guessed),
        }


class MultiLabel(SingleLabel):
    """Metrics of rows with any number of labels, as 0/1 matrices [rows, labels].

    accuracy = share of rows whose label set is exactly right; mcc is over all (row, label) cells.
    """

    def compute(self) -> dict[str, float]:
        """The metrics over everything added."""
        from sklearn.metrics import accuracy_score, f1_score

        true, predicted = np.stack(self.true), np.stack(self.predicted)
        return {
            "accuracy": float(accuracy_score(true, predicted)),
            "f1_macro": float(f1_score(true, predicted, average="macro", zero_division=0)),
            "mcc": correlation(true.ravel(), predicted.ravel()),
        }

    def counts(self, predicted: Any, true: Any) -> dict[str, float]:
        """Whether the set is right, and for each label whether it was predicted, is true, or both."""
        guess, truth = (np.asarray(side).astype(bool) for side in (predicted, true))
        found = {"rows": 1, "exact": int((guess == truth).all()), "cells": len(truth)}
        for name, which in (("right", guess & truth), ("predicted", guess), ("true", truth)):
            found |= {f"{name}:{label}": 1 for label in np.flatnonzero(which)}
        return kept(found.items())

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows; a label that occurs on neither side has an F1 of 0."""
        labels = sorted({*drawn.after("predicted:"), *drawn.after("true:")})
        right, guessed, true = (drawn.stacked(f"{name}:", labels) for name in ("right", "predicted", "true"))
        cells, rows = drawn["cells"], drawn["rows"]
        both = np.stack([true.sum(-1), cells - true.sum(-1)], -1)
        said = np.stack([guessed.sum(-1), cells - guessed.sum(-1)], -1)
        hits = cells - true.sum(-1) - guessed.sum(-1) + 2 * right.sum(-1)
        return {
            "accuracy": share(drawn["exact"], rows),
            "f1_macro": share(share(2 * right, true + guessed).sum(-1), share(cells, rows)),
            "mcc": _correlation_of_sums(hits, cells, both, said),
        }


def _correlation_of_sums(right: Array, total: Array, true: Array, guessed: Array) -> Array:
    """Matthews' correlation of a table's diagonal and sides, [B], [B], [B, labels], [B, labels]; 0 where a side is constant."""
    below = (total**2 - (true**2).sum(-1)) * (total**2 - (guessed**2).sum(-1))
    return share(right * total - (true * guessed).sum(-1), np.sqrt(np.maximum(below, 0)))


def correlation(true: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> float:
    """Matthews' correlation; 0 where one label is all there is, without scikit-learn's warning to people."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(true, predicted)) if len(np.unique([true, predicted])) > 1 else 0.0
