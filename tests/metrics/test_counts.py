"""Sums of what rows add give the metric itself, and a row taken twice counts as two rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tunesmith.metrics.classification import MultiLabel, SingleLabel
from tunesmith.metrics.counts import Drawn, columns_of, resampled, row_counts, score
from tunesmith.metrics.entities import EntityMetric, TagMetric
from tunesmith.metrics.regression import Regression
from tunesmith.metrics.squad import Squad
from tunesmith.metrics.text import TextOverlap
from tunesmith.tasks._generation import GenerationMetric
from tunesmith.tasks._language import TokenMetric, TokenScore
from tunesmith.tasks.language_modeling import LanguageMetric
from tunesmith.tasks.text_to_text import TextToTextMetric

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "một", "con", "mèo", "đã", "ngồi"]
TAGS = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
Pair = tuple[Any, Any]


def text(draw: random.Random, most: int = 9) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(0, most)))


def tokens(draw: random.Random) -> TokenScore:
    count = draw.randint(0, 12)
    return TokenScore(count * draw.random() * 3, count, draw.randint(0, count))


def tags(draw: random.Random) -> Pair:
    length = draw.randint(1, 8)
    return draw.choices(TAGS, k=length), draw.choices(TAGS, k=length)


def generated(draw: random.Random) -> Pair:
    return (tokens(draw), text(draw) if draw.random() < 0.6 else None), text(draw)


def answered(draw: random.Random) -> Pair:
    readable = draw.choice([True, False, None])
    return (tokens(draw), None if readable is None else draw.randint(-1, 2), readable), draw.randint(0, 2)


CASES: dict[str, tuple[Callable[[], Any], Callable[[random.Random], Pair]]] = {
    "two labels": (SingleLabel, lambda d: (d.randint(0, 1), d.randint(0, 1))),
    "labels, some answers none": (SingleLabel, lambda d: (d.randint(-1, 4), d.randint(0, 4))),
    "one label": (SingleLabel, lambda d: (0, 0)),
    "label sets": (MultiLabel, lambda d: (np.array(d.choices([0, 1], k=5)), np.array([*d.choices([0, 1], k=4), 0]))),
    "entities": (EntityMetric, tags),
    "tags": (TagMetric, tags),
    "numbers": (Regression, lambda d: (d.gauss(3, 1), d.gauss(-2, 5))),
    "numbers with ties": (Regression, lambda d: (d.randint(0, 4), d.randint(0, 4))),
    "numbers far from 0": (Regression, lambda d: (1e6 + d.gauss(0, 1), 1e6 + d.gauss(0, 1))),
    "a constant": (Regression, lambda d: (0.1, d.gauss(0, 1))),
    "answers": (Squad, lambda d: (text(d, 3), [text(d, 3) or "x" for _ in range(d.randint(1, 3))])),
    "answers or none": (Squad, lambda d: (text(d, 2), [text(d, 2) for _ in range(d.randint(0, 2))])),
    "none answerable": (Squad, lambda d: (text(d, 1), [])),
    "texts": (TextOverlap, lambda d: (text(d), text(d))),
    "tokens": (TokenMetric, lambda d: (tokens(d), None)),
    "documents": (lambda: LanguageMetric(True), lambda d: (tokens(d), d.randint(0, 60))),
    "masked documents": (lambda: LanguageMetric(False), lambda d: (tokens(d), d.randint(0, 60))),
    "written": (GenerationMetric, generated),
    "nothing written": (GenerationMetric, lambda d: ((tokens(d), None), text(d))),
    "answers in words": (lambda: TextToTextMetric(SingleLabel()), answered),
    "no wrapped metric": (lambda: TextToTextMetric(None), lambda d: ((tokens(d), None, None), 0)),
}  # fmt: skip


def computed(make: Callable[[], Any], rows: list[Pair]) -> dict[str, float]:
    metric = make()
    for predicted, true in rows:
        metric.update(predicted, true)
    return metric.compute()


def tables(make: Callable[[], Any], rows: list[Pair]) -> dict[str, np.ndarray]:
    found = row_counts(make(), [p for p, _ in rows], [t for _, t in rows])
    assert found is not None
    return columns_of(json.loads(json.dumps(found)))


@pytest.mark.parametrize("name", CASES)
def test_the_sum_of_counts_scores_as_the_metric(name: str) -> None:
    make, pair = CASES[name]
    for seed in range(3):
        draw = random.Random(seed)
        rows = [pair(draw) for _ in range(40)]
        found, wanted = score(make(), tables(make, rows), 40), computed(make, rows)
        assert found.keys() == wanted.keys()
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6)  # torchmetrics counts in fp32


@pytest.mark.parametrize("name", CASES)
def test_a_row_that_is_taken_twice_is_two_rows(name: str) -> None:
    """Each resample of the rows scores as the metric of the resampled rows, where that has the score at all."""
    make, pair = CASES[name]
    draw = random.Random(7)
    rows = [pair(draw) for _ in range(25)]
    weights = np.random.default_rng(0).multinomial(25, np.full(25, 1 / 25), size=4).astype(float)
    found = make().from_counts(Drawn(tables(make, rows), weights))
    for place, weight in enumerate(weights):
        again = computed(make, [row for row, times in zip(rows, weight, strict=True) for _ in range(int(times))])
        for metric in again.keys() & found.keys():
            assert found[metric][place] == pytest.approx(again[metric], rel=1e-6, abs=1e-6), metric


def test_the_metric_can_be_told_from_a_wrong_one() -> None:
    """What the tests above rest on: another row gives another score."""
    rows = [(0, 0), (1, 1), (1, 0)]
    columns = tables(SingleLabel, rows)
    assert score(SingleLabel(), columns, 3)["accuracy"] == pytest.approx(2 / 3)
    assert score(SingleLabel(), tables(SingleLabel, [(0, 0), (1, 1), (0, 0)]), 3)["accuracy"] == 1
    pieces = iter([np.array([[3.0, 0, 0]]), np.array([[0, 0, 3.0], [0, 2, 1]])])
    assert resampled(SingleLabel(), {0: columns}, "accuracy", pieces)[0].tolist() == pytest.approx([1, 0, 2 / 3])


def test_a_metric_of_somebody_else_needs_no_counts() -> None:
    assert row_counts(object(), [1], [1]) is None
