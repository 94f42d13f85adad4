"""Malformed inputs of token classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bad_inputs.world import Args, World, bad, case, refused, setting

TASK = "token-classification"
GOOD = {"tokens": ["the", "film", "was", "good"], "ner_tags": ["O", "B-WORK", "O", "B-WORD"]}


def row(**changes: Any) -> list[dict[str, Any]]:
    """A good row, and a second with other cells."""
    return [GOOD, {**GOOD, **changes}]


def lists(*tags: Any, tokens: Any = ("a", "film")) -> list[dict[str, Any]]:
    """The same words with these tags in two rows."""
    return [{"tokens": list(tokens), "ner_tags": list(tags)}] * 2


CASES = [
    # ---- rows
    bad("lengths differ", row(ner_tags=["O"]), "row 2", "4 `tokens`", "1 `ner_tags`", "every word needs one tag"),
    bad("tags are one text", row(ner_tags="O B-WORK O O"), "row 2", "`ner_tags`", "str", "use one type"),
    bad("all tags are text", [{"tokens": ["a"], "ner_tags": "O"}], "row 1", "`ner_tags` is `O`", '["B-LOC", "I-LOC"]'),
    bad("all tokens are text", 'tokens,ner_tags\n"a film","O B-X"\n', "row 1", "`a film`", '["New", "York"]', file="a.csv"),
    bad("tokens are an object", [{"tokens": {"a": 1}, "ner_tags": ["O"]}], "row 1", "`tokens`", "must be a list"),
    bad("null among the tokens", row(tokens=["the", None, "was", "good"]), "row 2", "`tokens` holds null at place 2", "one word"),
    bad("null among the tags", row(ner_tags=["O", "O", None, "O"]), "row 2", "`ner_tags` holds null at place 3", "mend or remove"),
    bad("null tags", row(ner_tags=None), "row 2", "`ner_tags` is null", "remove the row"),
    bad("list in the tokens of one row", row(tokens=[["the"], ["film"], ["was"], ["good"]]), "row 2", "`tokens`", "lists of string", "one type"),
    bad("lists in all tokens", lists("O", "B-X", tokens=(["a"], ["b"])), "row 1", "holds a list at place 1", "one word"),
    bad("number among the tokens", row(tokens=["the", 3, "was", "good"]), "row 2", "`tokens`", "text and a number", "one type"),
    bad("names in one row, numbers in another", row(ner_tags=[0, 1, 0, 2]), "row 2", "`ner_tags`", "int64", "lists of string"),
    bad("tag that is a fraction", lists(0.5, 1), "row 1", "word 1", "`0.5`", "a name or a whole number"),
    bad("tag that is true", lists(True, False), "row 1", "`True`", "a name or a whole number"),
    bad("tag that is blank", row(ner_tags=["O", " ", "O", "O"]), "row 2", "word 2", "a name or a whole number"),
    bad("negative tag without names", lists(0, -100), "row 1", "word 2", "tag -100", "begin at 0"),
    bad("negative tag with names", lists(0, -1), "row 1", "-1", "names for 0 to 1", flags=("--set", "token-classification.labels=O,B-X")),
    bad("tag beyond the names", lists(0, 7), "row 1", "tag 7", "names for 0 to 1", "(O, B-X)", flags=("--set", "token-classification.labels=O,B-X")),
    bad("huge tag", lists(0, 10**30), "row 1", "`ner_tags`", "too large", "mend or remove"),
    bad("numbers where BIO is asked for", lists(0, 1), "numbers without names", "labels=O,B-PER", flags=("--set", "token-classification.scheme=bio")),
    bad("no words in any row", [{"tokens": [], "ner_tags": []}] * 3, "every row's `tokens` is empty", "give rows with words"),
    bad("one tag only", lists("O", "O"), "only one tag", "`O`", "at least two"),
    bad("entity that begins with I", row(ner_tags=["O", "I-WORK", "O", "O"]), "row 2", "word 2 (`film`)", "`I-WORK` after `O`", "repair=true"),
    bad("entity that changes its type", row(ner_tags=["O", "B-WORK", "I-WORD", "O"]), "row 2", "`I-WORD` after `B-WORK`", "repair=true"),
    bad("BIOES without repair", row(ner_tags=["O", "S-WORK", "O", "O"]), "row 2", "`S-WORK`", "BIOES", "repair=true"),
    bad("tag of a typist", row(ner_tags=["O", "B_WORK", "O", "O"]), "row 2", "`B_WORK`", "neither `O` nor", "scheme=plain"),
    bad("tag of eval that training lacks", row(), "row 2", "word 1 (`a`)", "`B-WORKS`", "nearest: `B-WORK`", "labels",
        eval=[GOOD, {"tokens": ["a", "b"], "ner_tags": ["B-WORKS", "O"]}]),
    bad("text instead of tokens", [{"text": "a film", "ner_tags": ["O", "B-X"]}], "no column `tokens`", "`text`", "--columns"),
    bad("half a character", [{"tokens": '["\\ud83d", "b"]', "ner_tags": '["O", "B-X"]'}], "row 1", "half a character", "at place 1"),
    bad("tokens nested without end", f"tokens,ner_tags\n{'[' * 20_000},O\n", "row 1", "must be a list", file="a.csv"),
    # ---- column files
    bad("line without a tag", "the O\nfilm\n\nwas B-X\n", "line 2 (`film`)", "separated by spaces as in line 1", "token<TAB>tag", file="a.conll"),
    bad("line with fewer columns", "the DT O\nfilm NN\n\nwas VB B-X\n", "line 2 (`film NN`)", "2 columns", "line 1 has 3", "mend that line", file="a.conll"),
    bad("spaces among tabs", "the\tO\nfilm B-X\n", "line 2 (`film B-X`)", "separated by tabs as in line 1", file="a.bio"),
    bad("a story as .txt", "The film was good.\nAnd the plot was very bright.\n", "line 2", "6 columns", "line 1 has 4", file="a.txt"),
    bad("one word a line", "phim\nhay\n", "line 1 (`phim`)", "a token and its tag", "blank line", file="a.txt"),
    # ---- options
    setting("token-classification.labels", "O,B-X,O", "`O` is named twice"),
    setting("token-classification.labels", "O,B-X", "rows.jsonl, row 1", "`B-WORK`", "the list of names does not have"),
    setting("token-classification.stride", "-1", "greater than or equal to 0", "`-1`"),
    setting("token-classification.label_on", "middle", "'first', 'last' or 'all'", "`middle`"),
    setting("token-classification.sheme", "bio", "did you mean `scheme`"),
    # ---- use
    case("predict without words", lambda w: w.predict("a.jsonl", [{"x": 1}]), "a.jsonl", "no column `tokens`", "`x`", "--columns"),
    case("predict on tokens that are text", lambda w: w.predict("a.jsonl", [{"tokens": "a b"}]), "a.jsonl, row 1", "`a b`", "must be a list"),
    case("predict on null words", lambda w: w.predict("a.jsonl", [GOOD, {"tokens": None}]), "a.jsonl", "row 2", "`tokens` is null"),
    case("predict on null text", lambda w: w.predict("a.jsonl", [{"text": "a"}, {"text": None}]), "a.jsonl, row 2", "missing or null"),
    case("predict on text that is a number", lambda w: w.predict("a.jsonl", [{"text": 3}]), "a.jsonl, row 1", "`text` is a number"),
    case("predict on another text", lambda w: w.predict("a.jsonl", [{"tokens": ["film"], "text": "phim"}]), "a.jsonl, row 1", "`film`", "not in `text`"),
    case("evaluate on an unknown tag", lambda w: w.evaluate("a.jsonl", [{"tokens": ["a"], "ner_tags": ["B-NEW"]}]), "a.jsonl, row 1", "`B-NEW`"),
    case("evaluate on other lengths", lambda w: w.evaluate("a.jsonl", row(ner_tags=["O"])), "a.jsonl, row 2", "every word needs one tag"),
    case("evaluate on no words", lambda w: w.evaluate("a.jsonl", [{"tokens": [], "ner_tags": []}]), "a.jsonl", "nothing of its rows", "give other rows"),
    case("evaluate without tags", lambda w: w.evaluate("a.jsonl", [{"tokens": ["a"]}]), "a.jsonl", "no column `ner_tags`", "Add it"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    refused(args, words, code, lines, world, cli, monkeypatch)
