"""A rate for heads: they learn at it and nothing else does, and where the run's own is higher it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

import tunesmith
from tunesmith import registry
from tunesmith.data.encode import encode
from tunesmith.data.sources import Rows
from tunesmith.errors import ConfigError
from tunesmith.models.load import load_model, load_tokenizer, locate
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows
from tunesmith.training import loop
from tunesmith.training.head_rate import HIGHEST, size_of_states, usual_head_rate, with_head_rate


def trained(models: Path, place: Path, rate: float | str | None, **more: Any) -> dict[str, torch.Tensor]:
    """The tensors of a run's artifact."""
    settings: dict[str, Any] = {
        "train": toy_rows(32), "eval": toy_rows(8), "technique": "lora", "max_steps": 6, "batch_size": 8, "learning_rate": 1e-12, "dtype": "float32", "device": "cpu",
        "doctor": False, **more,
        "training": {"head_learning_rate": rate, "plan": False, **more.get("training", {})},
    }  # fmt: skip
    kind = settings.pop("kind", "bert")
    run = tunesmith.train(str(tiny_model(kind, models / kind)), output=place, **settings)
    return load_file(next((run.folder / "artifact").glob("*.safetensors")))


def moved(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, float]:
    """By how much each tensor differs."""
    return {name: float((a[name] - b[name]).abs().max()) for name in a}


@pytest.mark.parametrize(
    ("kind", "technique", "head"),
    [("bert", "lora", "classifier"), ("bert", "adapter", "classifier"), ("bert", "full", "classifier"), ("llama", "lora", "score"),
     ("llama", "full", "score"), ("t5", "lora", "classification_head")],
)  # fmt: skip
def test_the_head_alone_learns_at_it(kind: str, technique: str, head: str, models: Path, tmp_path: Path) -> None:
    plain = trained(models, tmp_path / "plain", None, technique=technique, kind=kind)
    quick = trained(models, tmp_path / "quick", 1e-2, technique=technique, kind=kind)
    far = {name for name, distance in moved(plain, quick).items() if distance > 1e-6}
    assert far and all(head in name for name in far)
    assert max(moved(plain, quick).values()) > 1e-2  # six steps of up to a hundredth


def test_a_higher_rate_of_the_run_stays(models: Path, tmp_path: Path) -> None:
    plain, floor = (
        trained(models, tmp_path / str(rate), rate, learning_rate=1e-2, technique="feature-based")
        for rate in (None, 5e-3)
    )
    assert max(moved(plain, floor).values()) == 0.0


def test_every_head_of_a_run_has_it(models: Path, tmp_path: Path) -> None:
    """Of two tasks that learn together both heads move, the second of which is not part of the first one's model."""
    tasks = [
        {"name": name, "task": task, "train": rows_for(task, 16), "eval": rows_for(task, 8)}
        for name, task in (("mood", "text-classification"), ("names", "token-classification"))
    ]
    found = []
    for rate in (None, 1e-2):
        run = tunesmith.train(
            str(tiny_model("bert", models / "bert")), stream={"stages": [{"name": "both", "tasks": tasks}]}, technique="lora", max_steps=6, batch_size=8,
            learning_rate=1e-12, dtype="float32", device="cpu", doctor=False, training={"head_learning_rate": rate}, output=tmp_path / str(rate),
        )  # fmt: skip
        files = sorted((run.folder / "artifact").rglob("*.safetensors"))
        found.append({f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()})
    far = {name for name, distance in moved(*found).items() if distance > 1e-6}
    heads = {name for name in found[0] if "classifier" in name}
    assert len(heads) >= 4 and far == heads


