"""docs/distillation.md: its commands and its Python run as they stand on a few rows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith.cli.main import run
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

PAGE = (Path(__file__).parent.parent / "docs" / "distillation.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


def test_commands_and_python_run(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, word in (("reviews", "blue"), ("new_reviews", "red"), ("more", "green")):
        label = "" if name == "more" else "label"
        rows = [f"{row['text']} {word},{row['label']}" if label else f"{row['text']} {word}" for row in toy_rows(24)]
        (tmp_path / f"{name}.csv").write_text(
            "\n".join(["text,label" if label else "text", *rows]) + "\n", encoding="utf-8"
        )
    monkeypatch.chdir(tmp_path)
    model = str(tiny_model("bert", models / "bert"))
    for line in blocks("bash")[0].splitlines():
        words = shlex.split(re.sub(r"asset:\S+", model, line))[1:]
        assert run([*words, "-q", "--max-steps", "2"]) == 0, line
    for block in blocks("python"):
        code = re.sub(r'"asset:[^"]+"', f'"{model}", max_steps=2', block, count=1)
        exec(compile(code, "docs/distillation.md", "exec"), {})
    found = json.loads((tmp_path / "runs" / "more" / "result.json").read_text())["distillation"]
    assert found["rows"]["unlabelled"] == 24 and found["outputs"]["from"] == "computed"
    assert json.loads((tmp_path / "runs" / "short" / "result.json").read_text())["distillation"]["size"]["ratio"] < 1
