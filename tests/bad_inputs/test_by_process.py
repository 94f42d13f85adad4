"""Bad input through the real command: a process, its exit code, and one sentence on stderr."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bad_inputs.world import Args, World, case, check

CASES = [
    case("no such command", lambda w: ["trian"], "trian"),
    case("no such flag", lambda w: w.train("--learning-rat", 1), "--learning-rat"),
    case("no such file", lambda w: w.train(train=w.folder / "nothing.csv"), "nothing.csv"),
    case("no such model", lambda w: w.train(model=w.folder / "nothing"), "nothing"),
    case("no such technique", lambda w: w.train("--technique", "lroa"), "did you mean `lora`"),
    case("broken YAML", lambda w: w.config("a: [1\n"), "not valid YAML"),
    case("option out of range", lambda w: w.set("lora.rank=-1"), "lora.rank"),
    case("row that is no JSON", lambda w: w.train(train=w.file("a.jsonl", '{"text": "a"}\n{"text": \n')), "a.jsonl", "line 2"),
    case("weights that are cut", lambda w: w.train(model=w.cut_weights()), "broken", "cannot be opened", "restore its files"),
    case("nothing to resume", lambda w: ["resume", w.folder], "holds no run to resume"),
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, models: Path) -> World:
    return World(tmp_path, models, None)


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, place: World, cache: Path, monkeypatch: Any
) -> None:  # fmt: skip
    monkeypatch.setenv("TUNESMITH_CACHE", str(cache))
    command = [sys.executable, "-m", "tunesmith", *map(str, args(place))]
    done = subprocess.run(command, cwd=place.folder, capture_output=True, text=True, timeout=120, check=False)
    check(done.returncode, done.stderr, done.stdout, (code, lines), words)
    assert not place.output.exists()
