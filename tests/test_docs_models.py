"""The commands of docs/models.md run as they stand, on a small text, with a tiny model in place of the large one."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith.cli.main import run
from tunesmith.config import NewModelOptions
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

PAGE = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
SHORT = ["--max-length", "16", "--batch-size", "4", "--set", "new.hidden=8", "--set", "new.vocabulary=300"]


def test_commands_run(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = toy_rows(12)
    (tmp_path / "speeches.txt").write_text(
        "\n\n".join(f"{r['text']} {i} " * 90 for i, r in enumerate(rows)), encoding="utf-8"
    )
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["text", "label"])
        writer.writeheader()
        writer.writerows({**row, "text": f"{row['text']} {i}"} for i, row in enumerate(toy_rows(40)))
    llama = str(tiny_model("llama", models / "llama"))
    monkeypatch.chdir(tmp_path)
    commands = [line for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M) for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command.replace("asset:smollm2-135m", llama).replace("--epochs 3", ""))[1:]
        assert run([*words, *SHORT, "--max-steps", "1"]) == 0, command
    results = json.loads((tmp_path / "runs" / "eras" / "results.json").read_text())
    assert {row["model"] for row in results["rows"]} == {"new:rnn", "new:lstm", "new:gru", llama}
    assert {row["technique"] for row in results["rows"]} >= {"ngram", "full", "lora", "untouched"}


def test_options_in_the_table_are_those_that_exist() -> None:
    section = PAGE.split("| `new.` |")[1].split("```")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.M)) == set(NewModelOptions.model_fields)
