"""docs/using.md: its commands and its Python run as they stand, on a few rows and tiny models, and its tables name what there is."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith.cli.chat import COMMANDS
from tunesmith.cli.main import run
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows

PAGE = (Path(__file__).parent.parent / "docs" / "using.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


def test_commands_run(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("reviews.csv", "new_reviews.csv"):
        lines = [f'"{row["text"]} {i} {name}",{row["label"]}' for i, row in enumerate(toy_rows(24))]
        (tmp_path / name).write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    talks = [json.dumps({"messages": json.loads(row["messages"])}) for row in rows_for("chat", 12)]
    (tmp_path / "talks.jsonl").write_text("\n".join(talks) + "\n", encoding="utf-8")
    tiny = {"asset:bert-tiny": "bert", "asset:smollm2-135m": "llama"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
    for line in (line for block in blocks("bash") for line in block.splitlines()):
        words = shlex.split(line)[1:]
        if words[0] == "train":
            words = [str(tiny_model(tiny[w], models / tiny[w])) if w in tiny else w for w in words]
            words += ["--max-steps", "1", "--batch-size", "4", "--no-doctor", "-q"]
            words += ["--set", "chat.generate_rows=0", "--set", "chat.max_new_tokens=4"] if "chat" in words else []
        monkeypatch.setattr("sys.stdin", io.StringIO("the film was good\n/help\n"))
        assert run(words) == 0, line
    assert capsys.readouterr().out.count("accuracy") >= 2
    vectors = [json.loads(line) for line in (tmp_path / "vectors.jsonl").read_text().splitlines()]
    assert len(vectors) == 24 and len(vectors[0]["embedding"]) == 32
    assert (tmp_path / "answers.jsonl").read_text().count("prediction") == 12
    for block in blocks("python"):
        exec(compile(block, "using.md", "exec"), {})


def test_the_table_names_every_command() -> None:
    section = PAGE.split("| command | |")[1].split("`--adapter NAME")[0]
    assert set(re.findall(r"`(/[a-z]+)", section)) == set(COMMANDS)


def test_flags_exist() -> None:
    from typer.main import get_command

    from tunesmith.cli.main import app, register

    if not app.registered_commands:
        register()
    known = {flag for command in get_command(app).commands.values() for p in command.params for flag in p.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", PAGE)) <= known
