"""Malformed inputs of question answering."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from bad_inputs.world import Args, World, bad, case, refused, setting

TASK = "question-answering"
CONTEXT = "the film was very good and slow"
GOOD = {"question": "was it good", "context": CONTEXT, "answers": {"text": ["good"], "answer_start": [18]}}
FORM = '{"text": [...], "answer_start": [...]}'


def row(**changes: Any) -> list[dict[str, Any]]:
    """A good row, and a second with other cells."""
    return [GOOD, {**GOOD, **changes}]


def answers(text: Any, start: Any) -> list[dict[str, Any]]:
    """A good row, and a second with these answers."""
    return row(answers={"text": text, "answer_start": start})


def squad(**changes: Any) -> str:
    """SQuAD's nested form: `question`, `paragraph` and `article` change what they name."""
    question = {
        "id": "1",
        "question": "was it good",
        "answers": [{"text": "good", "answer_start": 18}],
        **changes.get("question", {}),
    }
    paragraph = {"context": CONTEXT, "qas": [question], **changes.get("paragraph", {})}
    first = {"title": "one", "paragraphs": [{"context": CONTEXT, "qas": [question]}]}
    return json.dumps({"data": [first, {"title": "two", "paragraphs": [paragraph], **changes.get("article", {})}]})  # fmt: skip


