"""Malformed inputs of instruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bad_inputs.world import Args, World, bad, case, refused, setting

TASK = "instruction"
GOOD = {"prompt": "was the film good", "completion": "i love it"}
ALPACA = {"instruction": "find a film", "input": "", "output": "the good film"}
MESSAGES = [{"role": "user", "content": "a"}]


def row(**changes: Any) -> list[dict[str, Any]]:
    """A good row, and a second with other cells."""
    return [GOOD, {**GOOD, **changes}]


CASES = [
    # ---- columns
    bad("neither form", [{"q": "a", "reply": "b"}], "no column `prompt`", "`q`, `reply`", "--columns prompt="),
    bad("half of Alpaca's", [{"instruction": "a", "input": "b"}], "no column `completion`", "`instruction`", "--columns completion="),
    bad("column that the task has not", row(), "no column `answer`", "prompt, completion", flags=("--columns", "answer=completion")),
    # ---- cells
    bad("both null", row(prompt=None, completion=None), "row 2", "`prompt` is null"),
    bad("null output", [ALPACA, {**ALPACA, "output": None}], "row 2", "`completion` is null", "remove the row"),
    bad("output that is missing", [ALPACA, {"instruction": "a", "input": ""}], "row 2", "`completion` is null"),
    bad("all outputs null", [{**ALPACA, "output": None}] * 3, "row 1", "`completion` is null", "in 2 more rows"),
    bad("blank completion", row(completion="\n"), "row 2", "the completion is empty", "nothing would be learned"),
    bad("blank prompt", row(prompt=" "), "row 2", "the prompt is empty", "nothing to answer"),
    bad("prompts that are numbers", [{**GOOD, "prompt": 3}] * 2, "row 1", "`prompt` is a number", "must be text"),
    bad("prompts that are lists", [{**GOOD, "prompt": ["a", "b"]}] * 2, "row 1", "`prompt` is a list"),
    bad("completions that are true", [{**GOOD, "completion": True}] * 2, "row 1", "`completion` is true or false"),
    bad("prompts that are messages", [{**GOOD, "prompt": MESSAGES}] * 2, "row 1", "`prompt` holds chat messages", "--task chat"),
    bad("a completion of messages", [GOOD, {**GOOD, "completion": [{"role": "assistant", "content": "b"}]}], "row 2", "`completion` holds chat messages", "--task chat"),
    bad("inputs that are lists", [{**GOOD, "input": ["a", "b"]}] * 2, "row 1", "`input` is a list", "or null where there is none"),
    bad("inputs that are numbers", [{**GOOD, "input": 3.5}] * 2, "row 1", "`input` is a number"),
    bad("system prompts that are lists", [{**GOOD, "system": ["a"]}] * 2, "row 1", "`system` is a list", "must be text"),
    bad("half a character", [GOOD, '{"prompt": "\\ud83d", "completion": "x"}'], "row 2", "`prompt`", "surrogates", "mend or remove"),
    bad("blank completion among the eval rows", row(), "row 2", "the completion is empty", eval=row(completion="")),
    # ---- lengths and models
    bad("completion that is too long", row(completion="film " * 200), "row 2", "201 tokens", "max_length=128", "long_completion=cut"),
    bad("system prompt that is too long", row(system="film " * 300), "row 2", "frame of a prompt", "shorten `system`"),
    bad("frame that is too long", [ALPACA] * 2, "row 1", "frame of a prompt", "template=plain", flags=("--max-length", 12)),
    bad("model that only reads", row(), "`bert` reads text and cannot write it", "instruction", "asset:smollm2-135m", model="bert"),
    # ---- options
    setting("instruction.template", "alpacca", "'auto', 'chat', 'plain' or 'alpaca'", "`alpacca`"),
    setting("instruction.train_on_prompt", "perhaps", "valid boolean", "`perhaps`"),
    setting("instruction.long_completion", "truncate", "'error' or 'cut'", "`truncate`"),
    setting("instruction.trian_on_prompt", "true", "did you mean `train_on_prompt`"),
    setting("instruction.generate_rows", "-1", "greater than or equal to 0"),
    # ---- use
    case("predict without a prompt", lambda w: w.predict("a.jsonl", [{"x": "y"}]), "a.jsonl", "no column `prompt`", "`x`"),
    case("predict on an input that is a list", lambda w: w.predict("a.jsonl", [{"prompt": "a", "input": ["x"]}]), "a.jsonl, row 1", "`input` is a list"),
    case("predict on messages", lambda w: w.predict("a.jsonl", [{"prompt": MESSAGES}]), "a.jsonl, row 1", "holds chat messages", "--task chat"),
    case("evaluate without a completion", lambda w: w.evaluate("a.jsonl", [{"prompt": "a"}]), "a.jsonl", "no column `completion`", "Add it"),
    case("evaluate programs without permission", lambda w: w.evaluate("a.jsonl", [{"prompt": "def f():", "test": "f()", "entry_point": "f"}]),
         "a.jsonl", "runs what the model writes", "--allow-code-execution"),
    case("evaluate programs that are null", lambda w: w.evaluate("a.jsonl", [{"prompt": None, "test": "f()", "entry_point": "f"}], "--allow-code-execution"),
         "a.jsonl, row 1", "`prompt` is null", "mend or remove"),
    case("evaluate programs that are numbers", lambda w: w.evaluate("a.jsonl", [{"prompt": "a", "test": 3, "entry_point": "f"}], "--allow-code-execution"),
         "a.jsonl, row 1", "`test` is a number"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    refused(args, words, code, lines, world, cli, monkeypatch)
