"""Pearson and Spearman correlation of predicted and true numbers."""

from __future__ import annotations

from typing import Any

import numpy as np


class Regression:
    """Correlations over a stream of rows.

    pearson = linear correlation; spearman = linear correlation of ranks. Both are 0 where a side is constant, in
    which case a correlation is not defined.
    """

    def __init__(self) -> None:
        self.predicted: list[float] = []
        self.true: list[float] = []

    def update(self, predicted: Any, true: Any) -> None:
        """Add one row."""
        self.predicted.append(float(predicted))
        self.true.append(float(true))

    def compute(self) -> dict[str, float]:
        """The metrics over everything added."""
        from scipy.stats import pearsonr, spearmanr

        true, predicted = np.asarray(self.true), np.asarray(self.predicted)
        if len(true) < 2 or np.ptp(true) == 0 or np.ptp(predicted) == 0:
            return {"pearson": 0.0, "spearman": 0.0}
        return {
            "pearson": float(pearsonr(true, predicted).statistic),
            "spearman": float(spearmanr(true, predicted).statistic),
        }
