"""--init-adapter: training goes on from an adapter, ours or peft's; what does not fit is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tunesmith
from tunesmith.errors import UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for


def train(models: Path, place: Path, task: str = "text-classification", **more: Any) -> Any:
    settings: dict[str, Any] = {
        "model": str(tiny_model("bert", models / "bert")), "task": task, "train": rows_for(task, 16), "eval": rows_for(task, 8), "technique": "lora", "max_steps": 6,
        "batch_size": 8, "learning_rate": 2e-2, "max_length": 40, "output": place, "device": "cpu", "dtype": "float32", "doctor": False, **more,
    }  # fmt: skip
    return tunesmith.train(settings.pop("model"), **settings)


@pytest.mark.parametrize(
    ("technique", "more"),
    [("lora", {"lora": {"rank": 4}}), ("adapter", {}), ("prefix-tuning", {"prefix-tuning": {"length": 3}})],
)
def test_it_begins_where_the_adapter_ended(technique: str, more: dict[str, Any], models: Path, tmp_path: Path) -> None:
    """With a rate of next to nothing it stays there, head included; nothing in it is what a fresh one has."""
    first = train(models, tmp_path / "first", technique=technique, **more)
    kept = train(models, tmp_path / "kept", technique=technique, init_adapter=str(first.folder), learning_rate=1e-12)
    assert kept.result["metrics"]["after"]["loss"] == pytest.approx(first.result["metrics"]["after"]["loss"], abs=1e-5)
    further = train(models, tmp_path / "further", technique=technique, init_adapter=str(first.folder / "artifact"))
    assert abs(further.result["metrics"]["after"]["loss"] - first.result["metrics"]["after"]["loss"]) > 1e-4
    assert (
        tunesmith.load(kept.folder, device="cpu").opened.info["technique_options"]
        == tunesmith.load(first.folder, device="cpu").opened.info["technique_options"]
    )


def test_another_task_takes_the_adapter_and_a_head_of_its_own(models: Path, tmp_path: Path) -> None:
    first = train(models, tmp_path / "first")
    tags = train(models, tmp_path / "tags", "token-classification", init_adapter=str(first.folder), learning_rate=1e-12)
    before, after = (load_file(run.folder / "artifact" / "adapter_model.safetensors") for run in (first, tags))
    shared = [name for name in after if "lora_" in name]
    assert shared and all(torch.allclose(before[name], after[name], atol=1e-6) for name in shared)
    assert after["base_model.model.classifier.weight"].shape != before["base_model.model.classifier.weight"].shape


def test_a_plain_peft_folder_is_trained_further(models: Path, tmp_path: Path) -> None:
    """Its own configuration stays: patterns that have no option of ours too."""
    folder = tiny_model("bert", models / "bert")
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "dense"], rank_pattern={"query": 2})
    get_peft_model(base, config).save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "plain")
    run = train(models, tmp_path / "run", init_adapter=str(tmp_path / "plain"))
    saved = load_file(run.folder / "artifact" / "adapter_model.safetensors")
    ranks = {name.split(".lora_A")[0].rsplit(".", 1)[-1]: len(t) for name, t in saved.items() if ".lora_A." in name}
    assert ranks == {"query": 2, "dense": 4}
    assert run.result["verification"]["largest_difference"] < 1e-5
    again = train(models, tmp_path / "again", init_adapter=str(run.folder))
    assert again.result["metrics"]["after"]["loss"] < run.result["metrics"]["after"]["loss"]


def test_what_does_not_fit_is_refused(models: Path, tmp_path: Path) -> None:
    first = train(models, tmp_path / "first", lora={"rank": 4}, max_steps=1)
    whole = train(models, tmp_path / "whole", technique="full", max_steps=1)
    for words, given in (
        ("add --technique lora", {"technique": "dora", "init_adapter": str(first.folder)}),
        ("lora.rank 4, and the run asks for 8", {"lora": {"rank": 8}, "init_adapter": str(first.folder)}),
        ("whole model and no adapter", {"technique": "full", "init_adapter": str(whole.folder)}),
        ("is another", {"model": str(whole.folder / "artifact"), "init_adapter": str(first.folder)}),
        ("not an artifact", {"init_adapter": str(tmp_path)}),
    ):
        with pytest.raises(UserError, match=words):
            train(models, tmp_path / "run", **given)
        assert not (tmp_path / "run" / "config.yaml").exists()
