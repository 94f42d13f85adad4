"""The commands and lines of docs/artifacts.md run as they stand."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest

from tunesmith import assets
from tunesmith.artifacts.merge import METHODS
from tunesmith.cli.main import run
from tunesmith.testing.rows import toy_rows

PAGE = (Path(__file__).parent.parent / "docs" / "artifacts.md").read_text(encoding="utf-8")


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assets.fetch("bert-tiny")
    except assets.DownloadError as error:
        pytest.skip(f"the registry does not give asset:bert-tiny: {error}")
    monkeypatch.chdir(tmp_path)
    for name, rows in (("reviews", toy_rows(24)), ("mails", toy_rows(24)[::-1]), ("more", toy_rows(8))):
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["text", "label"])
            writer.writeheader()
            writer.writerows({**row, "text": f"{row['text']} {i}"} for i, row in enumerate(rows))
    short = ["--max-steps", "2", "--batch-size", "8", "--max-length", "16", "--no-doctor"]
    for name in ("reviews", "mails"):
        words = ["train", "--model", "asset:bert-tiny", "--train", f"{name}.csv", "--output", f"runs/{name}", *short]
        assert run(words) == 0
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, re.S | re.M)
    commands = [line for kind, block in blocks if kind == "bash" for line in block.splitlines()]
    assert len(commands) == 9
    for command in commands:
        words = shlex.split(command)[1:]
        assert run([*words, *(short if words[0] == "train" else [])]) == 0, command
    (code,) = (block for kind, block in blocks if kind == "python")
    capsys.readouterr()
    exec(compile(code, "artifacts.md", "exec"), {})
    assert capsys.readouterr().out.count("prediction") == 2


def test_every_method_is_in_the_table() -> None:
    table = PAGE.split("| `--method` |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == {*METHODS}
