"""The doctor on malformed rows of every task: exit code 2, the row and the remedy among its errors, and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bad_inputs.world import Content, TaskWorld
from tunesmith.testing.rows import rows_for

ASK = {"role": "user", "content": "a film"}
SAY = {"role": "assistant", "content": "good"}
ANSWER = {"question": "was it good", "context": "the film"}

CASES: dict[str, tuple[str, Content, list[str]]] = {
    "tags of another length": ("token-classification", [{"tokens": ["a"], "ner_tags": ["O", "O"]}], ["row 13", "one tag"]),
    "null among the tags": ("token-classification", [{"tokens": ["a"], "ner_tags": [None]}], ["row 13"]),
    "answer that is nowhere": ("question-answering", [{**ANSWER, "answers": '{"text": ["dull"], "answer_start": [0]}'}], ["row 13", "letter by letter"]),
    "infinite start": ("question-answering", [{**ANSWER, "answers": '{"text": ["film"], "answer_start": [Infinity]}'}], ["row 13", "answer_start"]),
    "answers as NumPy prints them": ("question-answering", [{**ANSWER, "answers": "{'text': array(['film']), 'answer_start': array([4])}"}], ["row 13"]),
    "empty question": ("question-answering", [{**ANSWER, "question": "", "answers": '{"text": ["film"], "answer_start": [4]}'}], ["row 13", "question"]),
    "empty document": ("summarization", [{"document": "", "summary": "a film"}], ["row 13", "the document is empty"]),
    "empty completion": ("instruction", [{"prompt": "a film", "completion": ""}], ["row 13", "completion is empty"]),
    "messages as a prompt": ("instruction", [{"prompt": '[{"role": "user", "content": "a"}]', "completion": "a"}], ["row 13", "--task chat"]),
    "silent assistant": ("chat", [{"messages": [ASK]}], ["row 13", "says nothing"]),
    "misspelt role": ("chat", [{"messages": [ASK, SAY, {"role": "usr", "content": "a"}, SAY]}], ["row 13", "did you mean `user`"]),
    "content that is a number": ("chat", [{"messages": [{**ASK, "content": 3}, SAY]}], ["row 13", "`content` is a number"]),
    "an exchange that is too long": ("chat", [{"messages": [{**ASK, "content": "film " * 300}, SAY]}], ["row 13", "exchange 1"]),
    "null text": ("language-modeling", [{"text": None}], ["row 13", "`text` is null"]),
    "null label": ("text-classification", [{"text": "a film", "label": None}], ["row 13", "`label` is null"]),
    "null in a list of labels": ("text-classification", [{"text": "a film", "label": ["a", None]}], []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_doctor_names_the_row(
    name: str, tmp_path: Path, models: Path, artifact: Callable[[str], Path], cli: Any
) -> None:
    task, rows, words = CASES[name]
    world = TaskWorld(tmp_path, models, task, artifact)
    answer = cli(*world.doctor("rows.jsonl", [*rows_for(task, 12), *rows], "--json"))
    assert answer.code == 2
    assert "Traceback" not in answer.err
    if not words:  # the file itself cannot be read
        assert answer.err.startswith("error: ")
        return
    said = [each["message"] for each in answer.json["errors"]]
    assert any(all(word in message for word in ("rows.jsonl", *words)) for message in said), said


@pytest.mark.parametrize(
    ("task", "content", "words"),
    [
        (
            "token-classification",
            [{"tokens": ["a", "b"], "ner_tags": [0, -100]}] * 2,
            ["rows.jsonl, rows 1, 2", "-100", "begin at 0"],
        ),
        ("language-modeling", [{"text": " "}] * 3, ["rows.jsonl (train): every text is empty", "give train rows"]),
        (
            "chat",
            [{"messages": [ASK, SAY], "tools": "x("}] * 2,
            ["rows.jsonl, rows 1, 2", "`tools`", "a list of objects"],
        ),
    ],
    ids=["negative tags", "blank texts", "tools that are no JSON"],
)
def test_the_doctor_says_what_is_wrong_with_all_rows(
    task: str,
    content: Content,
    words: list[str],
    tmp_path: Path,
    models: Path,
    artifact: Callable[[str], Path],
    cli: Any,
) -> None:
    answer = cli(*TaskWorld(tmp_path, models, task, artifact).doctor("rows.jsonl", content, "--json"))
    assert answer.code == 2
    said = [each["message"] for each in answer.json["errors"]]
    assert any(all(word in message for word in words) for message in said), said
