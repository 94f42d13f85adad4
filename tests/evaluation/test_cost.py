"""What a run is said to cost."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

import tunesmith
from tunesmith.evaluation import cost
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

HERE = torch.device("cpu")


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux can forget the peak of a running process")
def test_a_run_is_not_charged_for_what_the_process_held_before_it(tmp_path: Path, models: Path) -> None:
    held = torch.ones(200, 2**20)  # 800 MiB, touched
    before = cost.peak_memory(HERE)
    del held
    run = tunesmith.train(
        str(tiny_model("bert", models / "bert")), train=toy_rows(16), eval=toy_rows(8), technique="lora", max_steps=2,
        device="cpu", output=tmp_path / "run", doctor=False,
    )  # fmt: skip
    assert 0 < run.result["cost"]["peak_memory_bytes"] < before - 400 * 2**20
