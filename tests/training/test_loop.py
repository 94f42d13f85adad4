"""The loop: accumulation, resume, order, precision, choosing, dropout. Each against a plain reference."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith
from tunesmith import run as runs
from tunesmith.options import TrainingOptions
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows
from tunesmith.training import checkpoint, dropout, features, readings
from tunesmith.training.log import read


def go(tmp_path: Path, models: Path, name: str, kind: str = "bert", **settings: Any) -> tunesmith.RunResult:
    settings = {
        "technique": "full",
        "max_steps": 6,
        "batch_size": 8,
        "dtype": "float32",
        "learning_rate": 1e-3,
        **settings,
    }
    return tunesmith.train(
        str(tiny_model(kind, models / kind)), train=toy_rows(32), eval=toy_rows(8), output=tmp_path / name, **settings
    )


def weights(result: tunesmith.RunResult) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found = {}
    for path in sorted(result.artifact.glob("*.safetensors")):
        found.update(load_file(str(path)))
    return found


def furthest(a: tunesmith.RunResult, b: tunesmith.RunResult) -> float:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    return max(float((left[n] - right[n]).abs().max()) for n in left)


def logged(result: tunesmith.RunResult, event: str = "train") -> list[dict[str, Any]]:
    timed = ("seconds", "tokens_per_second", "peak_memory_bytes")
    return [
        {k: v for k, v in line.items() if k not in timed}
        for line in read(result.folder / "metrics.jsonl")
        if line["event"] == event
    ]


@pytest.mark.parametrize("weights_", ["none", "balanced"])
def test_cutting_a_step_into_forward_passes_changes_nothing(tmp_path: Path, models: Path, weights_: str) -> None:
    """1x8 = 4x2 = 8x1: fails if the loss is averaged per pass, or weighted units are counted as rows."""
    common = {
        "training": {"dropout": 0.0, "log_every": 1},
        "text-classification": {"class_weights": weights_},
        "max_steps": 4,
    }
    whole, *cut = (
        go(tmp_path, models, f"m{m}", **{**common, "training": {**common["training"], "micro_batch_size": m}})
        for m in (8, 2, 1)
    )
    for other in cut:
        # Bound: the same fp32 sums in another order; AdamW's first steps amplify a gradient's relative error of 1e-7
        # where the gradient is near zero, so weights are compared after few steps at a small rate.
        losses = zip(logged(whole), logged(other), strict=True)
        assert max(abs(a["loss"] - b["loss"]) for a, b in losses) < 1e-6
        assert abs(logged(whole)[0]["gradient_norm"] - logged(other)[0]["gradient_norm"]) < 1e-6


@pytest.mark.parametrize("technique", ["full", "lora", "prefix-tuning", "feature-based"])
def test_resume_is_bit_for_bit(tmp_path: Path, models: Path, technique: str, power_cut: Any) -> None:
    """Stopped after step 4 of 8 and resumed = never stopped, dropout on; fails if RNG, order or optimiser state is lost."""
    settings = {
        "technique": technique,
        "max_steps": 8,
        "training": {"checkpoint_every": 2, "log_every": 1, "evaluate_every": 3},
    }
    whole = go(tmp_path, models, "whole", **settings)
    with power_cut(6):
        go(tmp_path, models, "cut", **settings)
    result = runs.resume(tmp_path / "cut")
    cut = tunesmith.RunResult(tmp_path / "cut", result)
    assert furthest(whole, cut) == 0.0
    assert logged(whole) == logged(cut)
    assert logged(whole, "evaluate") == logged(cut, "evaluate")
    assert whole.metrics == cut.metrics


def test_same_seed_same_run_other_seed_other_run(tmp_path: Path, models: Path) -> None:
    a, b, c = (go(tmp_path, models, n, seed=s) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert furthest(a, b) == 0.0
    assert furthest(a, c) > 0.0


def test_damaged_checkpoint_is_skipped(tmp_path: Path, models: Path) -> None:
    done = go(tmp_path, models, "a", training={"checkpoint_every": 2})
    found = sorted((done.folder / "checkpoints").glob("step-*"))
    assert [p.name for p in found] == ["step-00000002.safetensors", "step-00000004.safetensors"]
    whole = found[-1].read_bytes()
    found[-1].write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])  # one bit of one weight
    state = checkpoint.newest(done.folder / "checkpoints")
    assert state is not None and state["fit"]["steps"] == 2


def test_what_is_frozen_is_not_written_with_a_checkpoint(tmp_path: Path, models: Path) -> None:
    done = go(tmp_path, models, "a", technique="lora", training={"checkpoint_every": 2, "keep_checkpoints": 1})
    (path,) = (done.folder / "checkpoints").glob("step-*")
    state = checkpoint.read_state(path)
    assert sum(each.numel() for each in state["parameters"].values()) == done.result["cost"]["trainable_parameters"]
    assert all("lora" in name or "classifier" in name for name in state["parameters"])


def test_a_second_interrupt_does_not_wait() -> None:
    from tunesmith.training.stopping import stop_requests

    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(5)
        os.kill(os.getpid(), signal.SIGTERM)  # once more of the other kind is patience
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            stop.wait(0.2)
            time.sleep(5)


def test_half_precision_learns_what_fp32_learns(tmp_path: Path, models: Path) -> None:
    """bf16 compute with fp32 masters: an update of a thousandth of a weight survives (it would round away in bf16)."""
    small = {
        "learning_rate": 1e-5,
        "max_steps": 6,
        "training": {"warmup": 0, "schedule": "constant", "weight_decay": 0.0},
    }
    half, exact = (
        go(tmp_path, models, "half", dtype="bfloat16", **small),
        go(tmp_path, models, "exact", dtype="float32", **small),
    )
    start = weights(go(tmp_path, models, "start", dtype="float32", **{**small, "max_steps": 1, "learning_rate": 1e-12}))
    name = next(n for n in start if n.endswith("query.weight"))
    moved, wanted = weights(half)[name] - start[name], weights(exact)[name] - start[name]
    # Six AdamW steps of at most 1e-5 on weights of 0.15, whose bf16 neighbours are 1e-3 apart: without masters none moves.
    assert float(moved.abs().mean()) == pytest.approx(float(wanted.abs().mean()), rel=0.1)
    agreement = float((moved.sign() == wanted.sign()).float().mean())
    assert agreement > 0.9


def test_frozen_weights_are_untouched_by_half_precision(tmp_path: Path, models: Path) -> None:
    """The artifact sits on the base as it is on disk: its logits do not depend on what training computed in."""
    run = go(tmp_path, models, "half", technique="lora", dtype="bfloat16")
    base = dict(run.load().model.named_parameters())
    from safetensors.torch import load_file

    saved = load_file(str(models / "bert" / "model.safetensors"))
    for name, tensor in saved.items():
        key = (
            f"bert.{name}"
            if f"bert.{name}" in base
            else f"bert.{name}".replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        )
        assert torch.equal(base[key].detach(), tensor), name


def test_keep_best_ends_with_the_best_weights(tmp_path: Path, models: Path) -> None:
    run = go(
        tmp_path, models, "best", max_steps=12, learning_rate=0.05,
        training={"evaluate_every": 1, "keep_best": True, "warmup": 0, "schedule": "constant"}, validation=toy_rows(10),
    )  # fmt: skip
    scores = [line["metrics"]["accuracy"] for line in logged(run, "evaluate")]
    assert run.result["training"]["best_step"] == scores.index(max(scores)) + 1
    assert run.load().evaluate(toy_rows(10))["accuracy"] == pytest.approx(max(scores))


def test_best_by_another_metric(tmp_path: Path, models: Path) -> None:
    """Accuracy and loss choose different weights; a metric that there is not is refused by name."""
    from tunesmith.errors import ConfigError

    training = {"evaluate_every": 1, "keep_best": True, "warmup": 0, "schedule": "constant"}
    rows = [*toy_rows(9), {**toy_rows(10)[9], "label": toy_rows(9)[0]["label"]}]  # one label is wrong: confidence costs
    given: dict[str, Any] = {"max_steps": 24, "learning_rate": 5e-3, "validation": rows}
    run = go(tmp_path, models, "loss", training={**training, "best_metric": "loss"}, **given)
    losses = [line["metrics"]["loss"] for line in logged(run, "evaluate")]
    scores = [line["metrics"]["accuracy"] for line in logged(run, "evaluate")]
    assert run.result["training"]["best_step"] == losses.index(min(losses)) + 1
    assert losses.index(min(losses)) != scores.index(max(scores))
    assert run.load().evaluate(rows)["loss"] == pytest.approx(min(losses), rel=1e-4)
    with pytest.raises(ConfigError, match="did you mean `accuracy`"):
        go(tmp_path, models, "none", training={**training, "best_metric": "acuracy"}, **given)


@pytest.mark.parametrize("chooses", [True, False])
def test_a_best_metric_that_nothing_looks_at_is_said(chooses: bool, tmp_path: Path, models: Path, capsys: Any) -> None:
    go(tmp_path, models, "idle", max_steps=1, training={"best_metric": "loss", "keep_best": chooses})
    assert ("training.best_metric has no effect" in capsys.readouterr().err) is not chooses


def test_choosing_evaluates_without_being_told_when(tmp_path: Path, models: Path) -> None:
    """keep_best alone must look more than once, or the last weights are always the best."""
    run = go(tmp_path, models, "alone", max_steps=20, training={"keep_best": True})
    assert len(logged(run, "evaluate")) >= 10


def test_evaluations_are_spread_evenly(tmp_path: Path, models: Path) -> None:
    run = go(tmp_path, models, "spread", max_steps=7, training={"evaluations": 4})
    assert [line["step"] for line in logged(run, "evaluate")] == [2, 4, 6]


def test_evaluations_between_steps_take_no_more_than_their_share(tmp_path: Path, models: Path) -> None:
    """An evaluation costs a third of what training on as many rows does; what chooses is not held back."""
    options = TrainingOptions(evaluations=4)
    assert [options.every(12, 4, affordable) for affordable in (0.1, 3.0)] == [3, 3]
    options = TrainingOptions(evaluations=4, evaluation_share=0.5)
    assert [options.every(12, 4, affordable) for affordable in (1.9, 2.0, 4.0, 8.0, 80.0)] == [None, 12, 6, 3, 3]
    assert TrainingOptions(evaluations=4, evaluation_share=0.5, keep_best=True).every(12, 4, 0.1) == 3
    counts = {}
    for share in (0.01, 100.0):
        run = go(tmp_path, models, f"share{share}", max_steps=7, training={"evaluations": 4, "evaluation_share": share})
        counts[share] = [line["step"] for line in logged(run, "evaluate")]
    assert counts == {0.01: [], 100.0: [2, 4, 6]}
    for technique, steps in (
        ("full", [2, 4, 6]),
        ("feature-based", []),
    ):  # whose rows go through the backbone once, whatever the epochs
        settings = {"evaluations": 3, "evaluation_share": 0.2}
        run = go(tmp_path, models, technique, technique=technique, training=settings)
        assert [line["step"] for line in logged(run, "evaluate")] == steps


def test_a_parameter_that_a_step_does_not_use_stays(tmp_path: Path) -> None:
    """Masters must not keep the gradient of an earlier step: several heads take turns in one model."""
    from tunesmith.training.precision import Masters

    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 1), "b": torch.nn.Linear(2, 1)})
    masters = Masters(model, torch.bfloat16)
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    for used, passes in (("ab", 1), ("a", 1), ("b", 2)):
        for turn in range(passes):
            for name in used if turn == 0 else "b":
                model[name](x).sum().backward()
            masters.gather()
        grads = {n: t.grad for n, t in masters.tensors.items()}
        for name in "ab":
            grad = grads[f"{name}.weight"]
            assert (grad is None) == (name not in used)
            if grad is not None:
                assert torch.equal(grad, torch.full((1, 2), float(passes)))
        masters.clear()


def test_early_stopping_stops(tmp_path: Path, models: Path) -> None:
    run = go(
        tmp_path,
        models,
        "early",
        max_steps=30,
        learning_rate=1e-9,
        training={"evaluate_every": 2, "early_stopping": 2, "head_learning_rate": None},
    )
    assert run.result["training"]["stopped_early"] is True
    assert run.result["training"]["steps"] == 6  # best at 2, no better at 4 and 6
    assert run.result["provenance"]["rows"]["validation"] > 0


@pytest.mark.parametrize(
    "changed",
    [
        {"schedule": "cosine"}, {"schedule": "constant"}, {"warmup": 0.5}, {"warmup": 3}, {"weight_decay": 0.5}, {"max_grad_norm": 0.01},
        {"beta1": 0.5}, {"beta2": 0.9}, {"epsilon": 1e-2}, {"dropout": 0.5}, {"length_buckets": False}, {"head_learning_rate": 1e-2},
    ],
    ids=str,
)  # fmt: skip
def test_each_training_option_changes_the_result(tmp_path: Path, models: Path, changed: dict[str, Any]) -> None:
    rows = [{**row, "text": row["text"] + " and slow" * (i % 5)} for i, row in enumerate(toy_rows(32))]
    model = str(tiny_model("bert", models / "bert"))
    settings: dict[str, Any] = {"technique": "full", "max_steps": 5, "batch_size": 8, "learning_rate": 1e-3}
    plain = tunesmith.train(model, train=rows, eval=toy_rows(8), output=tmp_path / "plain", **settings)
    other = tunesmith.train(
        model, train=rows, eval=toy_rows(8), output=tmp_path / "other", training=changed, **settings
    )
    assert furthest(plain, other) > 0.0


def test_gradient_checkpointing_changes_memory_not_the_result(tmp_path: Path, models: Path) -> None:
    plain = go(tmp_path, models, "plain", training={"dropout": 0.0})
    recomputed = go(tmp_path, models, "recomputed", training={"dropout": 0.0, "gradient_checkpointing": True})
    assert furthest(plain, recomputed) < 1e-6


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("bert", "mean"), ("bert", "native"), ("roberta", "cls"), ("distilbert", "native"), ("modernbert", "mean"), ("gpt2", "native"),
     ("llama", "last"), ("gemma3", "native"), ("t5", "native"), ("bart", "native")],
)  # fmt: skip
def test_cached_features_give_what_running_the_backbone_gives(
    kind: str, pooling: str, tmp_path: Path, models: Path
) -> None:
    """Fails if the stand-in serves another row's states, other positions, or skips what learns below the head."""
    cached, run = (
        go(
            tmp_path,
            models,
            str(c),
            kind,
            technique="feature-based",
            **{"feature-based": {"pooling": pooling, "cache": c}},
        )
        for c in (True, False)
    )
    assert furthest(cached, run) < 1e-5


