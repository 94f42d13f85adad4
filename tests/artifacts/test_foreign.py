"""Adapters that plain peft made: they score, predict, merge and switch like our own, and damaged ones are refused with a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import tunesmith
from tunesmith.artifacts import probes
from tunesmith.artifacts.merge import merge
from tunesmith.artifacts.store import open_artifact
from tunesmith.cli.main import run
from tunesmith.errors import UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows


def base(kind: str, place: Path, cls: Any, **more: Any) -> Any:
    """A model that transformers saved, with its tokenizer, opened again."""
    if not place.is_dir():
        folder = tiny_model(kind, place.parent / f"tiny-{kind}")
        torch.manual_seed(0)
        cls.from_pretrained(folder, **more).save_pretrained(place)
        AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return cls.from_pretrained(place, **more)


def made(model: Any, config: Any, folder: Path) -> Any:
    """A peft model with random weights everywhere, saved by peft."""
    torch.manual_seed(1)
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "ia3" in name or "prompt" in name or "modules_to_save" in name:
                parameter.normal_(std=0.3)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


CONFIGS = {
    "lora": LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=3, target_modules=["query", "value"]),
    "patterns": LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules=["query", "dense"], rank_pattern={"query": 2}, use_rslora=True, layers_to_transform=[1],
        layers_pattern="layer",
    ),
    "expression": LoraConfig(task_type="SEQ_CLS", r=4, target_modules=r".*\.(key|dense)", exclude_modules=["intermediate.dense"]),
    "dora": LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"], use_dora=True),
    "biases": LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], bias="lora_only"),
    "ia3": IA3Config(task_type="SEQ_CLS", target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_classifier_answers_as_in_peft(name: str, tmp_path: Path) -> None:
    model = base("bert", tmp_path / "base", AutoModelForSequenceClassification, num_labels=3)
    plain = made(model, CONFIGS[name], tmp_path / "adapter")
    opened = open_artifact(tmp_path / "adapter")
    found = probes.answers(opened.loaded.model, opened.loaded.tokenizer)
    wanted = probes.answers(plain.base_model.model, opened.loaded.tokenizer)
    assert probes.drift(found, wanted) < 1e-6
    rows = [{"text": row["text"]} for row in toy_rows(4)]
    assert {row["prediction"] for row in tunesmith.load(tmp_path / "adapter", device="cpu").predict(rows)} <= {0, 1, 2}
    named = tunesmith.load(tmp_path / "adapter", device="cpu", labels=["a", "b", "c"])
    assert {row["prediction"] for row in named.predict(rows)} <= {"a", "b", "c"}
    with pytest.raises(UserError, match="3 labels apart, and 2 are named"):
        tunesmith.load(tmp_path / "adapter", labels=["a", "b"])
    if name != "biases":
        assert merge([tmp_path / "adapter"], tmp_path / "merged")["drift"] < 1e-5


@pytest.mark.parametrize("kind", ["distilbert", "modernbert", "roberta"])
def test_labels_are_counted_at_the_end_of_a_head(kind: str, tmp_path: Path) -> None:
    """Heads with a dense layer before the last one: what was exported to peft scores as ours."""
    run_ = tunesmith.train(
        str(tiny_model(kind, tmp_path / kind)), train=toy_rows(24), eval=toy_rows(8), technique="lora", max_steps=3, batch_size=8, output=tmp_path / "run",
        device="cpu", dtype="float32", doctor=False,
    )  # fmt: skip
    shutil.copytree(run_.artifact, tmp_path / "plain")
    (tmp_path / "plain" / "tunesmith.json").unlink()
    ours, plain = open_artifact(run_.artifact), open_artifact(tmp_path / "plain", labels=["negative", "positive"])
    answers = [probes.answers(each.loaded.model, each.loaded.tokenizer) for each in (ours, plain)]
    assert probes.drift(*answers) < 1e-6


def test_labels_of_the_base_are_kept(tmp_path: Path) -> None:
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    model = base(
        "bert",
        tmp_path / "base",
        AutoModelForTokenClassification,
        id2label=names,
        label2id={n: i for i, n in names.items()},
    )
    made(model, LoraConfig(task_type="TOKEN_CLS", target_modules=["query"]), tmp_path / "adapter")
    artifact = tunesmith.load(tmp_path / "adapter", device="cpu")
    assert artifact.task.labels == ["O", "B-PER", "I-PER"] and artifact.task.scheme == "bio"
    (row,) = artifact.predict([{"tokens": ["Anna", "sings"]}])
    assert len(row["prediction"]) == 2


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "up_proj"]), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["lora", "prompt", "prefix"],
)  # fmt: skip
def test_a_language_model_answers_as_in_peft(config: Any, tmp_path: Path) -> None:
    model = base("llama", tmp_path / "base", AutoModelForCausalLM)
    plain = made(model, config, tmp_path / "adapter")
    opened = open_artifact(tmp_path / "adapter")
    assert opened.task.name == "instruction"
    tokenizer = opened.loaded.tokenizer
    for text in probes.TEXTS[:4]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :12]
        with torch.no_grad():
            wanted = plain(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1] :]
            found = opened.loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert (found - wanted).abs().max() < 1e-5
    assert open_artifact(tmp_path / "adapter", task="language-modeling").task.name == "language-modeling"


def test_the_base_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the configuration names one that is not here."""
    model = base("bert", tmp_path / "base", AutoModelForSequenceClassification, num_labels=2)
    made(model, CONFIGS["lora"], tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(tmp_path / "gone")})
    )
    rows = [{"text": row["text"], "label": i % 2} for i, row in enumerate(toy_rows(6))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["evaluate", str(tmp_path / "adapter"), "--data", str(tmp_path / "rows.jsonl"), "--json"]
    assert run(words) == 2
    assert "gone" in capsys.readouterr().err
    assert run([*words, "--model", str(tmp_path / "base")]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["metrics"]["accuracy"] <= 1


def test_damaged_folders(tmp_path: Path) -> None:
    model = base("bert", tmp_path / "base", AutoModelForSequenceClassification, num_labels=2)
    made(model, CONFIGS["lora"], tmp_path / "good")
    good = json.loads((tmp_path / "good" / "adapter_config.json").read_text())

    def check(words: str, change: Any) -> None:
        place = tmp_path / "bad"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tmp_path / "good", place)
        change(place)
        with pytest.raises(UserError, match=words):
            open_artifact(place)

    def config(**changed: Any) -> Any:
        return lambda place: (place / "adapter_config.json").write_text(json.dumps({**good, **changed}))

    def weights(change: Any) -> Any:
        def write(place: Path) -> None:
            file = place / "adapter_model.safetensors"
            file.write_bytes(change(file.read_bytes()))

        return write

    def pickled(place: Path) -> None:
        (place / "adapter_model.safetensors").rename(place / "adapter_model.bin")

    check("pickle", pickled)
    check("lacks `adapter_model", lambda place: (place / "adapter_model.safetensors").unlink())
    check("damaged", weights(lambda content: content[:200]))
    check("damaged", weights(lambda content: b"\x80\x04" + content))
    check("damaged", lambda place: (place / "adapter_config.json").write_text("{"))
    check("no adapter configuration", lambda place: (place / "adapter_config.json").write_text("[1]"))
    check("damaged", lambda place: (place / "adapter_config.json").write_text("[" * 100_000))
    check("bytes, which no adapter", lambda place: (place / "adapter_config.json").write_text(" " * (2 << 20)))
    check("does not fit", config(r=8))
    check("AdaLoRA", config(peft_type="ADALORA"))
    check("NOTHING|none", config(peft_type="NOTHING"))
    check("task_type", config(task_type=None))
    check("name its base", config(base_model_name_or_path=None))
    check("no head", config(modules_to_save=None))
    check("of peft for SEQ_CLS", config(peft_type="PROMPT_TUNING"))
    with pytest.raises(UserError, match=r"no adapter_config.json"):
        open_artifact(tmp_path / "base")
