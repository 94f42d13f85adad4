"""Accuracy, macro F1 and Matthews correlation."""

from __future__ import annotations

import pytest

from tunesmith.metrics.classification import SingleLabel


def test_an_answer_that_is_no_label_is_wrong_and_no_label_of_its_own() -> None:
    """By hand: label 0 has one hit of two rows, label 1 two of two; a third F1 of 0 would make a mean of 0.556."""
    metric = SingleLabel()
    for predicted, true in ((0, 0), (-1, 0), (1, 1), (1, 1)):
        metric.update(predicted, true)
    found = metric.compute()
    assert found["accuracy"] == 0.75
    assert found["f1_macro"] == pytest.approx((2 / 3 + 1) / 2)
