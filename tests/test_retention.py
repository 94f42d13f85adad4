"""What a run forgets: exactly nothing where nothing changed, what a plain model says where something did."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tunesmith
from tunesmith import run as runs
from tunesmith.data.passages import SIZE, passages, pieces
from tunesmith.data.sources import Rows
from tunesmith.evaluation import drift
from tunesmith.evaluation.forgetting import change, sentence
from tunesmith.testing import tiny_model
from tunesmith.testing.models import WORDS
from tunesmith.testing.rows import rows_for, toy_rows

AUTO = {
    "bert": "AutoModelForMaskedLM", "llama": "AutoModelForCausalLM", "lstm": "AutoModelForCausalLM",
    "t5": "AutoModelForSeq2SeqLM", "bart": "AutoModelForSeq2SeqLM",
}  # fmt: skip
TEXT = [{"text": " ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(40))} for i in range(12)]


@pytest.fixture(scope="session")
def checkpoints(models: Path) -> Any:
    """Tiny models with the language-model head in their checkpoint."""
    import tunesmith.models.recurrent  # noqa: F401  (registers its classes)

    def make(kind: str) -> str:
        place = models / f"{kind}-with-head"
        if not place.exists():
            source = str(tiny_model(kind, models / kind))
            torch.manual_seed(0)
            getattr(transformers, AUTO[kind]).from_pretrained(source).save_pretrained(place)
            transformers.AutoTokenizer.from_pretrained(source).save_pretrained(place)
        return str(place)

    return make


def go(model: str, place: Path, **settings: Any) -> Any:
    settings = {
        "technique": "lora", "max_steps": 2, "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32", "device": "cpu", "doctor": False,
        "train": toy_rows(16), "eval": toy_rows(8), "retain": TEXT, **settings,
    }  # fmt: skip
    return tunesmith.train(model, output=place, **settings)


# A rate of 1e-30 leaves every weight what it is in fp32: an untouched model with `full`, an adapter at its start with the others.
@pytest.mark.parametrize(
    ("kind", "technique"),
    [
        ("bert", "lora"), ("llama", "lora"), ("t5", "lora"), ("lstm", "lora"), ("bart", "adapter"), ("bert", "full"), ("t5", "full"),
        ("bert", "feature-based"),
    ],
)  # fmt: skip
def test_nothing_is_forgotten_where_nothing_changed(
    kind: str, technique: str, checkpoints: Any, tmp_path: Path
) -> None:
    rate = {} if technique == "feature-based" else {"learning_rate": 1e-30}
    found = go(checkpoints(kind), tmp_path / "run", technique=technique, **rate, training={"weight_decay": 0.0})
    kept = found.result["forgetting"]
    assert kept["change"] == 0.0 and kept["before"] == kept["after"] > 0
    assert kept["kind"] == "general text" and kept["rows"] == 12
    assert kept["metric"] == ("bits_per_byte" if kind in ("llama", "lstm") else "loss")


@pytest.mark.parametrize("technique", ["full", "prompt-tuning"])
def test_bits_per_byte_are_those_of_the_plain_model(technique: str, checkpoints: Any, tmp_path: Path) -> None:
    """Before: the checkpoint in plain transformers, text by text. After: another number, and training is not touched by measuring."""
    found = go(checkpoints("llama"), tmp_path / "run", technique=technique)
    kept = found.result["forgetting"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints("llama"))
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoints("llama")).eval()
    nats, size = 0.0, 0
    for row in TEXT:
        ids = torch.tensor([tokenizer(row["text"])["input_ids"]])
        with torch.no_grad():
            nats += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        size += len(row["text"].encode())
    assert kept["before"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert kept["change"] == kept["after"] - kept["before"] != 0
    if technique == "full":
        plain = go(checkpoints("llama"), tmp_path / "plain", technique=technique, retain=None)
        assert plain.result["forgetting"] is None and plain.metrics == found.metrics


def test_a_model_without_a_head_is_measured_by_its_representations(models: Path, tmp_path: Path) -> None:
    """The distance is that of plain transformers' states; the untouched model has moved by exactly 0."""
    model = str(tiny_model("bert", models / "bert"))
    kept = go(model, tmp_path / "run", technique="full").result["forgetting"]
    assert (kept["kind"], kept["metric"], kept["before"]) == ("representation", "cosine_distance", 0.0)
    assert kept["change"] > 0 and kept["further"]["cka"]["after"] < 1
    assert "not a loss" in kept["how"] and "no language-model head" in kept["how"]
    states = []
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    for place in (model, str(tmp_path / "run" / "artifact")):
        plain = transformers.AutoModel.from_pretrained(place).eval()
        with torch.no_grad():
            states.append(torch.cat([plain(**tokenizer(r["text"], return_tensors="pt"))[0].mean(1) for r in TEXT]))
    wanted = float((1 - torch.nn.functional.cosine_similarity(states[0].double(), states[1].double())).mean())
    assert kept["after"] == pytest.approx(wanted, rel=1e-4)
    still = go(model, tmp_path / "still", learning_rate=1e-30).result["forgetting"]
    assert still["change"] == 0.0 and still["further"]["cka"]["after"] == 1.0


