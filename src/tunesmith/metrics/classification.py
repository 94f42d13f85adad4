"""Accuracy, macro F1 and Matthews correlation, for one label a row or several.

Only label indices are kept (a few bytes a row); the arithmetic is scikit-learn's.
"""

from __future__ import annotations

from typing import Any

import numpy as np


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


def correlation(true: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> float:
    """Matthews' correlation; 0 where one label is all there is, without scikit-learn's warning to people."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(true, predicted)) if len(np.unique([true, predicted])) > 1 else 0.0
