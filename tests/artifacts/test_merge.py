"""Folding an adapter into its base, and several into one: what is written answers as what was merged, or nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

import tunesmith
from tunesmith.artifacts import probes
from tunesmith.artifacts.merge import METHODS, merge
from tunesmith.artifacts.store import open_artifact
from tunesmith.cli.main import run
from tunesmith.errors import UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows


def train(
    kind: str, models: Path, place: Path, task: str = "text-classification", technique: str = "lora", **more: Any
) -> Path:
    settings: dict[str, Any] = {
        "task": task, "train": rows_for(task, 16), "eval": rows_for(task, 4), "technique": technique, "max_steps": 4, "batch_size": 8, "learning_rate": 2e-2,
        "max_length": 40, "output": place, "device": "cpu", "dtype": "float32", "doctor": False, **more,
    }  # fmt: skip
    return tunesmith.train(str(tiny_model(kind, models / kind)), **settings).folder / "artifact"


def said(folder: Path, **more: Any) -> list[torch.Tensor]:
    opened = open_artifact(folder, **more)
    return probes.answers(opened.loaded.model, opened.loaded.tokenizer)


@pytest.mark.parametrize(
    ("kind", "technique", "more"),
    [
        ("bert", "lora", {}), ("llama", "dora", {}), ("t5", "lora", {}), ("gpt2", "lora", {"lora": {"init": "pissa"}}), ("bert", "ia3", {}), ("bert", "bitfit", {}),
        ("llama", "peft:LOHA", {}), ("bert", "feature-based", {"feature-based": {"pooling": "native"}}), ("llama", "qlora", {}), ("bert", "lora", {"quantization": "int8"}),
    ],
)  # fmt: skip
def test_one_adapter_goes_into_its_base(
    kind: str, technique: str, more: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    """The merged model is a plain one that answers as before, in tunesmith and in transformers."""
    folder = train(kind, models, tmp_path / "run", technique=technique, **more)
    found = merge([folder], tmp_path / "merged")
    assert found["drift"] < 1e-5
    assert probes.drift(said(folder), said(tmp_path / "merged")) < 1e-5
    opened = tunesmith.load(tmp_path / "merged", device="cpu")
    assert opened.opened.info["technique"] == "full" and opened.opened.info["merged"]["technique"] == technique
    assert opened.opened.info["quantization"] == "none"
    rows = [{"text": row["text"]} for row in toy_rows(4)]
    before = tunesmith.load(folder, device="cpu").predict(rows)
    assert [r["prediction"] for r in opened.predict(rows)] == [r["prediction"] for r in before]
    plain = pipeline("text-classification", model=str(tmp_path / "merged"), device="cpu")
    assert [each["label"] for each in plain([row["text"] for row in rows])] == [str(r["prediction"]) for r in before]
    untouched = said(folder)
    base = probes.answers(*_untouched(kind, models, folder))
    assert probes.drift(base, untouched) > 1e-3, "the adapter changes nothing, so merging it shows nothing"


def _untouched(kind: str, models: Path, folder: Path) -> tuple[Any, Any]:
    """The base under another head of the same shape."""
    opened = open_artifact(folder)
    from tunesmith.models.load import load_model, locate

    return load_model(
        locate(str(models / kind)), opened.loaded.tokenizer, opened.task, seed=3
    ).model, opened.loaded.tokenizer


@pytest.mark.parametrize(
    ("technique", "words"),
    [
        ("adapter", "cannot be folded"), ("prefix-tuning", "cannot be folded"), ("prompt-tuning", "cannot be folded"),
        ("full", "whole model"), ("feature-based", "pooling=native"),
    ],
)  # fmt: skip
def test_what_cannot_be_folded_says_so(technique: str, words: str, models: Path, tmp_path: Path) -> None:
    folder = train("bert", models, tmp_path / "run", technique=technique)
    with pytest.raises(UserError, match=words):
        merge([folder], tmp_path / "merged")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_beyond_the_bound_nothing_is_written(models: Path, tmp_path: Path) -> None:
    folder = train("bert", models, tmp_path / "run")
    with pytest.raises(UserError, match="nothing was written"):
        merge([folder], tmp_path / "merged", bound=1e-12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    merge([folder], tmp_path / "merged")
    with pytest.raises(UserError, match="--overwrite"):
        merge([folder], tmp_path / "merged")
    assert merge([folder], tmp_path / "merged", overwrite=True)["drift"] < 1e-5


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of one base: two of rank 4, one of rank 8."""
    models, runs = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        options = {
            "a": {"lora": {"rank": 4}},
            "b": {"lora": {"rank": 4}, "seed": 4},
            "c": {"lora": {"rank": 8, "alpha": 4}, "seed": 5},
        }
        return {name: train("bert", models, runs / name, **each) for name, each in options.items()} | {"models": models}


