"""docs/several_processes.md: its commands are commands, and what it says about launchers is what they say of themselves."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from command_line import call
from tunesmith import run as runs
from tunesmith.config import TrainingOptions

PAGE = (Path(__file__).parent.parent / "docs" / "several_processes.md").read_text(encoding="utf-8")


def test_every_command_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher would start in each process reaches the run with its settings."""
    seen: list[Any] = []
    monkeypatch.setattr(runs, "execute", lambda config, **_: seen.append(config) or {})
    monkeypatch.setattr(runs, "resume", lambda folder: seen.append(folder) or {})
    monkeypatch.setattr("tunesmith.cli.commands_train._finish", lambda *_: None)
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M) for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        before, words = line.split(" -m tunesmith ")
        assert before.startswith(("torchrun --nproc-per-node 2", "accelerate launch ")) and " 2" in before
        answer = call(*shlex.split(words))
        assert answer.code == 0, answer.err
    assert [getattr(config, "technique", "resume") for config in seen] == ["lora", "full", "resume", "full", "full"]
    assert seen[3].training.shard and not seen[4].training.shard  # the launcher says it for the last


def test_flags_of_accelerate_are_there() -> None:
    pytest.importorskip("accelerate.commands.launch")
    from accelerate.commands.launch import launch_command_parser

    known = {flag for action in launch_command_parser()._actions for flag in action.option_strings}
    named = set(re.findall(r"accelerate launch ([^\n]*?) -m ", PAGE)[0].split()) | set(
        re.findall(r"accelerate launch ([^\n]*?) -m ", PAGE)[1].split()
    )
    assert {word for word in named if word.startswith("--")} <= known


def test_named_options_are_there() -> None:
    for name in re.findall(r"`training\.(\w+)(?:=\w+)?`", PAGE):
        assert name in TrainingOptions.model_fields or name == "processes", name
