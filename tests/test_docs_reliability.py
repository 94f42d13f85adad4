"""docs/reliability.md: its commands run, and what it names is there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith.cli.main import run
from tunesmith.config import TrainingOptions
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows
from tunesmith.training.guards import guards

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_commands_run(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{row['text']} {number},{row['label']}" for number, row in enumerate(toy_rows(200))]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    tags = "".join(json.dumps(row) + "\n" for row in rows_for("token-classification", 200))
    (tmp_path / "tags.jsonl").write_text(tags, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    named = {
        "asset:bert-tiny": str(tiny_model("bert", models / "bert")),
        "asset:movie-reviews": "rows.csv",
        "asset:wnut-tweets": "tags.jsonl",
    }
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        words = [named.get(word, word) for word in shlex.split(line, comments=True)[1:]]
        assert run(words) == 0, line
    assert (tmp_path / "runs" / "kept" / "result.json").is_file()
    assert list((tmp_path / "runs" / "kept" / "checkpoints").glob("step-*.safetensors"))
    assert (tmp_path / "runs" / "rate" / "learning_rate.html").is_file()


def test_every_guard_is_listed() -> None:
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.M)) == sorted(guard.name for guard in guards())


def test_what_checks_a_promise_is_there() -> None:
    for path in re.findall(r"`(tests/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"`make ([\w-]+)`", PAGE):
        assert f"\n{name}:" in targets, name
    for option in re.findall(r"`training\.(\w+)", PAGE):
        assert option in TrainingOptions.model_fields or option == "warnings", option
