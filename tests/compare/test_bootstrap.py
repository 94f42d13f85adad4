"""The bootstrap against closed forms, against SciPy's, and how often its intervals hold the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tunesmith.compare.bootstrap import RESAMPLES, compare, drawn_rows, judge, over_seeds, scores_of
from tunesmith.metrics.classification import SingleLabel
from tunesmith.metrics.counts import columns_of, row_counts


def table(hits: Any) -> dict[str, np.ndarray]:
    """Counts of rows that are right (1) or wrong (0)."""
    found = row_counts(SingleLabel(), [0 if hit else 1 for hit in hits], [0] * len(hits))
    assert found is not None
    return columns_of(found)


def scores(hits: Any, **more: Any) -> np.ndarray:
    return scores_of(SingleLabel(), {"run": table(hits)}, len(hits), "accuracy", **more)["run"]


def test_the_interval_of_two_proportions_is_that_of_the_closed_form() -> None:
    """With paired hits, var(d) = (b + c - (b - c)^2 / n) / n^2 with b and c the rows that one alone has right."""
    rng = np.random.default_rng(3)
    n = 1500
    one = rng.random(n) < 0.8
    other = np.where(rng.random(n) < 0.15, ~one, one)
    found = compare({0: scores(other)}, {0: scores(one)}, (other.mean(), one.mean()))
    b, c = int((other & ~one).sum()), int((one & ~other).sum())
    half = 1.959964 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    assert found.difference == pytest.approx((b - c) / n)
    # 2,000 resamples give an end of the interval to about 5 % of its half width.
    assert found.low == pytest.approx((b - c) / n - half, abs=0.08 * half)
    assert found.high == pytest.approx((b - c) / n + half, abs=0.08 * half)
    assert not found.tie and found.p < 0.01


def test_it_is_scipys_on_a_small_case() -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(5)
    one, other = rng.random(60) < 0.75, rng.random(60) < 0.65
    theirs = bootstrap(
        (one.astype(float), other.astype(float)),
        lambda a, b, axis: b.mean(axis) - a.mean(axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
        vectorized=True,
    ).confidence_interval
    found = compare({0: scores(other)}, {0: scores(one)}, (other.mean(), one.mean()))
    # Accuracies of 60 rows move in steps of 1 / 60.
    assert found.low == pytest.approx(theirs.low, abs=1.01 / 60) and found.high == pytest.approx(
        theirs.high, abs=1.01 / 60
    )


def test_pairing_takes_out_what_rows_share() -> None:
    """Two that differ on 2 % of hard rows, always for the worse: apart together, a tie on rows drawn apart."""
    n = 1000
    one = np.arange(n) % 10 < 7
    other = one & (np.arange(n) % 50 != 0)
    means = (other.mean(), one.mean())
    assert not compare({0: scores(other)}, {0: scores(one)}, means).tie
    assert compare({0: scores(other, seed=1)}, {0: scores(one)}, means).tie


def test_the_same_answers_are_a_tie_whose_difference_is_nothing() -> None:
    hits = [1, 0, 1, 1]
    found = compare({0: scores(hits)}, {0: scores(hits)}, (0.75, 0.75))
    assert (found.difference, found.low, found.high, found.p, found.tie) == (0, 0, 0, 1, True)


def test_seeds_are_drawn_together_and_widen_the_interval() -> None:
    """Seeds that move both techniques alike say nothing of their difference; those that move one do."""
    rng = np.random.default_rng(0)
    base = rng.random((3, 400))
    both = {s: scores(base[s] < 0.6 + 0.1 * s) for s in range(3)}
    like = {s: scores(base[s] < 0.55 + 0.1 * s) for s in range(3)}
    turned = {s: like[2 - s] for s in range(3)}
    steady, moved = compare(like, both, (0.65, 0.7)), compare(turned, both, (0.65, 0.7))
    assert moved.high - moved.low > 2 * (steady.high - steady.low)
    assert not steady.tie and moved.tie
    assert over_seeds({4: both[0]}) is both[0] or (over_seeds({4: both[0]}) == both[0]).all()


def test_the_draw_is_fixed_and_whole() -> None:
    first = np.concatenate(list(drawn_rows(30)))
    assert first.shape == (RESAMPLES, 30) and (first.sum(1) == 30).all()
    assert (first == np.concatenate(list(drawn_rows(30)))).all()
    assert (first != np.concatenate(list(drawn_rows(30, seed=1)))).any()
    # Of 30 rows, 1 - (1 - 1/30)^30 = 63.8 % are in a resample.
    assert (first > 0).mean() == pytest.approx(1 - (1 - 1 / 30) ** 30, abs=0.005)


def test_p_is_the_share_that_turns_round() -> None:
    found = judge([*[-1.0] * 98, 1.0], -0.9)
    assert found.p == pytest.approx(2 * 2 / 100) and found.tie is False
    assert judge([-1.0, 1.0], 0.0).p == 1.0


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Rows of differing difficulty and three seeds that spread by about a point: between 90 % and 100 % of 95 % intervals."""
    rng = np.random.default_rng(11)
    rows, trials, held = 300, 150, 0
    weights = np.concatenate(list(drawn_rows(rows, 400))) / rows
    for _ in range(trials):
        hard, drawn = rng.normal(0, 1.2, rows), []
        for strength in (0.8, 0.65):
            seeds = [hard + strength + rng.normal(0, 0.1) + rng.normal(0, 0.7, rows) > 0 for _ in range(3)]
            drawn.append({s: weights @ hit for s, hit in enumerate(seeds)})
        spread = math.sqrt(1.2**2 + 0.7**2 + 0.1**2)
        truth = (math.erf(0.65 / spread / math.sqrt(2)) - math.erf(0.8 / spread / math.sqrt(2))) / 2
        found = compare(drawn[1], drawn[0], (0, 0))
        held += found.low <= truth <= found.high
    assert 0.9 <= held / trials <= 1.0