def test_features_are_made_in_the_dtype_of_training(tmp_path: Path, models: Path) -> None:
    half, full = (go(tmp_path, models, d, technique="feature-based", dtype=d) for d in ("bfloat16", "float32"))
    assert 0.0 < furthest(half, full) < 1e-3
    assert half.result["training"]["dtype"] == "float32"  # of the head, which is all that is stepped


def test_a_model_is_afterwards_what_it_was() -> None:
    model = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ZeroDivisionError), features.computing_in(model, torch.bfloat16):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        raise ZeroDivisionError
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_layer_decay_moves_low_layers_less(tmp_path: Path, models: Path) -> None:
    start = weights(go(tmp_path, models, "start", max_steps=1, learning_rate=1e-12))
    run = weights(go(tmp_path, models, "decay", full={"layer_decay": 0.1}, training={"weight_decay": 0.0}))
    name = "bert.encoder.layer.{}.attention.self.query.weight"
    low, high = (float((run[name.format(i)] - start[name.format(i)]).abs().mean()) for i in (0, 1))
    assert 5 < high / low < 20


def test_diverging_run_stops_before_the_step(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.objectives.supervised import Supervised

    monkeypatch.setattr(Supervised, "loss", lambda *a: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(readings.Diverged, match="learning-rate"):
        go(tmp_path, models, "nan")
    assert not (tmp_path / "nan" / "artifact").exists()


def test_fast_dropout_has_the_right_rate_mean_and_gradient() -> None:
    torch.manual_seed(0)
    for p in (0.05, 0.1, 0.5):
        layer, x = dropout.FastDropout(p), torch.ones(400, 500, requires_grad=True)
        y = layer(x)
        dropped = float((y == 0).float().mean())
        assert dropped == pytest.approx(p, abs=5 * (p * (1 - p) / 2e5) ** 0.5)  # five standard deviations
        assert float(y.detach().mean()) == pytest.approx(1.0, abs=0.01)
        y.sum().backward()
        assert torch.equal(x.grad, y.detach())  # y = x m, so dy/dx = m = y at x = 1
        assert torch.equal(layer.eval()(x), x)
    rows = (dropout.FastDropout(0.5)(torch.ones(2000, 8)) == 0).float()
    neighbours = torch.corrcoef(rows.T)[~torch.eye(8, dtype=torch.bool)]
    assert float(neighbours.abs().max()) < 0.12  # the four elements that share a draw are independent


def test_trackers_write(tmp_path: Path, models: Path) -> None:
    pytest.importorskip("tensorboard")
    run = go(tmp_path, models, "tracked", report_to=["tensorboard"], training={"log_every": 1})
    assert list(run.folder.rglob("events.out.tfevents*"))


def test_wandb_writes_into_the_run(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    run = go(tmp_path, models, "tracked", report_to=["wandb"], training={"log_every": 1})
    assert list(run.folder.rglob("*.wandb"))


def test_result_has_the_schema(tmp_path: Path, models: Path) -> None:
    run = go(tmp_path, models, "schema")
    result = json.loads((run.folder / "result.json").read_text())
    for key in (
        "schema_version",
        "task",
        "technique",
        "model",
        "seed",
        "status",
        "metrics",
        "cost",
        "forgetting",
        "stream",
        "provenance",
    ):
        assert key in result
    assert set(result["cost"]) == {
        "trainable_parameters", "total_parameters", "train_seconds", "tokens_per_second", "peak_memory_bytes", "artifact_bytes",
        "predicted_memory_bytes", "predicted_seconds",
    }  # fmt: skip
    assert set(result["provenance"]) >= {
        "versions",
        "hardware",
        "rows",
        "data_sha256",
        "model_sha256",
        "config_sha256",
        "git_commit",
    }
    assert result["metrics"]["primary"] in result["metrics"]["after"]
    assert "loss" in result["metrics"]["after"]


def test_what_was_decided_by_measuring_is_not_decided_anew(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, power_cut: Any
) -> None:
    """A machine that is busy when a run is gone on with finds bf16 no faster, or has less memory; the run stays what it was."""
    from tunesmith.training import machine, memory, precision

    monkeypatch.setattr(precision, "SMALL", 0)
    monkeypatch.setattr(machine, "half_precision_gain", lambda: 2.0)
    settings: dict[str, Any] = {"dtype": "auto", "training": {"checkpoint_every": 2}}
    whole = go(tmp_path, models, "whole", **settings)
    with power_cut(4):
        go(tmp_path, models, "cut", **settings)
    monkeypatch.setattr(machine, "half_precision_gain", lambda: 0.5)
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    monkeypatch.setattr(memory, "can_recompute", lambda heads: True)
    again = tunesmith.resume(tmp_path / "cut")
    assert again["training"]["dtype"] == whole.result["training"]["dtype"] == "bfloat16"
    assert furthest(whole, tunesmith.RunResult(tmp_path / "cut", again)) == 0.0


def test_best_by_the_loss_of_one_of_several_tasks(tmp_path: Path, models: Path) -> None:
    """Less is better of `one/loss`, too."""
    tasks = [
        {"name": name, "task": "text-classification", "train": toy_rows(24), "validation": toy_rows(9)}
        for name in ("one", "two")
    ]
    run = tunesmith.train(
        str(tiny_model("bert", models / "bert")), stream={"stages": [{"name": "both", "tasks": tasks}]}, technique="full", max_steps=8, learning_rate=2e-3, batch_size=8,
        doctor=False, training={"evaluate_every": 1, "keep_best": True, "best_metric": "one/loss"}, output=tmp_path / "run",
    )  # fmt: skip
    losses = [line["metrics"]["one/loss"] for line in logged(run, "evaluate")]
    best = run.result["training"]["best_step"]
    assert best == losses.index(min(losses)) + 1 != losses.index(max(losses)) + 1
