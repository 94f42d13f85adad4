"""Transfer and forgetting of a matrix, by hand."""

from __future__ import annotations

import pytest

from tunesmith.metrics.transfer import transfer


def test_a_matrix_by_hand() -> None:
    matrix = [[0.8, 0.4, None], [0.6, 0.7, 0.5], [0.7, 0.5, 0.9]]
    found = transfer(matrix, [0.5, 0.3, 0.1], [1.0, 1.0, 1.0])
    assert found["average_accuracy"] == pytest.approx((0.7 + 0.5 + 0.9) / 3)
    assert found["forgetting_per_stage"] == pytest.approx([0.8 - 0.7, 0.7 - 0.5])
    assert found["forgetting"] == pytest.approx(0.15)
    assert found["backward_transfer"] == pytest.approx(((0.7 - 0.8) + (0.5 - 0.7)) / 2)
    assert found["forward_transfer"] == pytest.approx(((0.4 - 0.3) + (0.5 - 0.1)) / 2)


def test_the_best_may_be_later_than_its_own_stage() -> None:
    found = transfer([[0.5, 0.0, 0.0], [0.9, 0.5, 0.0], [0.6, 0.5, 0.5]], [None] * 3, [1.0] * 3)
    assert found["forgetting_per_stage"] == pytest.approx([0.3, 0.0])
    assert found["backward_transfer"] == pytest.approx(0.05)


def test_a_perplexity_that_rises_is_forgetting() -> None:
    found = transfer([[10.0, None], [15.0, 8.0]], [None, None], [-1.0, -1.0])
    assert found["forgetting"] == pytest.approx(5.0)
    assert found["backward_transfer"] == pytest.approx(-5.0)


def test_one_stage_forgets_nothing() -> None:
    found = transfer([[0.7]], [0.5], [1.0])
    assert (found["forgetting"], found["backward_transfer"], found["forward_transfer"]) == (None, None, None)


def test_joint_training_has_one_row() -> None:
    found = transfer([[0.7, 0.8]], [0.5, 0.5], [1.0, 1.0])
    assert found["average_accuracy"] == pytest.approx(0.75)
    assert found["forgetting"] is None
