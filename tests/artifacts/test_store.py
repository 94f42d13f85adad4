"""Artifacts: what was saved is what was measured, in plain transformers too, and damage is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith import processes
from tunesmith.artifacts.store import open_artifact
from tunesmith.artifacts.verify import compare, spread, verify_run
from tunesmith.errors import ArtifactError, VerificationError
from tunesmith.testing import KINDS, tiny_model
from tunesmith.testing.artifacts import reseal
from tunesmith.testing.rows import toy_rows

TECHNIQUES = ("full", "feature-based", "bitfit", "adapter", "lora", "prompt-tuning", "prefix-tuning")


def trained(
    models: Path, out: Path, technique: str = "lora", kind: str = "bert", **settings: Any
) -> tunesmith.RunResult:
    return tunesmith.train(
        str(tiny_model(kind, models / kind)), train=toy_rows(24), eval=toy_rows(8), technique=technique, max_steps=5, batch_size=8,
        learning_rate=1e-2, output=out, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_full_opens_in_a_plain_pipeline(kind: str, models: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    run = trained(models, tmp_path / "run", "full", kind)
    texts = [row["text"] for row in toy_rows(6)]
    ours = run.load().predict([{"text": text} for text in texts])
    theirs = pipeline("text-classification", model=str(run.artifact), device="cpu")(texts)
    for a, b in zip(ours, theirs, strict=True):
        assert a["prediction"] == b["label"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)


@pytest.mark.parametrize("technique", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "llama", "bart"])
def test_merged_opens_in_a_plain_pipeline(technique: str, kind: str, models: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    run = trained(models, tmp_path / "run", technique, kind)
    artifact = run.load()
    texts = [row["text"] for row in toy_rows(6)]
    ours = artifact.predict([{"text": text} for text in texts])
    artifact.opened.technique.merge(artifact.opened.loaded.backbone)
    artifact.model.save_pretrained(tmp_path / "merged")
    artifact.tokenizer.save_pretrained(tmp_path / "merged")
    theirs = pipeline("text-classification", model=str(tmp_path / "merged"), device="cpu")(texts)
    for a, b in zip(ours, theirs, strict=True):
        assert a["prediction"] == b["label"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_artifact_gives_the_measured_metrics(technique: str, models: Path, tmp_path: Path) -> None:
    run = trained(models, tmp_path / "run", technique)
    again = tunesmith.load(run.artifact).evaluate(toy_rows(8))
    for name, value in run.metrics.items():
        assert again[name] == pytest.approx(value, abs=1e-6), name
    card = (run.artifact / "README.md").read_text()
    assert technique in card and "```python" in card
    assert run.result["verification"]["rows"] == 8


def test_some_rows_of_a_large_file_stand_for_all(tmp_path: Path) -> None:
    """Spread over the file, each against its own line of the predictions; `tunesmith verify` takes them all."""
    assert spread(5, 100) == [0, 1, 2, 3, 4]
    assert spread(1000, 4) == [125, 375, 625, 875] and len(set(spread(1001, 100))) == 100
    lines = [{"raw": [0.1 * i, 1.0], "prediction": str(i)} for i in range(8)]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    some = {
        "rows": 2,
        "places": [1, 6],
        "raw": [lines[i]["raw"] for i in (1, 6)],
        "predictions": [lines[i]["prediction"] for i in (1, 6)],
    }
    assert compare(tmp_path, "", some) == 0.0
    with pytest.raises(VerificationError, match="1 of 2 predictions"):
        compare(tmp_path, "", {**some, "places": [0, 6]})
    with pytest.raises(VerificationError, match="other rows"):
        compare(tmp_path, "", {**some, "places": [1, 99]})


def test_verification_sees_another_head(models: Path, tmp_path: Path) -> None:
    """Fails if verification compares nothing."""
    from safetensors.torch import load_file, save_file

    run = trained(models, tmp_path / "run")
    path = run.artifact / "adapter_model.safetensors"
    tensors = load_file(str(path))
    name = next(n for n in tensors if n.endswith("classifier.weight"))
    tensors[name] = -tensors[name]
    save_file(tensors, str(path), metadata={"format": "pt"})
    reseal(run.artifact)
    with pytest.raises(VerificationError, match="does not score"):
        verify_run(run.folder)


def test_damage_is_refused(models: Path, tmp_path: Path) -> None:
    run = trained(models, tmp_path / "run")
    path = run.artifact / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="damaged"):
        tunesmith.load(run.artifact)


@pytest.mark.parametrize("technique", ["lora", "full"])
def test_a_changed_byte_of_any_file_is_refused(technique: str, models: Path, tmp_path: Path) -> None:
    """But the card's, which is for people: numbers of configurations and words of tokenizers decide what is said as weights do."""
    folder = trained(models, tmp_path / "run", technique=technique).artifact
    looked_at = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == "README.md":
            continue
        content = path.read_bytes()
        place = next(i for i in range(len(content) // 2, len(content)) if content[i : i + 1].isalnum())
        path.write_bytes(
            content[:place] + (b"1" if content[place : place + 1] != b"1" else b"2") + content[place + 1 :]
        )
        with pytest.raises(ArtifactError, match="damaged"):
            open_artifact(folder)
        path.write_bytes(content)
        looked_at += 1
    assert looked_at >= 4
    (folder / "README.md").write_text("mine")
    assert open_artifact(folder).technique.name == technique


def test_another_base_is_refused(models: Path, tmp_path: Path) -> None:
    base = tiny_model("bert", tmp_path / "base", seed=1)
    run = tunesmith.train(str(base), train=toy_rows(24), eval=toy_rows(8), max_steps=2, output=tmp_path / "run")
    (base / "model.safetensors").unlink()
    (base / "config.json").unlink()
    tiny_model("bert", base, seed=2)
    with pytest.raises(ArtifactError, match="was trained on"):
        tunesmith.load(run.artifact)


def test_nothing_half_written_when_the_disk_is_full(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    def full(*args: Any, **kwargs: Any) -> None:
        Path(args[1]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(tunesmith.TunesmithError, match="free some space"):
        trained(models, tmp_path / "run")
    assert not (tmp_path / "run" / "artifact").exists()
    assert not list((tmp_path / "run").glob(".*"))


def test_model_objects_and_dataframes(models: Path, tmp_path: Path) -> None:
    import pandas as pd
    from transformers import AutoModel, AutoTokenizer

    folder = str(tiny_model("bert", models / "bert"))
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    frame = pd.DataFrame(toy_rows(24))
    run = tunesmith.train(
        model, tokenizer=tokenizer, train=frame, eval=toy_rows(8), max_steps=3, output=tmp_path / "object"
    )
    named = tunesmith.train(folder, train=toy_rows(24), eval=toy_rows(8), max_steps=3, output=tmp_path / "named")
    assert run.metrics == pytest.approx(named.metrics)


def test_a_refused_call_replaces_nothing(models: Path, tmp_path: Path) -> None:
    """Model objects and rows are written into the run's folder: not before the folder is known to be free."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(tiny_model("bert", models / "bert"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings: dict[str, Any] = {"tokenizer": tokenizer, "eval": toy_rows(8), "max_steps": 2, "output": tmp_path / "run"}
    run = tunesmith.train(AutoModel.from_pretrained(folder), train=toy_rows(24), **settings)
    other = AutoModel.from_pretrained(str(tiny_model("bert", tmp_path / "other", seed=5)))
    with pytest.raises(tunesmith.UserError, match="finished run"):
        tunesmith.train(other, train=toy_rows(12), **settings)
    assert run.load().evaluate(toy_rows(8)) == pytest.approx(run.metrics)
    with pytest.raises(tunesmith.UserError):  # --overwrite with a mistake keeps the old run, too
        tunesmith.train(folder, train=str(tmp_path / "missing.csv"), output=tmp_path / "run", overwrite=True)
    assert run.load().evaluate(toy_rows(8)) == pytest.approx(run.metrics)


def test_a_model_of_the_hub_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trained on a hub id is refused when that id means other weights by then."""
    cache = tmp_path / "hub"

    def publish(commit: str, seed: int) -> None:
        place = cache / "models--someone--model"
        tiny_model("bert", place / "snapshots" / commit, seed=seed)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)

    monkeypatch.setattr(processes, "call", lambda target, payload: processes._run(target, payload)["result"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("huggingface_hub.constants.HF_HUB_CACHE", "transformers.utils.hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(name, str(cache))
    publish("a" * 40, 1)
    run = tunesmith.train(
        "someone/model", train=toy_rows(24), eval=toy_rows(8), max_steps=2, output=tmp_path / "run", device="cpu"
    )
    saved = json.loads((run.artifact / "tunesmith.json").read_text())["base_model"]
    assert saved["path"] == "someone/model" and len(saved["sha256"]) == 64
    assert json.loads((run.artifact / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/model"
    tunesmith.load(run.artifact)
    publish("b" * 40, 2)
    with pytest.raises(ArtifactError, match="was trained on"):
        tunesmith.load(run.artifact)
