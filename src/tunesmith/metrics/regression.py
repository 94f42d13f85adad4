"""Pearson and Spearman correlation of predicted and true numbers."""

from __future__ import annotations

from typing import Any

import numpy as np


class Regression:
    """Correlations over a stream of batches.

    pearson = linear correlation; spearman = linear correlation of ranks. Both are 0 where a side is constant, in
    which case a correlation is not defined.
    """

    def __init__(self) -> None:
        self.predicted: list[np.ndarray[Any, Any]] = []
        self.true: list[np.ndarray[Any, Any]] = []

    def update(self, predicted: np.ndarray[Any, Any], true: np.ndarray[Any, Any]) -> None:
        """Add a batch of numbers, each [rows]."""
        self.predicted.append(np.asarray(predicted, np.float64))
        self.true.append(np.asarray(true, np.float64))

    def compute(self) -> dict[str, float]:
        """The metrics over everything added."""
        from scipy.stats import pearsonr, spearmanr

        true, predicted = np.concatenate(self.true), np.concatenate(self.predicted)
        if len(true) < 2 or np.ptp(true) == 0 or np.ptp(predicted) == 0:
            return {"pearson": 0.0, "spearman": 0.0}
        return {
            "pearson": float(pearsonr(true, predicted).statistic),
            "spearman": float(spearmanr(true, predicted).statistic),
        }
