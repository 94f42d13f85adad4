"""The score of an untouched model is measured once, and is that of no other model, head, rows or task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith
from tunesmith import untouched
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Titles of what was measured before learning."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    done: list[str] = []
    real = untouched.measured

    def counted(model: Any, part: Any) -> untouched.Score:
        done.append(part.name)
        return real(model, part)

    monkeypatch.setattr(untouched, "measured", counted)
    return done


def run(models: Path, place: Path, **settings: Any) -> dict[str, Any]:
    given = {
        "technique": "lora",
        "model": str(tiny_model("bert", models / "bert")),
        "max_steps": 2,
        "doctor": False,
        **settings,
    }
    rows = given.pop("rows", toy_rows(24))
    found = tunesmith.train(train=rows, eval=given.pop("eval", toy_rows(8)), output=place, overwrite=True, **given)
    return json.loads((Path(found.folder) / "result.json").read_text(encoding="utf-8"))


def test_runs_that_begin_the_same_share_it(models: Path, tmp_path: Path, measured: list[str]) -> None:
    first = run(models, tmp_path / "a")
    again = run(models, tmp_path / "b", technique="full", learning_rate=1e-2)
    assert len(measured) == 1
    assert again["metrics"]["before"] == first["metrics"]["before"] and first["metrics"]["before"]["loss"] > 0
    (tmp_path / "cache").rename(tmp_path / "gone")
    fresh = run(models, tmp_path / "c", technique="full", learning_rate=1e-2)
    assert len(measured) == 2 and fresh["metrics"] == again["metrics"]  # measured or read, what is learned is the same


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},  # another head
        {"eval": toy_rows(9)},
        {"max_length": 4},
        {"eval_batch_size": 3},  # sums in another order
        {"model": "roberta"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_differs_is_measured(models: Path, tmp_path: Path, measured: list[str], change: dict[str, Any]) -> None:
    run(models, tmp_path / "a")
    if "model" in change:
        change = {"model": str(tiny_model(change["model"], models / change["model"]))}
    run(models, tmp_path / "b", **change)
    assert len(measured) == 2


def test_what_a_pass_holds_is_counted_once_and_without_a_measurement_too(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan rests on it: rows of twice the batch hold about twice as much, whether measured, read from the cache or only tried."""
    from tunesmith import dry_run, history
    from tunesmith.config import RunConfig, build

    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    found: list[untouched.Score] = []
    for name in ("score", "tried"):
        real = getattr(history, name)
        monkeypatch.setattr(history, name, lambda *given, real=real: found.append(real(*given)) or found[-1])
    for batch in (4, 8):
        for place in ("a", "b"):
            run(models, tmp_path / place, eval_batch_size=batch)
    four, again, eight, _ = found
    assert again == four and 1.6 * four.held < eight.held < 2.4 * four.held
    rows = [tmp_path / f"{name}.jsonl" for name in ("train", "eval")]
    for path, table in zip(rows, (toy_rows(24), toy_rows(8)), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    settings = {
        "model": str(models / "bert"),
        "technique": "lora",
        "train": str(rows[0]),
        "eval": str(rows[1]),
        "max_steps": 2,
        "eval_batch_size": 4,
        "output": str(tmp_path / "c"),
    }
    dry_run.predict(build(RunConfig, settings))
    assert found[-1].metrics == {} and found[-1].held == four.held


def test_one_weight_is_another_model() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    found = untouched.weights_sha256(model)
    assert found == untouched.weights_sha256(model)
    with torch.no_grad():
        model[0].weight[1, 2] += 1e-6
    changed = untouched.weights_sha256(model)
    model[1].running_mean += 1  # type: ignore[operator]
    assert len({found, changed, untouched.weights_sha256(model)}) == 3


def test_four_bits_with_another_scale_are_another_model() -> None:
    """Packed numbers may be the same where what they stand for is not."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from bitsandbytes.nn import Params4bit

    def holder(scale: float) -> torch.nn.Module:
        model = torch.nn.Module()
        weight = torch.linspace(-1, 1, 128).reshape(2, 64) * scale
        packed, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
        model.weight = Params4bit(packed, requires_grad=False, quant_state=state, bnb_quantized=True)  # type: ignore[no-untyped-call]
        return model

    one, two = holder(1.0), holder(2.0)
    assert torch.equal(one.weight.data, two.weight.data)
    assert untouched.weights_sha256(one) != untouched.weights_sha256(two)
