"""Exports open in the program that they are for and answer as the artifact does; what a format cannot hold is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import tunesmith
from tunesmith.artifacts import export as module
from tunesmith.artifacts import probes
from tunesmith.artifacts.export import export, short_names
from tunesmith.artifacts.store import open_artifact
from tunesmith.cli.main import run
from tunesmith.errors import UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows


def train(
    kind: str, models: Path, place: Path, task: str = "text-classification", technique: str = "lora", **more: Any
) -> Path:
    folder = tiny_model(kind, models / kind)
    if task == "instruction" and kind == "llama":  # with its own output layer, as pretrained ones come
        torch.manual_seed(0)
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(models / "writer")
        AutoTokenizer.from_pretrained(folder).save_pretrained(models / "writer")
        folder = models / "writer"
    shape = {"instruction": {"generate_rows": 0}} if task == "instruction" else {}
    settings: dict[str, Any] = {
        "task": task, "train": rows_for(task, 16), "eval": rows_for(task, 5), "technique": technique, "max_steps": 3, "batch_size": 8, "learning_rate": 2e-2,
        "max_length": 40, "output": place, "device": "cpu", "dtype": "float32", "doctor": False, **shape, **more,
    }  # fmt: skip
    return tunesmith.train(str(folder), **settings).folder


@pytest.mark.parametrize(
    ("kind", "task", "technique", "more"),
    [
        ("bert", "text-classification", "lora", {}), ("llama", "instruction", "lora", {}), ("llama", "instruction", "prompt-tuning", {"prompt-tuning": {"length": 3}}),
        ("llama", "instruction", "prefix-tuning", {"prefix-tuning": {"length": 3}}), ("t5", "instruction", "ia3", {}), ("bert", "token-classification", "dora", {}),
        ("llama", "text-classification", "qlora", {}),
    ],
)  # fmt: skip
def test_peft(kind: str, task: str, technique: str, more: dict[str, Any], models: Path, tmp_path: Path) -> None:
    folder = train(kind, models, tmp_path / "run", task, technique, **more)
    found = export(folder, "peft", tmp_path / "out")
    assert found["drift"] < 1e-5 and found["opened_with"] == "peft"
    assert found["rows"] == (0 if technique.endswith("tuning") else 5)  # peft's prompts are not scored through a task
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]).is_dir()
    if technique == "lora" and kind == "llama":
        assert all("." not in name for name in config["target_modules"])
    assert not (tmp_path / "out" / "tunesmith.json").exists()
    again = probes.answers(*_of(tmp_path / "out", task))
    assert probes.drift(again, probes.answers(*_of(folder, task))) < (1 if technique == "qlora" else 1e-5)


def _of(folder: Path, task: str) -> tuple[Any, Any]:
    plain = not (folder / "artifact").is_dir()
    opened = open_artifact(folder, task=task if plain else None)
    return opened.loaded.model, opened.loaded.tokenizer


@pytest.mark.parametrize(
    ("kind", "technique", "task"), [("bert", "lora", "text-classification"), ("gpt2", "full", "text-classification"), ("llama", "qlora", "instruction")]
)  # fmt: skip
def test_merged(kind: str, technique: str, task: str, models: Path, tmp_path: Path) -> None:
    folder = train(kind, models, tmp_path / "run", task, technique)
    found = export(folder, "merged", tmp_path / "out")
    assert found["drift"] < 1e-5 and found["rows"] == 5
    assert not (tmp_path / "out" / "tunesmith.json").exists()
    if task == "text-classification":
        rows = [row["text"] for row in toy_rows(3)]
        said = pipeline(task, model=str(tmp_path / "out"), device="cpu")(rows)
        ours = tunesmith.load(folder, device="cpu").predict([{"text": text} for text in rows])
        assert [r["prediction"] for r in ours] == [r["label"] for r in said]
        assert [r["score"] for r in ours] == pytest.approx([r["score"] for r in said], abs=1e-4)
    else:
        assert pipeline("text-generation", model=str(tmp_path / "out"), device="cpu")("good", max_new_tokens=3)


@pytest.mark.parametrize(
    ("kind", "task", "technique"),
    [("bert", "text-classification", "lora"), ("bert", "token-classification", "adapter"), ("distilbert", "question-answering", "full"), ("llama", "text-classification", "lora")],
)  # fmt: skip
def test_onnx(kind: str, task: str, technique: str, models: Path, tmp_path: Path) -> None:
    """Also of rows of other lengths and numbers than those it was traced with, padding included."""
    import onnxruntime

    folder = train(kind, models, tmp_path / "run", task, technique)
    found = export(folder, "onnx", tmp_path / "out")
    assert found["drift"] < 1e-5 and found["rows"] == 5
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    opened = open_artifact(folder)
    batch = AutoTokenizer.from_pretrained(tmp_path / "out")(list(probes.TEXTS[:5]), padding=True, return_tensors="np")
    names = [each.name for each in session.get_inputs()]
    values = session.run(None, {name: batch[name] for name in names})
    with torch.no_grad():
        wanted = opened.loaded.model(**{name: torch.from_numpy(np.asarray(batch[name])) for name in names})
    real = batch["attention_mask"].astype(bool)
    for name, value in zip([each.name for each in session.get_outputs()], values, strict=True):
        pairs = (
            (value, wanted[name].numpy())
            if value.shape[:2] != real.shape
            else (value[real], wanted[name].numpy()[real])
        )
        assert np.abs(pairs[0] - pairs[1]).max() < 1e-5


def test_what_a_format_cannot_hold(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bottleneck = train("bert", models, tmp_path / "bottleneck", technique="adapter")
    writes = train("llama", models, tmp_path / "writes", "instruction")
    t5 = train("t5", models, tmp_path / "t5")
    for folder, to, words in (
        (bottleneck, "peft", "no format for"), (bottleneck, "merged", "cannot be folded"), (writes, "onnx", "writes text"), (t5, "onnx", "encoder-decoder"),
        (writes, "gguf", "Known: "),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            export(folder, to, tmp_path / "out")
    with pytest.raises(UserError, match="nothing was written"):
        export(writes, "merged", tmp_path / "out", bound=0.0)
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="--overwrite"):
        export(writes, "peft", tmp_path / "there")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name, *a: None)
    with pytest.raises(UserError, match=r"pip install 'tunesmith\[onnx\]'"):
        export(bottleneck, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".exporting*"))


def test_short_names() -> None:
    modules = ["a.q.base_layer", "a.q", "a.k", "b.q", "head.q2", "a.q.lora_A"]
    assert short_names(["a.q", "b.q"], modules) == ["q"]
    assert short_names(["a.q"], modules) == ["a.q"]  # b.q would be meant too


def test_verify_and_export_from_the_command_line(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("bert", models, tmp_path / "run")
    assert run(["verify", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "verified" and found["rows"] == 5 and found["largest_difference"] < 1e-5
    result = json.loads((folder / "result.json").read_text())
    assert found["metrics"]["accuracy"] == result["metrics"]["after"]["accuracy"]
    assert run(["verify", str(folder / "artifact")]) == 0
    assert "score as measured" in capsys.readouterr().err
    assert run(["export", str(folder), "--to", "merged", "--output", str(tmp_path / "m"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 5
    changed = {**result, "metrics": {**result["metrics"], "after": {**result["metrics"]["after"], "loss": 9.0}}}
    (folder / "result.json").write_text(json.dumps(changed))
    assert run(["verify", str(folder)]) == 1
    assert "measured loss 9" in capsys.readouterr().err
    (folder / "result.json").unlink()
    assert run(["verify", str(folder)]) == 0
    assert "no scores to compare" in capsys.readouterr().err
    weights = folder / "artifact" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert run(["verify", str(folder)]) == 2
    assert "damaged" in capsys.readouterr().err