def test_the_output_layer_of_a_checkpoint_is_no_such_head(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task: dict[str, Any] = {
        "kind": "gpt2",
        "task": "instruction",
        "train": rows_for("instruction", 16),
        "eval": rows_for("instruction", 4),
        "technique": "full",
    }
    plain, given = (trained(models, tmp_path / str(rate), rate, **task) for rate in (None, 1e-2))
    assert max(moved(plain, given).values()) == 0.0
    said = capsys.readouterr().err
    assert "head_learning_rate has no effect" in said and "(heads" not in said
    result = json.loads((tmp_path / "0.01" / "result.json").read_text(encoding="utf-8"))
    assert "head_learning_rate" not in result["training"]


@pytest.fixture
def quickened(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The parameters that got a rate of their own, one set a fit."""
    seen: list[set[str]] = []

    def listen(groups: Any, heads: Any, rate: Any) -> Any:
        found = with_head_rate(groups, heads, rate)
        rates = [{name: group["lr"] for group in each for name in group["names"]} for each in (groups, found)]
        seen.append({name for name in rates[0] if rates[0][name] != rates[1][name]})
        return found

    monkeypatch.setattr(loop, "with_head_rate", listen)
    return seen


@pytest.mark.parametrize(("kind", "head"), [("bert", "classifier"), ("llama", "score"), ("t5", "classification_head")])
def test_of_itself_a_head_that_begins_at_random_has_it(
    kind: str, head: str, models: Path, tmp_path: Path, quickened: list[set[str]]
) -> None:
    one, plain = (trained(models, tmp_path / str(rate), rate, kind=kind) for rate in ("auto", None))
    result = json.loads((tmp_path / "auto" / "result.json").read_text(encoding="utf-8"))
    rate = result["training"]["head_learning_rate"]
    other = json.loads((tmp_path / "None" / "result.json").read_text(encoding="utf-8"))
    assert 0.0 < rate <= HIGHEST and "head_learning_rate" not in other["training"]
    given = trained(models, tmp_path / "given", rate, kind=kind)
    assert max(moved(one, given).values()) == 0.0 < max(moved(one, plain).values())
    assert quickened[0] and all(head in name for name in quickened[0])


def test_a_run_that_began_with_one_rate_goes_on_with_one(models: Path, tmp_path: Path, power_cut: Any) -> None:
    """Of a run from before heads had a rate the folder names none: neither its config.yaml nor what was decided at its start."""
    more = {"training": {"head_learning_rate": None, "checkpoint_every": 2}, "learning_rate": 1e-3}
    whole = trained(models, tmp_path / "whole", None, **more)
    quick = trained(models, tmp_path / "quick", None, **{**more, "training": {"head_learning_rate": "auto"}})
    with power_cut(4):
        trained(models, tmp_path / "cut", None, **more)
    settings = tmp_path / "cut" / "config.yaml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(
        "".join(line for line in text.splitlines(True) if "head_learning_rate" not in line), encoding="utf-8"
    )
    decided = tmp_path / "cut" / "checkpoints" / "decided.json"
    found = json.loads(decided.read_text(encoding="utf-8"))
    assert found.pop("head_rate") is None and "head_learning_rate" in text
    decided.write_text(json.dumps(found), encoding="utf-8")
    tunesmith.resume(tmp_path / "cut")
    again = load_file(next((tmp_path / "cut" / "artifact").glob("*.safetensors")))
    assert max(moved(whole, again).values()) == 0.0 < max(moved(whole, quick).values())


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_size_of_what_a_head_reads(kind: str, models: Path) -> None:
    """By hand: |h|_1 of the last states, which a tagger reads as they are, meant over the positions of four rows of one length."""
    cls = registry.load("task", "token-classification")
    task, source = cls(cls.Options()), locate(str(tiny_model(kind, models / kind)))
    rows = Rows(Dataset.from_list(rows_for("token-classification", 4) * 3), "rows", "rows")
    rows = Rows(rows.table.select([0] * 6), "rows", "rows")
    task.fit(rows)
    tokenizer = load_tokenizer(source)
    loaded = load_model(source, tokenizer, task)
    loaded.model.train()
    features = encode(task, rows, tokenizer, 64)
    found = size_of_states(task, loaded, features)
    assert loaded.model.training and not any(module._forward_pre_hooks for module in loaded.model.modules())
    states = loaded.backbone.base.eval()(input_ids=torch.tensor([list(features[0]["input_ids"])])).last_hidden_state
    assert found == pytest.approx(float(states.detach().abs().sum(-1).mean()), rel=1e-5)
    with torch.no_grad():  # what the head reads is twice as large
        for name, parameter in loaded.backbone.base.named_parameters():
            if name in (
                "norm.weight",
                "encoder.layer.1.output.LayerNorm.weight",
                "encoder.layer.1.output.LayerNorm.bias",
            ):
                parameter.mul_(2.0)
    assert size_of_states(task, loaded, features) == pytest.approx(2 * found, rel=1e-5)


def test_the_rate_falls_with_what_is_read() -> None:
    assert [usual_head_rate(size) for size in (0.0, 20.0, 120.0)] == [HIGHEST] * 3
    assert usual_head_rate(600.0) == 1e-3
    assert usual_head_rate(4096.0) == 1.5e-4


def test_a_head_that_has_learned_keeps_the_rate_of_the_run(
    models: Path, tmp_path: Path, quickened: list[set[str]]
) -> None:
    trained(models, tmp_path / "full", "auto", technique="full")
    trained(models, tmp_path / "lora", "auto")
    assert all(each and all("classifier" in name for name in each) for each in quickened)
    # A whole model brings its head, an adapter, too, unless the labels are others; and a stage that goes on has the head of the one before.
    base: dict[str, Any] = {
        "train": toy_rows(32), "eval": toy_rows(8), "max_steps": 2, "batch_size": 8, "dtype": "float32", "device": "cpu", "doctor": False,
    }  # fmt: skip
    bert, start = str(tiny_model("bert", models / "bert")), str(tmp_path / "lora" / "artifact")
    other = [{**row, "label": f"so {row['label']}"} for row in toy_rows(32)]
    for name, settings, has in (
        ("model", {"model": str(tmp_path / "full" / "artifact"), "technique": "full"}, False),
        ("adapter", {"model": bert, "technique": "lora", "init_adapter": start}, False),
        ("labels", {"model": bert, "technique": "lora", "init_adapter": start, "train": other, "eval": other[:8]}, True),
    ):  # fmt: skip
        quickened.clear()
        own = {**base, **settings}
        tunesmith.train(own.pop("model"), **own, output=tmp_path / name)
        assert [bool(each) for each in quickened] == [has], name


@pytest.mark.parametrize("head", ["shared", "own"])
def test_in_a_stream_a_head_is_new_once(head: str, models: Path, tmp_path: Path, quickened: list[set[str]]) -> None:
    stages = [
        {"name": name, "train": toy_rows(32), "eval": toy_rows(8), **({"head": "own"} if head == "own" else {})}
        for name in ("first", "second")
    ]
    tunesmith.train(
        str(tiny_model("bert", models / "bert")), stream={"stages": stages}, technique="lora", max_steps=2, batch_size=8, dtype="float32", device="cpu", doctor=False,
        output=tmp_path / "run",
    )  # fmt: skip
    first, second = quickened
    assert first and (bool(second) == (head == "own"))
    assert not first & second


def test_of_two_heads_the_one_that_no_adapter_brought_is_new(
    models: Path, tmp_path: Path, quickened: list[set[str]]
) -> None:
    trained(models, tmp_path / "lora", "auto")
    quickened.clear()
    tasks = [
        {"name": "mood", "task": "text-classification", "train": toy_rows(32), "eval": toy_rows(8)},
        {"name": "names", "task": "token-classification", "train": rows_for("token-classification", 16), "eval": rows_for("token-classification", 8)},
    ]  # fmt: skip
    tunesmith.train(
        str(tiny_model("bert", models / "bert")), stream={"stages": [{"name": "both", "tasks": tasks}]}, technique="lora", init_adapter=str(tmp_path / "lora" / "artifact"),
        max_steps=2, batch_size=8, dtype="float32", device="cpu", doctor=False, output=tmp_path / "run",
    )  # fmt: skip
    (found,) = quickened
    assert found and all(name.startswith("names") for name in found)


def test_a_head_on_a_backbone_that_stands_still_keeps_the_rate_it_was_given(
    models: Path, tmp_path: Path, quickened: list[set[str]]
) -> None:
    trained(models, tmp_path / "run", "auto", technique="feature-based", learning_rate=1e-4)
    assert quickened == [set()]


def test_a_run_says_both_rates(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(models, tmp_path / "one", "auto", learning_rate=1e-4)
    trained(models, tmp_path / "two", None, learning_rate=1e-4)
    said = [line for line in capsys.readouterr().err.splitlines() if "parameters learn" in line]
    assert "at 0.0001 (heads 0.005)" in said[0] and "at 0.0001, " in said[1]


def test_a_model_from_nothing_has_one_rate(tmp_path: Path, quickened: list[set[str]]) -> None:
    tunesmith.train(
        "new:lstm", train=toy_rows(32), eval=toy_rows(8), max_steps=2, batch_size=8, dtype="float32", device="cpu", doctor=False, output=tmp_path / "run"
    )  # fmt: skip
    assert quickened == [set()]


def test_groups() -> None:
    groups = [
        {"names": ["a", "head.w"], "lr": 0.1},
        {"names": ["b", "head.v"], "lr": 0.5},
        {"names": ["head.u"], "lr": 0.1},
    ]
    assert with_head_rate(groups, {"head.w", "head.v", "head.u"}, None) == groups
    assert with_head_rate(groups, {"head.w", "head.v", "head.u"}, 0.2) == [
        {"names": ["a"], "lr": 0.1}, {"names": ["head.w"], "lr": 0.2}, groups[1], {"names": ["head.u"], "lr": 0.2},
    ]  # fmt: skip


def test_it_is_above_nothing(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="head_learning_rate"):
        trained(models, tmp_path, -1.0)
