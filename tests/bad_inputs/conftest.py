"""A world for the task that a test module names, and one tiny artifact a task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bad_inputs.world import MODELS, TaskWorld
from command_line import call
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for

WRITING = ("summarization", "chat", "instruction")


@pytest.fixture(scope="session")
def artifact(models: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a task's trained run, made when it is first asked for: one step on a few rows."""
    made: dict[str, Path] = {}

    def train(task: str) -> Path:
        folder = tmp_path_factory.mktemp("runs") / task
        kind = MODELS.get(task, "bert")
        rows = folder.parent / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in rows_for(task, 8)), encoding="utf-8")
        short = ["--set", f"{task}.generate_rows=0", "--set", f"{task}.max_new_tokens=2"] if task in WRITING else []
        technique = "lora" if kind == "t5" else "bitfit"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TUNESMITH_CACHE", str(cache))
            patch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
            answer = call(
                "train", "-q", "--task", task, "--model", tiny_model(kind, models / kind), "--train", rows, "--eval", rows,
                "--technique", technique, "--max-steps", 1, "--batch-size", 4, "--device", "cpu", "--output", folder, *short,
            )  # fmt: skip
        assert answer.code == 0, answer.err
        return folder

    def of(task: str) -> Path:
        if task not in made:
            made[task] = train(task)
        return made[task]

    return of


@pytest.fixture
def world(request: Any, tmp_path: Path, models: Path, artifact: Callable[[str], Path]) -> TaskWorld:
    """Of the module's `TASK`."""
    return TaskWorld(tmp_path, models, request.module.TASK, artifact)
