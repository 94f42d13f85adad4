"""Malformed inputs of language modelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bad_inputs.world import Args, World, bad, case, refused, setting

TASK = "language-modeling"
GOOD = {"text": "the film was good and slow"}
NO_TEXT = ("UTF-16", "take the text out")

CASES = [
    # ---- plain text
    bad("empty .txt", "", "is empty", "at least one row", file="a.txt"),
    bad("blank .txt", "\n \n\t\n", "holds no rows", file="a.txt"),
    bad("a mark and nothing else", "\ufeff", "holds no rows", file="a.txt"),
    bad("NUL bytes", b"the film\nwas \x00 good\n", "line 2", "NUL byte", *NO_TEXT, file="a.txt"),
    bad("a picture named .txt", b"\x89PNG\r\n\x1a\n" + bytes(100), "no text", *NO_TEXT, file="a.txt"),
    bad("a PDF named .txt", b"%PDF-1.4\n1 0 obj\nendobj\n" + b"\x00\x01" * 50, "line 4", "NUL byte", "PDF", file="a.txt"),
    bad("UTF-16 with a mark", "phim rất hay".encode("utf-16"), "is UTF-16 text", "iconv -f UTF-16 -t UTF-8", file="a.txt"),
    bad("UTF-16 without a mark", "a good film".encode("utf-16-le"), "line 1", "NUL byte", *NO_TEXT, file="a.txt"),
    bad("Vietnamese of Windows", "phim\nđẹp\n".encode("cp1258", "replace").replace(b"?", b"\xe9"), "not UTF-8", "line 2", "WINDOWS-1258", file="a.txt"),
    bad("a PDF", b"%PDF", "`.pdf`", ".txt", ".jsonl", file="a.pdf"),
    bad("a document of Word", b"PK", "`.docx`", ".txt", file="a.docx"),
    # ---- rows
    bad("null text", [GOOD, {"text": None}], "row 2", "`text` is null", "remove the row"),
    bad("all texts null", [{"text": None}] * 2, "row 1", "`text` is null", "in 1 more row)"),
    bad("texts that are lists", [{"text": ["a", "b"]}] * 2, "row 1", "`text` is a list", "must be text"),
    bad("texts that are numbers", [{"text": 3}] * 2, "row 1", "`text` is a number"),
    bad("blank texts", [{"text": "  "}] * 3, "every text is empty", "give train rows"),
    bad("blank eval texts", [GOOD] * 3, "every text is empty", "give eval rows", eval=[{"text": ""}, {"text": " "}]),
    bad("text under another name", [{"body": "a"}], "no column `text`", "--columns text=body"),
    case("one passage and no eval rows", lambda w: w.train("--task", TASK, train=w.file("a.txt", "the film\n")), "a.txt", "too small", "--eval"),
    # ---- models
    bad("masked on a decoder", [GOOD], "`gpt2` has no masked", "objective=auto", flags=("--set", "language-modeling.objective=masked")),
    bad("causal on an encoder", [GOOD], "`bert` reads in both directions", "objective=masked", "a decoder", flags=("--set", "language-modeling.objective=causal"), model="bert"),
    bad("encoder-decoder", [GOOD], "`t5`", "learns from pairs", "summarization or instruction", model="t5"),
    bad("longer than the model reads", [GOOD], "max_length", "4096", "128 or less", flags=("--max-length", 4096)),
    bad("max-length 0", [GOOD], "max_length", "greater than or equal to 4", flags=("--max-length", 0)),
    bad("max-length that is a word", [GOOD], "--max-length", "valid integer", "train --help", flags=("--max-length", "long")),
    # ---- options
    setting("language-modeling.objective", "clm", "'auto', 'causal' or 'masked'", "`clm`"),
    setting("language-modeling.mask_probability", "1.5", "less than 1", "`1.5`", model="bert"),
    setting("language-modeling.mask_probability", "0", "greater than 0", model="bert"),
    setting("language-modeling.mask_probability", ".nan", "finite number", model="bert"),
    setting("language-modeling.block_size", "128", "unknown setting `block_size`", "packing"),
    setting("language-modeling.packing", "sometimes", "valid boolean", "`sometimes`"),
    # ---- use
    case("predict without text", lambda w: w.predict("a.jsonl", [{"x": 1}]), "a.jsonl", "no column `text`", "--columns text=x"),
    case("predict on a null", lambda w: w.predict("a.jsonl", [GOOD, {"text": None}]), "a.jsonl", "row 2", "`text` is null"),
    case("predict on a list", lambda w: w.predict("a.jsonl", [{"text": ["a"]}]), "a.jsonl, row 1", "`text` is a list"),
    case("predict on bytes", lambda w: w.predict("a.txt", bytes(range(256))), "a.txt", "no text", *NO_TEXT),
    case("evaluate on blank text", lambda w: w.evaluate("a.jsonl", [{"text": " "}]), "a.jsonl", "every text is empty", "give eval rows"),
    case("evaluate programs without permission", lambda w: w.evaluate("a.jsonl", [{"prompt": "def f():", "test": "f()", "entry_point": "f"}]),
         "a.jsonl", "runs what the model writes", "--allow-code-execution"),
    case("evaluate programs without an entry point", lambda w: w.evaluate("a.jsonl", [{"prompt": "def f():", "test": "f()"}]), "a.jsonl", "no column `text`", "`test`"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    refused(args, words, code, lines, world, cli, monkeypatch)