CASES = [
    # ---- where the answer stands
    bad("start beyond the context", answers(["good"], [400]), "row 2", "`good`", "400 is outside the 31 characters", "stands at 18", "offsets=mend"),
    bad("start below 0", answers(["good"], [-3]), "row 2", "at -3", "stands at 18", "offsets=mend"),
    bad("wrong start", answers(["good"], [4]), "row 2", "at 4 stands `film`", "it stands at 18", "correct answer_start"),
    bad("answer that is not in the context", answers(["dull"], [4]), "row 2", "`dull` does not occur", "letter by letter"),
    bad("answer that is there nowhere, to be mended", answers(["dull"], [4]), "row 2", "`dull` does not occur", flags=("--set", "question-answering.offsets=mend")),
    bad("answer of an empty context", row(context=""), "row 2", "`good` does not occur"),
    bad("start that is a word", answers(["good"], ["here"]), "row 2", "`here` is not a whole number", "from 0"),
    bad("start that is a fraction", answers(["good"], [18.5]), "row 2", "`18.5` is not a whole number"),
    bad("start that is NaN", answers(["good"], [float("nan")]), "row 2", "`nan` is not a whole number"),
    bad("start that is infinite", answers(["good"], [float("inf")]), "row 2", "`inf` is not a whole number"),
    bad("start that is true", answers(["good"], [True]), "row 2", "`True` is not a whole number"),
    bad("start of 400 digits", row(answers=f'{{"text": ["good"], "answer_start": [1{"0" * 400}]}}'), "row 2", "not a whole number", "000..."),
    bad("start in a list", answers(["good"], [[18]]), "row 2", "`[18]` is not a whole number"),
    # ---- the form of answers
    bad("answers without text", row(answers={"answer_start": [18]}), "row 2", "no `text`", "answer_start", FORM),
    bad("more texts than starts", answers(["good", "slow"], [18]), "row 2", "2 texts and 1 starts", "give each text its start"),
    bad("text that is a number", answers([18], [18]), "row 2", "holds a number", FORM),
    bad("text that is null", answers([None], [18]), "row 2", "holds null", FORM),
    bad("answers that are a number", [{**GOOD, "answers": 3}] * 2, "row 1", "`answers` is a number", FORM),
    bad("answers that are a list of texts", [{**GOOD, "answers": ["good"]}] * 2, "row 1", "`answers` is a list", FORM),
    bad("null answers", row(answers=None), "row 2", "`answers` is null", "remove the row"),
    bad("bare answer without a start", [{**GOOD, "answers": "good"}] * 2, "row 1", "no answer_start", "stands at 18", "offsets=mend"),
    bad("bare answer that is nowhere", [{**GOOD, "answers": "dull"}] * 2, "row 1", "`dull` does not occur"),
    bad("answers cut in the middle", row(answers='{"text": ["good"], "answer_start": [18'), "row 2", "cannot be read as an object", "write it as JSON", FORM),
    bad("answers as NumPy prints them", "question,context,answers\nq,the film,\"{'text': array(['film']), 'answer_start': array([4])}\"\n",
        "row 1", "array(", "write it as JSON", file="a.csv"),
    bad("impossible with an answer", row(is_impossible=True), "row 2", "is_impossible is true", "`good`", "empty `answers`"),
    bad("no row with an answer", [{"question": "q", "context": f"the film {i}", "answers": {"text": [], "answer_start": []}} for i in range(30)],
        "no row with an answer"),
    # ---- question and context
    bad("empty question", row(question=""), "row 2", "the question is empty", "fill it in or remove"),
    bad("blank question", row(question=" \t"), "row 2", "the question is empty"),
    bad("null question", row(question=None), "row 2", "`question` is null"),
    bad("null context", row(context=None), "row 2", "`context` is null", "remove the row"),
    bad("questions that are numbers", [{**GOOD, "question": 3}] * 2, "row 1", "`question` is a number", "must be text"),
    bad("context under another name", [{"question": "q", "ctx": "the film", "answers": "film"}], "no column `context`", "`ctx`", "--columns context=ctx"),
    bad("question longer than the window", row(question="was it good " * 40), "row 2", "120 tokens", "max_length=128", "long_question=cut"),
    case("max-length too small for any question", lambda w: w.on("a.jsonl", row(), "--max-length", 4), "a.jsonl, row 1", "max_length=4", "raise --max-length"),
    # ---- SQuAD's nested form
    bad("article without paragraphs", squad(article={"paragraphs": None}), "article 2", "`paragraphs`", "mend or remove", file="a.json"),
    bad("paragraph without questions", squad(paragraph={"qas": None}), "article 2, paragraph 1", "`qas`", "SQuAD's form", file="a.json"),
    bad("questions that are no list", squad(paragraph={"qas": {}}), "article 2, paragraph 1", "`qas`", file="a.json"),
    bad("paragraph without context", squad(paragraph={"context": None}), "row 2", "`context` is null", file="a.json"),
    bad("question without answers", squad(question={"answers": None}), "row 1", "`answers` is null", file="a.json"),
    bad("impossible question with answers", squad(question={"is_impossible": True}), "article 1, paragraph 1", "`was it good`", "is_impossible=true", file="a.json"),
    bad("no articles", '{"data": []}', "holds no rows", "at least one row", file="a.json"),
    # ---- options
    setting("question-answering.stride", "-1", "greater than or equal to 0", "`-1`"),
    setting("question-answering.offsets", "fix", "'check' or 'mend'", "`fix`"),
    setting("question-answering.max_answer", "0", "greater than or equal to 1"),
    setting("question-answering.null_threshold", ".nan", "finite number", "`nan`"),
    setting("question-answering.null_threshold", "high", "valid number", "`high`"),
    setting("question-answering.strid", "3", "did you mean `stride`"),
    # ---- use
    case("predict without question", lambda w: w.predict("a.jsonl", [{"context": "a film"}]), "a.jsonl", "no column `question`", "`context`"),
    case("predict on a null context", lambda w: w.predict("a.jsonl", row(context=None)), "a.jsonl", "row 2", "`context` is null"),
    case("predict on a context that is a list", lambda w: w.predict("a.jsonl", [{"question": "q", "context": ["a"]}]), "a.jsonl, row 1", "`context` is a list"),
    case("predict on a long question", lambda w: w.predict("a.jsonl", row(question="a " * 200)), "a.jsonl, row 2", "200 tokens", "shorten the question"),
    case("evaluate on a wrong answer", lambda w: w.evaluate("a.jsonl", answers(["dull"], [0])), "a.jsonl, row 2", "`dull` does not occur"),
    case("evaluate without answers", lambda w: w.evaluate("a.jsonl", [{"question": "q", "context": "c"}]), "a.jsonl", "no column `answers`", "Add it"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    refused(args, words, code, lines, world, cli, monkeypatch)
