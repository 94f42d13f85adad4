"""Malformed configuration files, whatever the task, and tasks and options under wrong names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bad_inputs.world import Args, World, case, refused

TASK = "question-answering"

CASES = [
    case("list for a number", lambda w: w.config("question-answering:\n  stride: [1]\n"), "question-answering.stride", "valid integer", "`[1]`"),
    case("list for the options", lambda w: w.config("question-answering: [stride]\n"), "holds options", "must be a mapping", "`['stride']`"),
    case("text for the options", lambda w: w.config("question-answering: stride\n"), "holds options", "`stride`"),
    case("option of another task", lambda w: w.config("chat:\n  stride: 3\n"), "chat.stride", "unknown setting `stride`", "too_long"),
    case("misspelt option", lambda w: w.config("question-answering:\n  offset: mend\n"), "did you mean `offsets`"),
    case("misspelt options of a task", lambda w: w.config("question-answerin:\n  stride: 3\n"), "did you mean `question-answering`"),
    case("list for the columns", lambda w: w.config("columns: [text]\n"), "columns", "dictionary", "`['text']`"),
    case("number for a column", lambda w: w.config("columns:\n  question: 3\n"), "columns.question", "valid string", "`3`"),
    case("list for a file", lambda w: w.config("eval: [a.jsonl]\n"), "eval", "valid string", "`['a.jsonl']`"),
    case("setting that stands there twice", lambda w: w.config("seed: 1\nseed: 2\n"), "run.yaml", "line 6", "`seed` stands there twice"),
    case("option that stands there twice", lambda w: w.config("question-answering:\n  stride: 1\n  stride: 2\n"), "line 7", "`stride` stands there twice"),
    case("tab in YAML", lambda w: w.config("\tseed: 1\n"), "run.yaml", "not valid YAML", "line 5"),
    case("list for a key", lambda w: w.config("? [seed]\n: 1\n"), "run.yaml", "not valid YAML", "a key is a list"),
    case("path without end", lambda w: w.set("a." * 2000 + "b=1"), "nested more than 32 deep"),
    case("code in YAML", lambda w: w.config("seed: !!python/object/apply:os.system [ls]\n"), "run.yaml", "not valid YAML", "os.system"),
    case("brackets without end", lambda w: w.config(b"[" * 3000), "run.yaml", "nested too deep"),
    case("bytes", lambda w: w.config(b"\xff\xfe\x00"), "run.yaml", "not UTF-8"),
    case("key that is a number", lambda w: w.config("3: 4\n"), "unknown setting `3`"),
    case("huge seed", lambda w: w.config(f"seed: 1{'0' * 30}\n"), "seed", "less than"),
    case("date for a seed", lambda w: w.config("seed: 2020-01-01\n"), "seed", "valid integer", "`2020-01-01`"),
    case("infinite learning rate", lambda w: w.config("learning_rate: .inf\n"), "learning_rate", "finite number", "`inf`"),
    *[
        case(f"misspelt {task}", lambda w, wrong=wrong: w.train("--task", wrong), f"`{wrong}`", f"did you mean `{task}`")
        for task, wrong in {
            "token-classification": "token-clasification", "question-answering": "question_answer", "summarization": "summarisation",
            "chat": "chats", "instruction": "instructions", "language-modeling": "language-modelling",
        }.items()
    ],
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    refused(args, words, code, lines, world, cli, monkeypatch)
