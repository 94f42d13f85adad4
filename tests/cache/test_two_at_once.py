"""Two runs at the same time over one cache: both right, no file torn, nothing made twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

WATCH = """
import os, sys

def watch(event, args):
    if event == "os.rename" and "cache" in str(args[1]):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{args[1]}\\n")

sys.addaudithook(watch)
"""
RUNS = {
    "feature-based": ["--model", "gpt2", "--technique", "feature-based"],
    "distillation": ["--model", "gpt2", "--task", "language-modeling", "--objective", "distillation", "--teacher", "teacher"],
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toy_rows(48)))
    tiny_model("gpt2", tmp_path / "gpt2")
    tiny_model("gpt2", tmp_path / "teacher", seed=3)
    return tmp_path


def begin(place: Path, name: str, output: str) -> subprocess.Popen[str]:
    words = [
        "train",
        "-q",
        *RUNS[name],
        "--train",
        "rows.jsonl",
        "--eval",
        "rows.jsonl",
        "--epochs",
        "2",
        "--batch-size",
        "8",
    ]
    words += ["--device", "cpu", "--dtype", "float32", "--output", output]
    environment = {
        **os.environ, "TUNESMITH_CACHE": str(place / "cache"), "PYTHONPATH": str(place / "site"), "WATCHED": str(place / "made"),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "tunesmith", *words], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_the_same_run_twice_at_once(place: Path, name: str) -> None:
    for process in [begin(place, name, output) for output in ("one", "two")]:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    made = Counter((place / "made").read_text().split())
    assert max(made.values()) == 1, made
    kinds = {Path(each).relative_to(place / "cache").parts[0] for each in made}
    assert len(kinds) >= 3, kinds  # rows as read, as encoded, and what was computed of them
    one, two = (json.loads((place / output / "result.json").read_text()) for output in ("one", "two"))
    assert one["metrics"] == two["metrics"]
    assert not list((place / "cache").rglob(".*"))
