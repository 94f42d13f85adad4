"""docs/performance.md: its commands run, and what it says can be switched off is an option that is on."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith import registry
from tunesmith.cli.main import run
from tunesmith.config import RunConfig, TrainingOptions
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

PAGE = (Path(__file__).parent.parent / "docs" / "performance.md").read_text(encoding="utf-8")


def test_commands_run(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{row['text']} {number},{row['label']}" for number, row in enumerate(toy_rows(24))]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = str(tiny_model("bert", models / "bert"))
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M) for line in block.splitlines()]
    assert len(lines) == 2
    losses = []
    for line in lines:
        words = shlex.split(re.sub(r"asset:\S+", model, line))[1:]
        assert run([*words, "-q", "--max-steps", "2", "--set", "training.dropout=0"]) == 0, line
        result = json.loads((tmp_path / words[words.index("--output") + 1] / "result.json").read_text())
        losses.append(result["metrics"]["after"]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)  # neither is another training


def test_every_switch_is_there_and_on() -> None:
    named = {(group, option, value) for group, option, value in re.findall(r"`([a-z-]+)\.(\w+)=(\w+)`", PAGE)}
    assert len(named) >= 6
    for group, option, value in named:
        if group == "training":
            fields = TrainingOptions.model_fields
        else:
            kind = "technique" if group == "feature-based" else "task"
            fields = registry.load(kind, group).Options.model_fields
        assert fields[option].default is not (value == "true"), f"{group}.{option}"
    assert RunConfig.model_fields["dtype"].default == "auto"
