"""Pearson and Spearman correlation of predicted and true numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tunesmith.metrics.counts import Array, Drawn, share


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

    def counts(self, predicted: Any, true: Any) -> dict[str, float]:
        """The pair itself."""
        return {"pairs": 1, "predicted": float(predicted), "true": float(true)}

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """Correlations of the rows that are taken; a row that is taken twice shares the mean of its two ranks with itself."""
        weights = drawn.weights * drawn.columns["pairs"]
        predicted, true = (drawn.columns.get(name, np.zeros(weights.shape[1])) for name in ("predicted", "true"))
        return {
            "pearson": _weighted(weights, predicted, true),
            "spearman": _weighted(weights, _ranks(weights, predicted), _ranks(weights, true)),
        }


def _weighted(weights: Array, one: Array, other: Array) -> Array:
    """Linear correlation under weights [B, n]; 0 where a side is constant."""
    total = weights.sum(-1, keepdims=True)
    sides = []
    for values in (one, other):
        values = np.broadcast_to(values, weights.shape)
        # First off the plain middle: large numbers that differ little would lose their differences in the mean.
        values = values - values.mean(-1, keepdims=True)
        sides.append(values - share((weights * values).sum(-1, keepdims=True), total))
    first, second = sides
    below = (weights * first**2).sum(-1) * (weights * second**2).sum(-1)
    constant = np.stack([_constant(weights, np.broadcast_to(v, weights.shape)) for v in (one, other)]).any(0)
    return np.where(constant, 0.0, share((weights * first * second).sum(-1), np.sqrt(below)))


def _constant(weights: Array, values: Array) -> Array:
    """Whether the rows that are taken all have one value, [B]."""
    taken = weights > 0
    return np.where(taken, values, -np.inf).max(-1) <= np.where(taken, values, np.inf).min(-1)


def _ranks(weights: Array, values: Array) -> Array:
    """Mean ranks of values [n] among the rows as often as each is taken, [B, n]."""
    order = np.argsort(values, kind="stable")
    _, starts, place = np.unique(values, return_index=True, return_inverse=True)
    starts = np.searchsorted(values[order], values[starts])  # where each value begins among the sorted ones
    each = np.add.reduceat(weights[:, order], starts, -1)
    return (np.cumsum(each, -1) - (each - 1) / 2)[:, place]
