"""docs/streams.md: its commands run as they stand on a few rows, and its table names every strategy and option."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith import registry
from tunesmith.cli.main import run
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows

PAGE = (Path(__file__).parent.parent / "docs" / "streams.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, first in (("films", 0), ("posts", 1), ("mails", 2)):
        rows = [f'"{row["text"]} {i + first}",{row["label"]}' for i, row in enumerate(toy_rows(40))]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    tagged = [
        {"tokens": [*row["tokens"], f"n{i}"], "ner_tags": [*row["ner_tags"], "O"]}
        for i, row in enumerate(rows_for("token-classification", 40))
    ]
    lines = [json.dumps(row) for row in tagged]
    (tmp_path / "entities.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_run(reader: Path, models: Path) -> None:
    (reader / "stages.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    model = str(tiny_model("bert", models / "bert"))
    for line in blocks("bash")[0].splitlines():
        words = shlex.split(line.replace("asset:bert-tiny", model))[1:]
        assert run([*words, "-q", *(["--max-steps", "2"] if words[0] == "train" else [])]) == 0, line
    found = json.loads((reader / "runs" / "longer" / "result.json").read_text())["stream"]
    assert found["stages"] == ["films", "posts", "entities", "text-classification"] and len(found["matrix"]) == 4


def test_strategies_side_by_side(reader: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (reader / "stages.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    model = str(tiny_model("bert", models / "bert"))
    first, second = blocks("bash")[2].splitlines()
    words = shlex.split(first.replace("asset:bert-tiny", model).replace("0,1", "0"))[1:]
    assert run([*words, "-q", "--max-steps", "2", "--batch-size", "8"]) == 0
    rows = json.loads((reader / "runs" / "compared" / "results.json").read_text())["rows"]
    assert {row.get("strategy") or row["technique"] for row in rows} == {
        "none",
        "experience-replay",
        "joint",
        "majority",
    }
    joint = next(row for row in rows if row.get("strategy") == "joint")
    assert all(key in joint for key in re.findall(r"^- `(\w+)`", PAGE, re.M) if key != "against_alone")
    assert (reader / "runs" / "compared" / "runs" / "lora+joint" / "0" / "result.json").is_file()
    capsys.readouterr()
    assert run(shlex.split(second)[1:]) == 0
    assert "lora + experience-replay" in capsys.readouterr().out


def test_the_stage_of_several_tasks_runs(reader: Path, models: Path) -> None:
    (reader / "both.yaml").write_text(blocks("yaml")[1], encoding="utf-8")
    model = str(tiny_model("bert", models / "bert"))
    assert run(["train", "-q", "--model", model, "--stream", "both.yaml", "--max-steps", "2", "-o", "run"]) == 0
    after = json.loads((reader / "run" / "result.json").read_text())["metrics"]["after"]
    assert {"reviews/accuracy", "entities/f1", "mean_score"} <= after.keys()


def test_tasks_as_text_run(reader: Path, models: Path) -> None:
    (reader / "words.yaml").write_text(blocks("yaml")[2], encoding="utf-8")
    model = str(tiny_model("llama", models / "llama"))
    for line in blocks("bash")[1].splitlines():
        words = shlex.split(line.replace("asset:smollm2-135m", model))[1:]
        assert run([*words, "-q", *(["--max-steps", "2"] if words[0] == "train" else [])]) == 0, line
    after = json.loads((reader / "runs" / "words" / "result.json").read_text())["metrics"]["after"]
    assert {"opinion/accuracy", "opinion/readable", "entities/f1"} <= after.keys()


def test_the_table_names_every_strategy_and_option() -> None:
    for name in registry.names("strategy"):
        (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.M)
        for option, field in registry.load("strategy", name).Options.model_fields.items():
            assert f"`{option}` (" in row, f"{name}.{option} ({field.default})"
