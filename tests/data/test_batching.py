"""The order of rows: every row once an epoch, a function of seed and step alone, and little padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.batching import BatchOrder, by_length, passes


def lengths_of(count: int, seed: int = 0) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).lognormal(3.5, 0.8, count).astype(int), 3, 512)


def padding(batches: list[np.ndarray], lengths: np.ndarray) -> float:
    """Share of positions that are padding."""
    computed = sum(len(batch) * lengths[batch].max() for batch in batches)
    return float(1 - lengths.sum() / computed)


orders = st.builds(
    BatchOrder,
    st.lists(st.integers(1, 500), min_size=1, max_size=300).map(np.asarray),
    st.integers(1, 40),
    st.integers(0, 2**31),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(orders, st.integers(0, 50))
def test_every_row_once_an_epoch(order: BatchOrder, number: int) -> None:
    batches = order.epoch(number)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(order.lengths)))
    assert len(batches) == order.steps_per_epoch
    sizes = sorted(map(len, batches), reverse=True)
    assert all(size == order.batch_size for size in sizes[:-1]), "only one batch of an epoch may be smaller"


@settings(max_examples=60, deadline=None)
@given(orders, st.integers(0, 40), st.integers(0, 40))
def test_going_on_equals_not_having_stopped(order: BatchOrder, first: int, more: int) -> None:
    total = first + more
    whole = [batch.tolist() for batch in order.steps(0, total)]
    assert len(whole) == total
    assert [batch.tolist() for batch in order.steps(first, total)] == whole[first:]


@pytest.mark.parametrize("buckets", [True, False])
def test_epochs_and_seeds_differ_and_the_same_seed_repeats(buckets: bool) -> None:
    lengths = lengths_of(200)

    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate(BatchOrder(lengths, 8, seed, buckets).epoch(epoch)).tolist()

    assert flat(0, 0) == flat(0, 0)
    assert flat(0, 0) != flat(0, 1)
    assert flat(0, 0) != flat(1, 0)
    assert flat(0, 1) != flat(1, 0), "seed and epoch may not stand for each other"


def test_buckets_cut_padding_on_lengths_of_real_text() -> None:
    lengths = lengths_of(4000)
    plain = padding(BatchOrder(lengths, 16, 0, buckets=False).epoch(0), lengths)
    batches = BatchOrder(lengths, 16, 0, buckets=True).epoch(0)
    cut = [batch[places] for batch in batches for places in passes(lengths[batch], 128, 16)]
    assert plain > 0.4, "the lengths of this test must have something to save"
    assert padding(batches, lengths) < 0.75 * plain
    assert padding(cut, lengths) < 0.15
    assert len(cut) < 2 * len(batches), "passes cost time too"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 80), st.integers(1, 7))
def test_passes_are_the_cheapest_cut(lengths: list[int], overhead: int, most: int) -> None:
    """Against every way to cut the rows, sorted by length, into contiguous passes."""
    found = passes(np.asarray(lengths), overhead, most)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert max(map(len, found)) <= most

    def cost(cut: list[list[int]]) -> int:
        return sum(max(part) * len(part) + overhead for part in cut)

    ordered = sorted(lengths, reverse=True)
    cuts = []
    for marks in itertools.product((False, True), repeat=len(ordered) - 1):
        parts = [[ordered[0]]]
        for length, new in zip(ordered[1:], marks, strict=True):
            if new:
                parts.append([length])
            else:
                parts[-1].append(length)
        if max(map(len, parts)) <= most:
            cuts.append(parts)
    assert cost([[lengths[i] for i in part] for part in found]) == min(map(cost, cuts))


def test_buckets_stay_random() -> None:
    """Batches are not served in order of length, and a row has other company in every epoch."""
    lengths = lengths_of(16 * 50)
    order = BatchOrder(lengths, 16, 0)
    means = [float(lengths[batch].mean()) for batch in order.epoch(0)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4  # 3 standard errors with 50 batches
    company = [set(next(batch for batch in order.epoch(e) if 0 in batch).tolist()) for e in (0, 1)]
    assert company[0] != company[1]


def test_evaluation_goes_from_long_to_short_and_skips_nothing() -> None:
    lengths = lengths_of(101)
    batches = by_length(lengths, 10)
    flat = np.concatenate(batches)
    assert sorted(flat.tolist()) == list(range(101))
    assert (np.diff(lengths[flat]) <= 0).all()
    assert [len(batch) for batch in batches] == [10] * 10 + [1]


def test_long_rows_of_an_evaluation_come_in_smaller_batches() -> None:
    lengths = np.asarray([30, 400, 90, 100, 20, 100, 10])
    batches = by_length(lengths, 4, tokens=300)
    assert [lengths[batch].tolist() for batch in batches] == [[400], [100, 100, 90], [30, 20, 10]]
    assert by_length(np.asarray([], np.int64), 4) == []


def test_the_order_is_part_of_the_format() -> None:
    """A resumed run of an older version must see the same rows: this order may only change on purpose."""
    assert [b.tolist() for b in BatchOrder(np.asarray([5, 3, 9, 1, 7]), 2, 0).epoch(0)] == [[3, 1], [2], [0, 4]]
