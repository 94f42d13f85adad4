"""Which task a row is of: against the equation, by hand, and what is kept on disk."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.data.task_inference import MU, TaskInference, text_of


class Words:
    """A tokenizer with a word a token."""

    known = ("film", "good", "bad", "red", "book", "other")

    def __len__(self) -> int:
        return len(self.known)

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[self.known.index(w) for w in text.split()] for text in texts]}


TEXTS = {"films": ["film good", "film bad", "film"], "books": ["red book", "book good"]}


def test_scores_follow_the_equation() -> None:
    """log p = sum log (c_t + MU p) / (n_t + MU), counted by hand."""
    found = TaskInference.of(TEXTS, Words())
    shared_film, shared_good = (1 + 3) / (6 + 9), (1 + 2) / (6 + 9)
    wanted = math.log((3 + MU * shared_film) / (5 + MU)) + math.log((1 + MU * shared_good) / (5 + MU))
    assert found.scores("films", ["film good"], Words())[0] == pytest.approx(wanted, abs=1e-12)


def test_rows_go_where_their_words_come_from(tmp_path: Path) -> None:
    """Also with what was read back; a row without tokens goes to the first."""
    found = TaskInference.of(TEXTS, Words())
    again = TaskInference.load(tmp_path, found.save(tmp_path))
    rows = ["film film good", "red good", "", "other book"]
    for each in (found, again):
        assert each.infer({"films": rows, "books": rows}, Words()) == ["films", "books", "films", "books"]
        assert each.infer({"books": rows}, Words()) == ["books"] * 4


def test_what_was_counted_is_not_read_again() -> None:
    """The counts of earlier stages are taken over; with another vocabulary they mean nothing and all is read."""
    books: dict[str, Any] = {"books": TEXTS["books"]}
    first = TaskInference.of({"films": TEXTS["films"]}, Words())
    assert (
        TaskInference.of({"films": iter(()), **books}, Words(), first).counts == TaskInference.of(TEXTS, Words()).counts
    )
    first.size += 1
    assert TaskInference.of(TEXTS, Words(), first).counts == TaskInference.of(TEXTS, Words()).counts
    assert not TaskInference.of({"films": iter(()), **books}, Words(), first).counts["films"]


def test_the_text_of_a_row() -> None:
    """Every input column, lists and objects included; a stand-in where a column is missing; None where nothing is there."""
    task = SimpleNamespace(
        inputs=("tokens", "more"), required=("tokens", "tags"), structured=("tokens",), stand_ins={"tokens": "text"}
    )
    assert text_of({"tokens": ["a", "b"], "more": "c"}, task) == "a b c"
    assert text_of({"tokens": '["a", "b"]'}, task) == "a b"
    assert text_of({"text": "x y"}, task) == "x y"
    assert text_of({"other": "x"}, task) is None
    assert text_of({"tokens": [{"content": "hello"}]}, task) == "hello"
