"""Compiled blocks: the same losses as without, one compilation for all of a class, and a way back where torch cannot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows
from tunesmith.training import compiled
from tunesmith.training.log import read

SAME = 1e-5
CASES = {"bert": ("text-classification", "lora"), "llama": ("instruction", "lora"), "gpt2": ("language-modeling", "full"), "t5": ("summarization", "adapter")}  # fmt: skip


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """How many graphs were made so far; without the C++ compiler, which takes half a minute and is torch's own."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def go(place: Path, models: Path, kind: str, **settings: Any) -> tunesmith.RunResult:
    task, technique = CASES[kind]
    rows = toy_rows(24) if task == "text-classification" else rows_for(task, 24)
    given: dict[str, Any] = {
        "task": task, "technique": technique, "train": rows, "eval": rows[:8], "max_steps": 4, "batch_size": 8, "dtype": "float32", "device": "cpu",
        "doctor": False, "learning_rate": 1e-3, **settings,
    }  # fmt: skip
    given["training"] = {"plan": False, "log_every": 1, "dropout": 0.0, **given.get("training", {})}
    return tunesmith.train(str(tiny_model(kind, models / kind)), output=place, **given)


def losses(run: tunesmith.RunResult) -> list[float]:
    return [line["loss"] for line in read(run.folder / "metrics.jsonl") if line["event"] == "train"]


LONG = pytest.mark.skipif(not os.environ.get("TUNESMITH_LONG"), reason="20 s of compiling: set TUNESMITH_LONG=1")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[LONG] if kind in ("gpt2", "t5") else []) for kind in CASES])
def test_it_changes_nothing(kind: str, tmp_path: Path, models: Path, graphs: Any, capsys: Any) -> None:
    plain = go(tmp_path / "plain", models, kind, lora={"dropout": 0.0})
    assert not graphs()
    found = go(tmp_path / "compiled", models, kind, lora={"dropout": 0.0}, training={"compile": True})
    assert "cannot be compiled" not in capsys.readouterr().err
    assert (
        1 <= graphs() <= (4 if kind == "t5" else 2)
    )  # a mask or none; T5: cross attention, and who makes the positions
    assert losses(found) == pytest.approx(losses(plain), abs=SAME)
    assert found.metrics["loss"] == pytest.approx(plain.metrics["loss"], abs=SAME)


def test_with_recomputed_activations(tmp_path: Path, models: Path, graphs: Any, capsys: Any) -> None:
    lora: dict[str, Any] = {"technique": "lora", "lora": {"dropout": 0.0}}
    plain = go(tmp_path / "plain", models, "gpt2", **lora)
    found = go(tmp_path / "both", models, "gpt2", **lora, training={"compile": True, "gradient_checkpointing": True})
    assert graphs() and "cannot be compiled" not in capsys.readouterr().err
    assert losses(found) == pytest.approx(losses(plain), abs=SAME)


def test_what_cannot_be_compiled_runs_as_it_did(
    tmp_path: Path, models: Path, graphs: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from transformers.models.bert.modeling_bert import BertLayer

    real = BertLayer.forward

    def looks(self: Any, states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if float(states.sum()) > 1e9:  # a number that the host waits for
            print()
        return real(self, states, *args, **kwargs)

    monkeypatch.setattr(BertLayer, "forward", looks)
    plain = go(tmp_path / "plain", models, "bert")
    found = go(tmp_path / "tried", models, "bert", training={"compile": True})
    assert losses(found) == losses(plain)
    assert capsys.readouterr().err.count("cannot be compiled and run as they are") == 1


def test_a_recurrent_model_is_not_hurt(tmp_path: Path, models: Path, graphs: Any) -> None:
    rows = toy_rows(24)
    given: dict[str, Any] = {
        "train": rows, "eval": rows[:8], "max_steps": 2, "batch_size": 8, "doctor": False, "technique": "full", "device": "cpu",
    }  # fmt: skip
    kept = [
        tunesmith.train("new:lstm", output=tmp_path / str(on), training={"compile": on, "log_every": 1}, **given)
        for on in (False, True)
    ]
    assert losses(kept[1]) == pytest.approx(losses(kept[0]), abs=SAME)


def test_a_cut_run_goes_on_as_it_began(tmp_path: Path, models: Path, graphs: Any, power_cut: Any) -> None:
    settings: dict[str, Any] = {
        "max_steps": 6,
        "training": {"compile": True, "checkpoint_every": 2, "log_every": 1, "dropout": 0.1},
    }
    whole = go(tmp_path / "whole", models, "gpt2", **settings)
    with power_cut(4):
        go(tmp_path / "cut", models, "gpt2", **settings)
    again = tunesmith.RunResult(tmp_path / "cut", tunesmith.resume(tmp_path / "cut"))
    assert losses(again) == losses(whole)


def test_all_blocks_share_one_compilation(graphs: Any) -> None:
    blocks = [torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True) for _ in range(5)]
    with compiled.compiled(blocks):
        for rows, tokens in ((4, 7), (3, 9), (6, 5), (1, 9)):  # the last runs as it is
            states = torch.randn(rows, tokens, 8)
            for block in blocks:
                states = block(states)
            states.sum().backward()
        assert graphs() == 1
        with torch.no_grad():
            blocks[0](torch.randn(2, 3, 8))
        blocks[0].eval()(torch.randn(2, 3, 8))
    assert graphs() == 1


def test_blocks_are_left_as_they_were(models: Path, graphs: Any) -> None:
    from tunesmith.testing.techniques import Bench

    layers = Bench("bert", models, "full").loaded.backbone.layers
    with compiled.compiled(layers):
        assert all("forward" in vars(layer) for layer in layers)
    assert not any("forward" in vars(layer) for layer in layers)
    with compiled.compiled(()):
        assert not any("forward" in vars(layer) for layer in layers)
