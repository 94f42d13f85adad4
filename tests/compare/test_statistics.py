"""Intervals against the closed form, fronts against brute force, rows against sums done by hand."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from fake_comparison import comparison, failed_run, fake_baseline, fake_protocol, fake_run, full_comparison

from tunesmith.compare.statistics import aggregate, mean_interval, pareto_front


def test_interval_by_hand() -> None:
    # 1, 2, 3: s = 1, t(0.975, 2) = 4.302653 (any printed table), half = 4.302653 / sqrt(3) = 2.484138
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.std == 1.0
    assert interval.n == 3
    assert interval.low == pytest.approx(2.0 - 2.484138, abs=1e-6)
    assert interval.high == pytest.approx(2.0 + 2.484138, abs=1e-6)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_interval_matches_scipy_stats(n: int, confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(n)
    values = [draw.gauss(0.8, 0.02) for _ in range(n)]
    interval = mean_interval(values, confidence)
    mean = sum(values) / n
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    low, high = stats.t.interval(confidence, n - 1, loc=mean, scale=std / math.sqrt(n))
    # Both compute the same quantile in double precision, by different routes; 1e-9 is far above their rounding.
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9)


def test_interval_covers_as_often_as_it_says() -> None:
    draw = random.Random(0)
    trials = 2000
    covered = 0
    for _ in range(trials):
        interval = mean_interval([draw.gauss(0, 1) for _ in range(3)])
        assert interval.low is not None and interval.high is not None
        covered += interval.low <= 0.0 <= interval.high
    # Standard error of a proportion of 0.95 over 2000 trials is 0.0049; four of them.
    assert covered / trials == pytest.approx(0.95, abs=0.02)


def test_one_value_has_no_interval() -> None:
    interval = mean_interval([0.7])
    assert (interval.mean, interval.low, interval.high, interval.std, interval.n) == (0.7, None, None, None, 1)


def test_equal_seeds_have_an_interval_of_width_zero() -> None:
    interval = mean_interval([0.5, 0.5, 0.5])
    assert (interval.low, interval.high, interval.std) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize(
    ("values", "confidence"), [([], 0.95), ([1.0, math.nan], 0.95), ([1.0, 2.0], 1.0), ([1.0], 0.0)]
)
def test_interval_refuses(values: list[float], confidence: float) -> None:
    with pytest.raises(ValueError, match=r"interval|confidence"):
        mean_interval(values, confidence)


def test_front_by_hand() -> None:
    #        cheap/bad  dominated  best    tie of 3   None
    costs = [1.0, 2.0, 3.0, 3.0, None, 2.0]
    qualities = [0.6, 0.5, 0.9, 0.9, 0.99, None]
    assert pareto_front(costs, qualities, True) == {0, 2, 3}
    assert pareto_front(costs, [None if q is None else -q for q in qualities], False) == {0, 2, 3}
    assert pareto_front([], [], True) == set()
    with pytest.raises(ValueError):
        pareto_front([1.0], [], True)


def test_front_against_brute_force() -> None:
    draw = random.Random(7)
    for _ in range(50):
        points = [(draw.randint(0, 6), draw.randint(0, 6)) for _ in range(12)]  # a small grid, so that ties occur
        front = pareto_front([c for c, _ in points], [q for _, q in points], True)
        beaten = {
            i
            for (i, (c, q)), (d, r) in itertools.product(enumerate(points), points)
            if d <= c and r >= q and (d, r) != (c, q)
        }
        assert front == set(range(12)) - beaten


def test_rows_are_sorted_and_complete() -> None:
    rows = full_comparison()["rows"]
    means = [row["primary"]["mean"] for row in rows if row["primary"]]
    assert means == sorted(means, reverse=True)
    assert rows[-1]["technique"] == "qlora"
    assert rows[-1]["status"] == "refused"
    assert {row["technique"]: row["status"] for row in rows}["prompt-tuning"] == "partial"
    assert len({tuple(row) for row in rows}) == 1, "every row has the same keys in the same order"


def test_a_row_by_hand() -> None:
    runs = [fake_run("lora", seed) for seed in range(3)] + [fake_baseline("majority", 0.5, 0)]
    for run, accuracy, seconds in zip(runs, (0.80, 0.82, 0.84), (60.0, 120.0, 180.0), strict=False):
        run["metrics"]["after"]["accuracy"] = accuracy
        run["cost"]["train_seconds"] = seconds
    rows = {row["technique"]: row for row in aggregate(runs, fake_protocol())}
    lora = rows["lora"]
    assert lora["primary"]["mean"] == pytest.approx(0.82)
    assert lora["primary"]["values"] == [0.80, 0.82, 0.84]
    assert lora["primary"] is lora["metrics"]["accuracy"]
    assert lora["train_seconds"] == 120.0
    assert lora["quality_per_cost"] == pytest.approx(100 * (0.82 - 0.5) / 2.0)
    assert lora["trainable_share"] == pytest.approx(33_026 / (4_386_178 + 33_026))
    assert lora["learning_rate"] == 5e-4
    assert lora["seeds"] == [0, 1, 2]
    assert lora["pareto_memory"] is lora["pareto_time"] is True
    assert rows["majority"]["quality_per_cost"] is None
    assert rows["majority"]["train_seconds"] is None, "a zero that means `not measured` must not be averaged in"
    assert rows["majority"]["pareto_memory"] is False


def test_quality_per_cost_knows_that_less_loss_is_better() -> None:
    runs = [fake_run("lora", 0), fake_baseline("untouched", 0.5, 0, "untouched")]
    runs[0]["metrics"]["after"]["loss"], runs[1]["metrics"]["after"]["loss"] = 0.4, 0.7
    runs[0]["cost"]["train_seconds"] = 30.0
    protocol = {**fake_protocol(), "primary": "loss", "higher_is_better": False}
    rows = aggregate(runs, protocol)
    assert [row["technique"] for row in rows] == ["lora", "untouched"]
    assert rows[0]["quality_per_cost"] == pytest.approx(100 * 0.3 / 0.5)


def test_no_reference_means_no_gain() -> None:
    assert aggregate([fake_run("lora", 0)], fake_protocol())[0]["quality_per_cost"] is None


def test_failed_seeds_are_left_out_of_means_and_named() -> None:
    runs = [fake_run("lora", 0), failed_run("lora", 1, "killed"), failed_run("lora", 2, "out of memory")]
    row = aggregate(runs, fake_protocol())[0]
    assert (row["status"], row["n"], row["seeds"]) == ("partial", 1, [0, 1, 2])
    assert row["reason"] == "seed 1: killed; seed 2: out of memory"
    assert row["primary"]["low"] is None


def test_only_failures() -> None:
    rows = comparison([failed_run("lora", seed, "out of memory") for seed in range(3)])["rows"]
    assert rows[0]["status"] == "failed"
    assert rows[0]["reason"] == "out of memory"
    assert rows[0]["primary"] is None
    assert aggregate([], fake_protocol()) == []


def test_a_metric_that_is_not_finite_is_left_out() -> None:
    runs = [fake_run("lora", seed) for seed in range(2)]
    runs[0]["metrics"]["after"]["loss"] = math.nan
    row = aggregate(runs, fake_protocol())[0]
    assert row["metrics"]["loss"]["n"] == 1
