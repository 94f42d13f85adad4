"""Malformed inputs of text classification, beside those of tests/cli/test_bad_input.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bad_inputs.world import Args, World, bad, case, refused, setting

TASK = "text-classification"
ROWS = [{"text": "a good film", "label": "positive"}, {"text": "a bad film", "label": "negative"}]


def labels(*values: Any) -> list[dict[str, Any]]:
    """A row for each label."""
    return [{"text": f"film {i}", "label": value} for i, value in enumerate(values)]


CASES = [
    bad("labels that are objects", labels({"name": "a"}, {"name": "b"}), "row 1", "the label is an object", "must be a text or a number"),
    bad("labels in lists of lists", labels([["a"]], [["b"]]), "row 1", "a list (`['a']`)", "name each label"),
    bad("null in a list of labels", labels(["a", "b"], ["a", None]), "row 2", "null", "name each label"),
    bad("text and number in a list of labels", labels(["a"], ["b", 1]), "row 2", "text and a number", "one type"),
    bad("empty lists of labels", labels([], []), "only one label", "at least two"),
    bad("text beside numbers", labels(1, 2, "three"), "row 3", "`label`", "str", "use one type"),
    bad("infinite label", labels(1.0, float("inf")), "row 2", "`inf`", "remove the row"),
    bad("labels that are all NaN", labels(float("nan"), float("nan")), "row 1", "`nan`", "fill it in"),
    bad("nan among numbers of a CSV", "text,label\na,1\nb,nan\nc,0\n", "row 2", "`nan` where others are numbers", "single-label", file="a.csv"),
    bad("huge label", labels(10**30, 1), "row 1", "`label`", "too large", "mend or remove"),
    bad("number that no 32 bits hold", labels(1.5, 1e300), "row 2", "`1e+300`", "32 bits"),
    bad("every number the same", labels(1.5, 1.5), "every label is 1.5", "different numbers"),
    bad("blank texts", [{**row, "text": " "} for row in ROWS], "every text is empty", "give rows with text"),
    bad("second texts that are lists", [{**row, "text_pair": ["x"]} for row in ROWS], "row 1", "`text_pair` is a list", "--columns"),
    bad("label of eval of another type", ROWS, "row 1", "`1`", "negative, positive", eval=labels(1)),
    setting("text-classification.class_weights", "{maybe: 2}", "unknown label `maybe`", "negative, positive"),
    setting("text-classification.class_weights", "{positive: -2}", "at least 0", "{'positive': -2}"),
    setting("text-classification.class_weights", "{positive: 0, negative: 0}", "at least 0", "such as {spam: 5, ham: 1}"),
    setting("text-classification.class_weights", "balance", "none, balanced, or a weight", "`balance`"),
    setting("text-classification.threshold", "1", "less than 1", "`1`"),
    setting("text-classification.problem", "multilabel", "'multi-label'", "`multilabel`"),
    setting("text-classification.problm", "regression", "did you mean `problem`"),
    setting("text-classification.separator", "''", "at least 1 character"),
    case("predict on a list", lambda w: w.predict("a.jsonl", [{"text": ["a"]}]), "a.jsonl, row 1", "`text` is a list", "must be text"),
    case("predict on a list in a later row", lambda w: w.predict("a.jsonl", [{"text": "a"}, {"text": ["a"]}]), "a.jsonl, row 2", "`text` is a list", "must be text"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    refused(args, words, code, lines, world, cli, monkeypatch)