def test_drift_measures() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 8, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert drift.cosine_distance(x, x.clone()) == 0.0 and drift.cka(x, x.clone()) == 1.0
    assert drift.cosine_distance(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert drift.cosine_distance(x, -x) == pytest.approx(2)
    assert drift.cka(x, 5 * x @ turn + 1) == pytest.approx(1)  # rotation, scale and shift do not count
    centred = x - x.mean(0)
    other = torch.randn(40, 8, dtype=torch.float64)
    both = other - other.mean(0)
    kernels = [c @ c.T for c in (centred, both)]  # the other form of CKA, by Gram matrices
    wanted = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    assert drift.cka(x, other) == pytest.approx(float(wanted))


def test_the_sign() -> None:
    assert change("accuracy", 0.9, 0.7) == pytest.approx(0.2) and change("bits_per_byte", 1.0, 1.5) == 0.5
    assert change("cosine_distance", 0.0, 0.3) == 0.3 and change("f1", 0.5, 0.6) == pytest.approx(-0.1)
    shown = {
        "kind": "text-classification",
        "source": "a",
        "rows": 3,
        "metric": "accuracy",
        "before": 0.9,
        "after": 0.7,
        "change": 0.2,
    }
    assert "0.2000 forgotten (22.2%)" in sentence(shown)
    assert "better than before" in sentence({**shown, "change": -0.1})
    assert "nothing is forgotten" in sentence({**shown, "change": 0.0})


def test_rows_of_a_task_through_the_head_that_learned_it(checkpoints: Any, tmp_path: Path) -> None:
    """A run that is continued with flipped labels forgets what the first one learned: its own score before, its own after."""
    one_rate: dict[str, Any] = {"technique": "full", "learning_rate": 1e-3, "training": {"head_learning_rate": None}}
    first = go(checkpoints("bert"), tmp_path / "first", retain=None, max_steps=30, **one_rate)
    flipped = [{**r, "label": {"positive": "negative"}.get(r["label"], "positive")} for r in toy_rows(16)]
    stages = [{"name": "flipped", "train": flipped, "eval": flipped}]
    kept = tunesmith.train(
        checkpoints("bert"), output=tmp_path / "second", stream={"stages": stages}, continue_from=str(tmp_path / "first"),
        max_steps=30, batch_size=8, device="cpu", doctor=False, retain={"task": "text-classification", "data": toy_rows(8)}, **one_rate,
    ).result["forgetting"]  # fmt: skip
    assert kept["kind"] == "text-classification" and kept["metric"] == "accuracy"
    assert kept["before"] == first.metrics["accuracy"] > 0.8 and kept["after"] <= 0.5
    assert kept["change"] == kept["before"] - kept["after"] == kept["change_after"]["flipped"]


@pytest.mark.parametrize(
    ("kind", "task", "metric"), [("llama", "text-classification", "accuracy"), ("t5", "instruction", "perplexity")]
)
def test_rows_of_a_task_that_the_pretrained_model_can_do(
    kind: str, task: str, metric: str, checkpoints: Any, tmp_path: Path
) -> None:
    options = {"zero-shot": {"words": {"positive": "good", "negative": "bad"}}, "instruction": {"generate_rows": 0}}
    settings = {"retain": {"task": task, "data": rows_for(task, 8)}, "learning_rate": 1e-30, **options}
    kept = go(checkpoints(kind), tmp_path / "run", **settings).result["forgetting"]
    assert (kept["kind"], kept["metric"], kept["change"]) == (task, metric, 0.0)
    assert kept["further"]["loss"]["before"] == kept["further"]["loss"]["after"] > 0


def test_a_stream_is_measured_after_every_stage_and_resumes(checkpoints: Any, tmp_path: Path, power_cut: Any) -> None:

    stages = [{"name": n, "train": toy_rows(16), "eval": toy_rows(8), "head": "own"} for n in ("a", "b")]
    settings: dict[str, Any] = {
        "stream": {"stages": stages}, "train": None, "eval": None, "strategy": "progressive", "technique": "adapter",
    }  # fmt: skip
    whole = go(checkpoints("bert"), tmp_path / "whole", **settings).result["forgetting"]
    assert list(whole["change_after"]) == ["a", "b"] and whole["change_after"]["b"] == whole["change"] != 0
    with power_cut(3):
        go(checkpoints("bert"), tmp_path / "cut", **settings)
    again = runs.resume(tmp_path / "cut")["forgetting"]
    assert {**again, "source": ""} == {**whole, "source": ""}


def test_it_is_seen_where_people_look(checkpoints: Any, tmp_path: Path, cli: Any) -> None:
    """One sentence while running, a line in `show`, one in the card."""
    (tmp_path / "text.txt").write_text("\n\n".join(row["text"] for row in TEXT), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toy_rows(24)), encoding="utf-8")
    done = cli(
        "train", "--model", checkpoints("bert"), "--train", tmp_path / "rows.jsonl", "--retain", tmp_path / "text.txt", "--set", "retain.rows=3",
        "--max-steps", "2", "--technique", "full", "--no-doctor", "-o", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    kept = json.loads((tmp_path / "run" / "result.json").read_text())["forgetting"]
    said = f"loss {kept['before']:.4f} before, {kept['after']:.4f} after"
    assert said in done.err.replace("\n", " ") and said in (tmp_path / "run" / "artifact" / "README.md").read_text()
    shown = cli("show", tmp_path / "run").out
    assert "retained" in shown and f"{kept['change']:+.4f}" in shown


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"retain": {"task": "ner", "data": TEXT}}, ["retain.task", "ner"]),
        ({"retain": {"task": "question-answering", "data": rows_for("question-answering", 4)}}, ["question-answering", "--continue-from"]),
        ({"retain": "nowhere.txt"}, ["nowhere.txt"]),
        ({"retain": [{"text": " "}]}, ["every text is empty"]),
        ({"model": "new:lstm"}, ["new:lstm", "--retain"]),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(
    settings: dict[str, Any], words: list[str], models: Path, tmp_path: Path
) -> None:
    model = settings.pop("model", None) or str(tiny_model("bert", models / "bert"))
    with pytest.raises(tunesmith.UserError) as caught:
        go(model, tmp_path / "run", **({"technique": "full"} if model.startswith("new:") else {}), **settings)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_passages() -> None:
    from datasets import Dataset

    long = " ".join(f"word{i}" for i in range(1000))
    assert " ".join(pieces(long)) == long and max(map(len, pieces(long))) <= SIZE
    assert list(pieces("x" * 2500)) == ["x" * 1000, "x" * 1000, "x" * 500]
    rows = Rows(Dataset.from_list([{"text": f"{i} {long}"} for i in range(30)]), "file", "sha")
    some = passages(rows, 10)
    assert len(some) == 10 and list(some.table["text"]) == list(passages(rows, 10).table["text"])
    assert len({some.number(i) for i in range(10)}) > 5  # from all over the file
    assert len(passages(rows, 10_000)) > 100
