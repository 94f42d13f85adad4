"""What one row adds to a metric, so that rows can be drawn again without scoring them again.

Every metric here is a function of sums over rows: accuracy of hits, F1 of what was right, predicted and true, perplexity of nats and
tokens, a correlation of moments. With the counts c_i of row i and how often w_i it is taken,

    score(w) = g(sum_i w_i c_i)        w = 1: the metric itself        w multinomial: one bootstrap resample

so that B resamples of n rows with k counts are one product [B, n] x [n, k] and one call of g on arrays [B].

A metric says its counts by `counts(predicted, true)` (numbers by name; what is 0 is left out) and its scores by `from_counts(drawn)`.
Ranks are no sums: Spearman's correlation reads the weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

K = TypeVar("K")
Array = np.ndarray[Any, Any]
Row = Mapping[str, float]


class Drawn:
    """Counts of n rows under B choices of how often each row is taken.

    Args:
        columns: numbers of all rows by name, each [n].
        weights: how often each row is taken, [B, n].
    """

    def __init__(self, columns: Mapping[str, Array], weights: Array) -> None:
        self.columns, self.weights = columns, weights
        self._sums: dict[str, Array] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Array:
        """The sum over rows of a count under each choice, [B]; 0 for what no row has."""
        if self._sums is None:
            table = np.stack(list(self.columns.values()), 1) if self.columns else np.zeros((self.weights.shape[1], 0))
            self._sums = dict(zip(self.columns, (self.weights @ table).T, strict=True))
        found = self._sums.get(name)
        return np.zeros(len(self.weights)) if found is None else found

    def after(self, prefix: str) -> list[str]:
        """What follows a prefix in names, sorted: `PER`, `LOC` of `true:PER`, `true:LOC`."""
        return sorted(name.removeprefix(prefix) for name in self.columns if name.startswith(prefix))

    def stacked(self, prefix: str, ends: Sequence[str]) -> Array:
        """Sums of several names with a prefix, [B, ends]."""
        return np.stack([self[f"{prefix}{end}"] for end in ends], -1) if ends else np.zeros((len(self.weights), 0))


def share(part: Array, whole: Array) -> Array:
    """The share of a part, 0 where there is nothing."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.zeros(whole.shape), where=whole != 0)


def kept(counts: Iterable[tuple[str, float]]) -> dict[str, float]:
    """A row's counts without what is 0."""
    return {name: value for name, value in counts if value}


def row_counts(metric: Any, values: Sequence[Any], truths: Iterable[Any]) -> list[dict[str, float]] | None:
    """The counts of every row, as JSON holds them; None of a metric that does not say them.

    Args:
        metric: of the task.
        values: predictions as it takes them.
        truths: targets as it takes them.
    """
    if not hasattr(metric, "counts"):
        return None
    return [
        {name: _plain(number) for name, number in metric.counts(value, true).items()}
        for value, true in zip(values, truths, strict=True)
    ]


def _plain(number: Any) -> float:
    value = float(number)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def columns_of(rows: Sequence[Row]) -> dict[str, Array]:
    """Rows of counts as one array a name, [n]."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.asarray([row.get(name, 0) for row in rows], np.float64) for name in names}


def score(metric: Any, columns: Mapping[str, Array], rows: int) -> dict[str, float]:
    """The metric of all rows, each taken once."""
    return {name: float(value[0]) for name, value in metric.from_counts(Drawn(columns, np.ones((1, rows)))).items()}


def resampled(
    metric: Any, tables: Mapping[K, Mapping[str, Array]], name: str, weights: Iterator[Array]
) -> dict[K, Array]:
    """One score of several tables of the same rows under every choice of rows, [B] each.

    Args:
        metric: of the task.
        tables: counts of n rows by name, of each run.
        name: of the score.
        weights: pieces [b, n] of all choices, so that no large table is ever whole in memory.
    """
    found: dict[K, list[Array]] = {key: [] for key in tables}
    for piece in weights:
        for key, columns in tables.items():
            found[key].append(np.asarray(metric.from_counts(Drawn(columns, piece))[name]))
    return {key: np.concatenate(pieces) for key, pieces in found.items()}
