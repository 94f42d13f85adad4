"""Inputs that look wrong and mean one thing only are read as they are meant, and the doctor finds no error in them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bad_inputs.world import Content, TaskWorld

TALK = {"messages": [{"role": "user", "content": "was it good"}, {"role": "assistant", "content": "i love it"}]}
COLUMN = "văn bản"
ANSWERS = "\"{'text': ['film'], 'answer_start': [4]}\""


@pytest.mark.parametrize(
    ("task", "file", "content"),
    [
        ("language-modeling", "a.csv", "\ufefftext,n\nthe film was good,1\n"),
        ("language-modeling", "a.txt", "\ufeffthe film was good and slow\n"),
        ("language-modeling", "a.csv", "text,n\rthe film was good,1\rthe plot was dull,2\r"),
        ("chat", "a.jsonl", [{"conversations": [{"from": "human", "value": "a film"}, {"from": "gpt", "value": "good"}]}]),
        ("chat", "a.jsonl", [{"conversations": [{"from": "Human", "value": "a film"}, {"from": "GPT", "value": "good"}]}]),
        ("chat", "a.jsonl", [{"messages": [{**each, "role": each["role"].title()} for each in TALK["messages"]]}]),
        ("chat", "a.jsonl", [{"messages": [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in TALK["messages"]]}]),
        ("chat", "a.csv", f'messages\n"{TALK["messages"]}"\n'),
        ("chat", "a.jsonl", [{**TALK, "tools": ""}, {**TALK, "tools": "[]"}]),
        ("question-answering", "a.csv", f"question,context,answers\nwas it good,the film,{ANSWERS}\nwas it,the film plot,{ANSWERS}\n"),
        ("instruction", "a.jsonl", [{"instruction": "find a film", "input": None, "output": '[{"a": 1}]'}]),
        ("token-classification", "a.conll", "EU B-ORG\nfilm O\n\nI x O\nred y O\n"),
    ],
    ids=[
        "BOM before CSV", "BOM before text", "lines of old Macs", "ShareGPT", "ShareGPT in capitals", "roles in capitals", "content in parts",
        "messages as Python prints them", "no tools", "answers as Python prints them", "JSON to be written", "columns that differ between sentences",
    ],
)  # fmt: skip
def test_accepted(
    task: str,
    file: str,
    content: Content,
    tmp_path: Path,
    models: Path,
    artifact: Callable[[str], Path],
    cli: Any,
) -> None:
    world = TaskWorld(tmp_path, models, task, artifact)
    data, model = world.write(file, content), world.model()
    answer = cli("doctor", "--task", task, "--model", model, "--train", data, "--eval", data, "--json")
    assert [each["message"] for each in answer.json["errors"]] == [], answer.err


@pytest.mark.parametrize("forms", ["NFC NFD", "NFD NFC"])
def test_a_column_is_found_in_either_form_of_its_accents(
    forms: str, tmp_path: Path, models: Path, artifact: Callable[[str], Path], cli: Any
) -> None:
    world = TaskWorld(tmp_path, models, "language-modeling", artifact)
    there, asked = (unicodedata.normalize(form, COLUMN) for form in forms.split())
    data = world.write("a.jsonl", [{there: "the film was good and slow"}])
    output = tmp_path / "out.jsonl"
    command = ["predict", "-q", artifact("language-modeling"), "--data", data, "-o", output]
    answer = cli(*command, "--columns", f"text={asked}")
    assert (answer.code, answer.err) == (0, "")
    assert there in output.read_text(encoding="utf-8")
