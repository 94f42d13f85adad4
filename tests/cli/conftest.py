"""One tiny trained run that the tests of the command line share, and a way to call the command line in this process."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows


@dataclass
class Answer:
    """What a command line gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Answer]


def call(*args: object) -> Answer:
    """`tunesmith ARGS` in this process."""
    from tunesmith.cli.main import run
    from tunesmith.console import set_verbosity

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(arg) for arg in args])
    set_verbosity(0)
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return call


@pytest.fixture(scope="session")
def bert(models: Path) -> Path:
    return tiny_model("bert", models / "bert")


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in toy_rows(40)), encoding="utf-8")
    return path


@dataclass
class Trained:
    folder: Path
    answer: Answer

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"


@pytest.fixture(scope="session")
def trained(bert: Path, rows_file: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """40 rows, 3 steps, BitFit."""
    folder = tmp_path_factory.mktemp("runs") / "bitfit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(cache))
        answer = call(
            "train", "--model", bert, "--train", rows_file, "--technique", "bitfit", "--max-steps", 3, "--batch-size", 8,
            "--device", "cpu", "--seed", 5, "--output", folder, "--json",
        )  # fmt: skip
    assert answer.code == 0, answer.err
    return Trained(folder, answer)
