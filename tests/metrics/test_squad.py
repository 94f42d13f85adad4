"""SQuAD's metrics against torchmetrics (version 1.1), a plain reading of the version 2.0 script, and by hand."""

from __future__ import annotations

import collections
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as torchmetrics_squad

from tunesmith.metrics.squad import Squad, best_threshold, normalise, scores


def measured(rows: list[tuple[str, list[str]]]) -> dict[str, float]:
    metric = Squad()
    for predicted, true in rows:
        metric.update(predicted, true)
    return metric.compute()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, a dog; an Owl!", "cat dog owl"),
        ("U.S.A.", "usa"),
        ("theatre and anarchy", "theatre and anarchy"),
        ("the", ""),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation is dropped
        ("Thủ đô của Việt Nam là Hà Nội.", "thủ đô của việt nam là hà nội"),
        ("a\u00a0b\tc\nd", "b c d"),
    ],
)
def test_texts_are_compared_in_a_normal_form(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_f1_by_hand() -> None:
    """P = {new, york, city}, G = {new, york}: common 2, so f1 = 4 / 5."""
    assert scores("New York City", ["the New York"]) == (0.0, pytest.approx(0.8))
    assert scores("New York City", ["Boston", "new york city."]) == (1.0, 1.0)
    assert scores("new new york", ["new york york"]) == (0.0, pytest.approx(2 / 3))  # multisets
    assert scores("Hà Nội", ["thành phố Hà Nội"]) == (0.0, pytest.approx(4 / 6))


def test_unanswerable_rows_want_an_empty_text() -> None:
    found = measured([("", []), ("cat", []), ("cat", ["cat"]), ("", ["cat"])])
    assert found == {
        "exact_match": 0.5, "f1": 0.5, "exact_match_answerable": 0.5, "f1_answerable": 0.5, "exact_match_unanswerable": 0.5,
    }  # fmt: skip
    assert set(measured([("cat", ["cat"])])) == {"exact_match", "f1"}
    assert set(measured([("cat", [])])) == {"exact_match", "f1", "exact_match_unanswerable"}
    assert measured([]) == {}


def test_the_two_scripts_differ_where_nothing_is_left_of_a_text() -> None:
    assert scores("a", ["the"], 1) == (1.0, 0.0)
    assert scores("a", ["the"], 2) == (1.0, 1.0)
    assert scores("cat", ["the", "cat"], 2) == (1.0, 1.0)
    assert scores("the", ["the", "cat"], 1) == (1.0, 0.0)
    assert scores("the", ["the", "cat"], 2) == (0.0, 0.0)
    assert measured([("a", ["the"])])["f1"] == 0.0
    assert measured([("a", ["the"]), ("", [])])["f1"] == 1.0


WORDS = st.sampled_from(
    ["the", "a", "an", "cat", "Cat", "dog!", "owl,", "New", "York.", "1990", "việt", "nam", "à", "...", ",", "-"]
)
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_version_1_is_torchmetrics(rows: list[tuple[str, list[str]]]) -> None:
    rows = [(p, ts) for p, ts in rows if normalise(p) and all(map(normalise, ts))] or [("cat", ["cat"])]
    # (Of texts with nothing left torchmetrics follows version 2; the script of version 1.1 is checked by hand above.)
    preds = [{"id": str(i), "prediction_text": predicted} for i, (predicted, _) in enumerate(rows)]
    target = [
        {"id": str(i), "answers": {"text": true, "answer_start": [0] * len(true)}} for i, (_, true) in enumerate(rows)
    ]
    reference, found = torchmetrics_squad(preds, target), measured(rows)
    assert found["exact_match"] == pytest.approx(float(reference["exact_match"]) / 100, abs=1e-6)
    assert found["f1"] == pytest.approx(float(reference["f1"]) / 100, abs=1e-6)


def reference_v2(predicted: str, golds: list[str]) -> tuple[float, float]:
    """The definition of evaluate-v2.0.py in a few plain lines."""

    def norm(text: str) -> str:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text).split())

    def f1(gold: str) -> float:
        g, p = norm(gold).split(), norm(predicted).split()
        if not g or not p:
            return float(g == p)
        same = sum((collections.Counter(g) & collections.Counter(p)).values())
        if same == 0:
            return 0.0
        precision, recall = same / len(p), same / len(g)
        return 2 * precision * recall / (precision + recall)

    golds = [gold for gold in golds if norm(gold)] or [""]
    return max(float(norm(gold) == norm(predicted)) for gold in golds), max(f1(gold) for gold in golds)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=3)), min_size=1, max_size=5))
def test_version_2_is_its_definition(rows: list[tuple[str, list[str]]]) -> None:
    rows = [*rows, ("", [])]
    found, reference = measured(rows), [reference_v2(*row) for row in rows]
    assert found["exact_match"] == pytest.approx(sum(e for e, _ in reference) / len(rows))
    assert found["f1"] == pytest.approx(sum(f for _, f in reference) / len(rows))


def test_a_threshold_by_hand() -> None:
    """Rows with margins -3 (right when answered), -1 (right when empty), 2 (right when empty): cut between -3 and -1."""
    assert best_threshold([2.0, -3.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]) == -2.0
    assert best_threshold([1.0, 2.0], [1.0, 1.0], [0.0, 0.0]) == 3.0  # always answer
    assert best_threshold([1.0, 2.0], [0.0, 0.0], [1.0, 1.0]) == 0.0  # never answer
    assert best_threshold([], [], []) == 0.0


NUMBERS = st.tuples(st.integers(-4, 4), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0]))


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=8))
def test_no_other_threshold_is_better(rows: list[tuple[int, float, float]]) -> None:
    margins, answered, empty = (list(map(float, column)) for column in zip(*rows, strict=True))

    def total(threshold: float) -> float:
        return sum(e if m > threshold else a for m, a, e in zip(margins, answered, empty, strict=True))

    assert total(best_threshold(margins, answered, empty)) == max(total(t / 2) for t in range(-11, 12))
