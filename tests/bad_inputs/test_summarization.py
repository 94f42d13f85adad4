"""Malformed inputs of summarization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bad_inputs.world import Args, World, bad, case, refused, setting

TASK = "summarization"
GOOD = {"document": "the film was good and slow", "summary": "a good film"}


def row(**changes: Any) -> list[dict[str, Any]]:
    """A good row, and a second with other cells."""
    return [GOOD, {**GOOD, **changes}]


CASES = [
    # ---- rows
    bad("null summary", row(summary=None), "row 2", "`summary` is null", "remove the row"),
    bad("empty summary", row(summary=""), "row 2", "the summary is empty", "fill it in"),
    bad("summaries all blank", [{**GOOD, "summary": " \n"}] * 3, "row 1", "the summary is empty"),
    bad("summary that is missing", [GOOD, {"document": "the plot"}], "row 2", "`summary` is null"),
    bad("empty document", row(document=" "), "row 2", "the document is empty", "remove the row"),
    bad("null document", row(document=None), "row 2", "`document` is null"),
    bad("documents that are numbers", [{**GOOD, "document": 3}] * 2, "row 1", "`document` is a number", "must be text"),
    bad("documents that are lists", [{**GOOD, "document": ["a", "b"]}] * 2, "row 1", "`document` is a list", "must be text"),
    bad("summaries that are lists", [{**GOOD, "summary": ["a", "b"]}] * 2, "row 1", "`summary` is a list", "must be text"),
    bad("summaries that are true or false", [{**GOOD, "summary": True}] * 2, "row 1", "`summary` is true or false"),
    bad("one document that is a number", row(document=3), "row 2", "`document`", "int", "use one type"),
    bad("other columns", [{"body": "a", "tldr": "b"}], "no column `document`", "`body`, `tldr`", "--columns document="),
    bad("one other column", [{"article": "a", "tldr": "b"}], "no column `summary`", "`tldr`", "--columns summary="),
    bad("empty summary among the eval rows", row(), "row 2", "the summary is empty", eval=row(summary="")),
    bad("eval rows without a summary", row(), "no column `summary`", "Add it", eval=[{"document": "the plot"}]),
    bad("one column for both", row(), "`document` is used for both", "`summary`", flags=("--columns", "summary=document")),
    bad("column that the task has not", row(), "no column `target`", "document, summary", flags=("--columns", "target=summary")),
    # ---- model and length
    bad("model that only reads", row(), "`bert` reads text and cannot write it", "summarization", "T5", "asset:smollm2-135m", model="bert"),
    bad("no room for the document", row(), "max_length", "leaves 0 to the document", "raise --max-length", flags=("--max-length", 6), model="gpt2"),
    bad("prefix longer than the model reads", row(), "max_length", "128 tokens", "shorten summarization.prefix",
        flags=("--set", f"summarization.prefix={'film ' * 200}"), model="gpt2"),
    bad("prefix longer than what T5 reads", row(), "max_length", "shorten summarization.prefix", flags=("--set", f"summarization.prefix={'film ' * 200}")),
    bad("longer than the model reads", row(), "max_length", "4096", "128 or less", flags=("--max-length", 4096)),
    # ---- options
    setting("summarization.max_new_tokens", "0", "greater than or equal to 1", "`0`"),
    setting("summarization.max_summary", "1", "greater than or equal to 4", "`1`"),
    setting("summarization.max_summary", "long", "valid integer", "`long`"),
    setting("summarization.best_by", "rogueL", "'rougeL', 'rouge1', 'rouge2' or 'chrf'", "`rogueL`"),
    setting("summarization.separator", "x", "unknown setting `separator`", "prefix"),
    setting("summarization.beems", "2", "did you mean `beams`"),
    setting("summarization.top_p", "2", "less than or equal to 1", "`2`"),
    setting("summarization.temperature", "0", "greater than 0"),
    setting("summarization.prefix", "3", "valid string", "`3`"),
    # ---- use
    case("predict without a document", lambda w: w.predict("a.jsonl", [{"body": "x"}]), "a.jsonl", "no column `document`", "`body`"),
    case("predict on a null", lambda w: w.predict("a.jsonl", row(document=None)), "a.jsonl", "row 2", "`document` is null"),
    case("predict on a list", lambda w: w.predict("a.jsonl", [{"document": ["a"]}]), "a.jsonl, row 1", "`document` is a list", "must be text"),
    case("evaluate on an empty summary", lambda w: w.evaluate("a.jsonl", row(summary=" ")), "a.jsonl, row 2", "the summary is empty"),
    case("evaluate without summaries", lambda w: w.evaluate("a.jsonl", [{"document": "x"}]), "a.jsonl", "no column `summary`"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    refused(args, words, code, lines, world, cli, monkeypatch)
