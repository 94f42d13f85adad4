"""Entity metrics against seqeval (default mode) and by hand."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import f1_score as sklearn_f1

from tunesmith.metrics.entities import EntityMetric, TagMetric, entities

# Invalid sequences too: I-X after O, after another type, at the start; a type with a dash in its name.
TAGS = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-geo-loc", "I-geo-loc"]
rows = st.lists(
    st.integers(0, 12).flatmap(
        lambda n: st.tuples(*[st.lists(st.sampled_from(TAGS), min_size=n, max_size=n) for _ in range(2)])
    ),
    min_size=1,
    max_size=6,
)


def scored(pairs: list[tuple[list[str], list[str]]]) -> dict[str, float]:
    metric = EntityMetric()
    for predicted, true in pairs:
        metric.update(predicted, true)
    return metric.compute()


@settings(max_examples=150, deadline=None)
@given(rows)
def test_entities_and_scores_are_those_of_seqeval(pairs: list[tuple[list[str], list[str]]]) -> None:
    for side in (side for pair in pairs for side in pair):
        assert entities(side) == [(kind, first, last + 1) for kind, first, last in get_entities(side)]
    found = scored(pairs)
    if not any(true for _, true in pairs):
        assert found == {}
        return
    predicted, true = [list(side) for side in zip(*pairs, strict=True)]
    if not any(get_entities(side) for side in (*predicted, *true)):
        assert found["f1"] == found["precision"] == found["recall"] == 0.0
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # undefined ratios are 0 there too
        report = classification_report(true, predicted, output_dict=True, zero_division=0)
    micro = report.pop("micro avg")
    assert found["precision"] == pytest.approx(micro["precision"])
    assert found["recall"] == pytest.approx(micro["recall"])
    assert found["f1"] == pytest.approx(micro["f1-score"])
    each = {kind: row["f1-score"] for kind, row in report.items() if not kind.endswith(" avg") and row["support"]}
    assert {name[3:]: value for name, value in found.items() if name.startswith("f1_")} == pytest.approx(each)
    words = [(p, t) for a, b in pairs for p, t in zip(a, b, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(p == t for p, t in words) / len(words))


def test_entity_scores_by_hand() -> None:
    """True: PER 0-2, LOC 3-4, LOC 4-5. Predicted: PER 0-1 (wrong end), LOC 3-4, PER 4-5 (wrong type): 1 right of 3 and 3."""
    true = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]
    predicted = ["B-PER", "O", "O", "B-LOC", "B-PER"]
    found = scored([(predicted, true)])
    assert found["precision"] == found["recall"] == found["f1"] == pytest.approx(1 / 3)
    assert found["f1_PER"] == 0.0
    assert found["f1_LOC"] == pytest.approx(2 * 1 / (1 + 2))
    assert found["accuracy"] == pytest.approx(3 / 5)


def test_keys_follow_the_rows_and_not_the_predictions() -> None:
    true = ["B-PER", "O"]
    assert scored([(["B-LOC", "O"], true)]).keys() == scored([(["O", "O"], true)]).keys()


def test_rows_add_up_whatever_their_order() -> None:
    pairs = [(["B-PER"], ["B-PER"]), (["O", "B-LOC"], ["B-LOC", "I-LOC"])]
    assert scored(pairs) == scored(pairs[::-1])
    # An entity does not run on from one row into the next.
    assert scored([(["B-PER"], ["B-PER"]), (["I-PER"], ["I-PER"])])["f1_PER"] == 1.0
    assert len(entities(["B-PER", "I-PER"])) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(["NOUN", "VERB", "ADJ", "X"])] * 2), min_size=1, max_size=30))
def test_plain_tags_are_scored_as_sklearn_does(words: list[tuple[str, str]]) -> None:
    metric = TagMetric()
    metric.update([p for p, _ in words[:5]], [t for _, t in words[:5]])
    metric.update([p for p, _ in words[5:]], [t for _, t in words[5:]])
    found = metric.compute()
    predicted, true = [p for p, _ in words], [t for _, t in words]
    assert found["accuracy"] == pytest.approx(sum(p == t for p, t in words) / len(words))
    assert found["f1_macro"] == pytest.approx(sklearn_f1(true, predicted, average="macro", zero_division=0))


def test_nothing_gives_nothing() -> None:
    assert EntityMetric().compute() == TagMetric().compute() == {}