def change(folder: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to every matrix, from its own tensors."""
    opened = open_artifact(folder)
    return {
        name: module.get_delta_weight("default").detach() for name, module in opened.loaded.model.named_modules() if hasattr(module, "lora_A")
    }  # fmt: skip


def test_cat_and_svd_are_the_weighted_sum_of_the_changes(three: dict[str, Path], tmp_path: Path) -> None:
    """In closed form; svd with enough rank too, with less rank the best approximation (Eckart and Young 1936); heads are averaged."""
    sources = [three["a"], three["c"]]
    a, c = map(change, sources)
    wanted = {name: 0.7 * a[name] + 0.3 * c[name] for name in a}
    found = merge(sources, tmp_path / "cat", weights=[0.7, 0.3])
    assert found["rank"] == 12 and found["drift"] < 1e-5
    for name, value in change(tmp_path / "cat").items():
        assert (value - wanted[name]).abs().max() < 1e-6
    merge(sources, tmp_path / "svd", method="svd", weights=[0.7, 0.3], rank=12)
    for name, value in change(tmp_path / "svd").items():
        assert (value - wanted[name]).abs().max() < 1e-5
    merge(sources, tmp_path / "low", method="svd", weights=[0.7, 0.3], rank=2)
    for name, value in change(tmp_path / "low").items():
        rest = torch.linalg.svdvals(wanted[name])[2:]
        assert (value - wanted[name]).norm() == pytest.approx(float(rest.norm()), rel=1e-3, abs=1e-6)
    heads = [dict(open_artifact(f).loaded.backbone.head_parameters()) for f in (*sources, tmp_path / "cat")]
    for name, value in heads[2].items():
        assert torch.allclose(value, 0.7 * heads[0][name] + 0.3 * heads[1][name], atol=1e-7)


def test_every_method_weight_and_density_changes_the_result(three: dict[str, Path], tmp_path: Path) -> None:
    sources = [three["a"], three["b"]]
    found = {}
    for method in METHODS:
        merge(sources, tmp_path / method, method=method, weights=[1.0, 1.0])
        found[method] = said(tmp_path / method)
    different = [n for n in METHODS if n not in ("cat", "svd")]
    for i, one in enumerate(different):
        for other in different[i + 1 :]:
            assert probes.drift(found[one], found[other]) > 1e-7, (one, other)
    assert probes.drift(found["cat"], found["linear"]) > 1e-4
    merge(sources, tmp_path / "light", method="cat", weights=[1.0, 0.1])
    assert probes.drift(found["cat"], said(tmp_path / "light")) > 1e-4
    merge(sources, tmp_path / "dense", method="ties", weights=[1.0, 1.0], density=0.9)
    assert probes.drift(found["ties"], said(tmp_path / "dense")) > 1e-4


@pytest.mark.parametrize("method", ["cat", "svd"])
@pytest.mark.parametrize("first", [True, False])
def test_adapters_that_are_scaled_by_the_root_of_their_rank(
    method: str, first: bool, three: dict[str, Path], tmp_path: Path
) -> None:
    """The sum is that of the changes as they are: alpha / sqrt(r) of one, alpha / r of the other (rank-stabilised LoRA)."""
    stable = train("bert", three["models"], tmp_path / "stable", lora={"rank": 4, "rank_stabilized": True}, seed=7)
    sources = [stable, three["a"]] if first else [three["a"], stable]
    one, two = map(change, sources)
    found = merge(sources, tmp_path / "merged", method=method, weights=[0.5, 0.5])
    assert found["drift"] < 1e-5
    for name, value in change(tmp_path / "merged").items():
        wanted = 0.5 * one[name] + 0.5 * two[name]
        if method == "svd":
            assert (value - wanted).norm() < wanted.norm()
            continue
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-5)
    assert open_artifact(tmp_path / "merged").technique.options.rank_stabilized is False


@pytest.mark.parametrize("method", ["ties", "dare_ties", "ties_svd"])
def test_copies_of_one_adapter_agree_about_everything(method: str, three: dict[str, Path], tmp_path: Path) -> None:
    """With nothing pruned their disjoint mean is the adapter itself, however many there are (Yadav et al. 2023, section 3)."""
    merge([three["a"]] * 3, tmp_path / "merged", method=method, density=1.0)
    for name, value in change(tmp_path / "merged").items():
        torch.testing.assert_close(value, change(three["a"])[name], atol=1e-5, rtol=1e-4)


def test_what_is_no_number_is_beyond_every_bound() -> None:
    fine = [torch.tensor([1.0, -3.0]), torch.tensor([0.5, 0.5])]
    for place in (0, 1):
        broken = [each.clone() for each in fine]
        broken[place][0] = float("nan")
        assert probes.drift(fine, broken) == probes.drift(broken, fine) == float("inf")
        assert probes.drift(broken, broken) == float("inf"), "nothing can be said of it"
    masked = [torch.tensor([1.0, float("-inf")])]
    assert probes.drift(masked, masked) == 0.0
    assert probes.drift(masked, [torch.tensor([1.3, float("-inf")])]) == pytest.approx(0.3)


def test_a_merged_adapter_is_an_adapter(three: dict[str, Path], tmp_path: Path) -> None:
    """Plain peft opens it, it predicts, and it can be folded in turn."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    merge([three["a"], three["b"]], tmp_path / "both")
    opened = open_artifact(tmp_path / "both")
    base = AutoModelForSequenceClassification.from_pretrained(three["models"] / "bert", num_labels=2)
    plain = PeftModel.from_pretrained(base, tmp_path / "both").eval()
    assert probes.drift(said(tmp_path / "both"), probes.answers(plain.base_model.model, opened.loaded.tokenizer)) < 1e-5
    merge([tmp_path / "both"], tmp_path / "folded")
    assert probes.drift(said(tmp_path / "both"), said(tmp_path / "folded")) < 1e-5


def test_adapters_that_do_not_belong_together(three: dict[str, Path], tmp_path: Path, models: Path) -> None:
    other = train("bert", models, tmp_path / "other", technique="ia3")
    tags = train("bert", models, tmp_path / "tags", "token-classification")
    llama = train("llama", models, tmp_path / "llama")
    pissa = train("bert", models, tmp_path / "pissa", lora={"init": "pissa"}, max_steps=1)
    for several, words, more in (
        ([three["a"], other], "only where all are LoRA", {}),
        ([three["a"], tags], "other questions", {}),
        ([three["a"], llama], "adapters of one base", {}),
        ([three["a"], three["c"]], "cat and svd take different ranks", {"method": "linear"}),
        ([three["a"], three["b"]], "as many weights", {"weights": [1.0]}),
        ([three["a"], three["b"]], "did you mean `ties`", {"method": "tie"}),
        ([three["a"], three["b"]], "sum to 0", {"weights": [1.0, -1.0]}),
        ([three["a"], three["b"]], "no rank to choose", {"method": "cat", "rank": 4}),
        ([three["a"], three["b"]], "drops nothing", {"method": "svd", "density": 0.3}),
        ([three["a"]], "are for several", {"weights": [1.0]}),
        ([three["a"]], "are for several", {"method": "cat"}),
        ([pissa, three["b"]], "rewriting its base", {}),
    ):
        with pytest.raises(UserError, match=words):
            merge(several, tmp_path / "merged", **more)
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".merging*"))


def test_from_the_command_line(three: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "merge",
        str(three["a"]),
        str(three["b"]),
        "--method",
        "ties",
        "--weights",
        "0.6,0.4",
        "--density",
        "0.4",
        "--output",
        str(tmp_path / "x"),
        "--json",
    ]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "ties" and found["weights"] == [0.6, 0.4] and found["drift"] < 1e-5
    assert run([*words[:5], "--weights", "a,b", "--output", str(tmp_path / "y")]) == 2
    assert "0.7,0.3" in capsys.readouterr().err
