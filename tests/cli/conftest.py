"""One tiny trained run that the tests of the command line share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from command_line import Answer, call
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows


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
