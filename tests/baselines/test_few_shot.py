"""Few-shot: shots are balanced and drawn by the seed, stand before every row, and run once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from tunesmith import registry
from tunesmith.baselines import few_shot
from tunesmith.baselines._asking import Asker
from tunesmith.config import RunConfig
from tunesmith.data.sources import Rows
from tunesmith.data.splits import Roles
from tunesmith.errors import TechniqueError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows

WORDS = {"positive": "good", "negative": "bad"}
QUESTION = {"words": WORDS, "template": "{text} is"}


def checkpoint(kind: str, models: Path, tmp_path: Path) -> str:
    """A tiny model with its language-model head."""
    import tunesmith.models.recurrent  # noqa: F401  (registers its classes)

    auto = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
    auto.from_pretrained(str(tiny_model(kind, models / kind))).save_pretrained(tmp_path / kind)
    AutoTokenizer.from_pretrained(str(models / kind)).save_pretrained(tmp_path / kind)
    return str(tmp_path / kind)


def guess_of(model: str, task_name: str, seed: int = 0, **options: Any) -> tuple[Any, Any, Any]:
    cls = registry.load("task", task_name)
    task = cls(cls.Options(**({"max_new_tokens": 3} if task_name == "instruction" else {})))
    rows = Rows(Dataset.from_list(rows_for(task_name)), "rows", "x")
    task.fit(rows)
    config = RunConfig(model=model, task=task_name, train="x", device="cpu", seed=seed)  # type: ignore[call-arg]
    found = few_shot.FewShot(few_shot.Options(**options)).predict(task, Roles(rows, None, rows, {}), config)
    return found, task, rows


@pytest.mark.parametrize("kind", ["gpt2", "gemma3", "lstm"])
def test_shots_stand_before_every_row(kind: str, models: Path, tmp_path: Path) -> None:
    """Against the plain model on the whole prompt, row by row, without padding and without kept keys and values."""
    model = checkpoint(kind, models, tmp_path)
    guess, task, rows = guess_of(model, "text-classification", shots=3, **QUESTION)
    tokenizer, plain = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    shots = few_shot.choose(task, rows, 3, 0)
    before = "".join(f"{row['text']} is {WORDS[row['label']]}\n\n" for row in shots)
    choices = [tokenizer.convert_tokens_to_ids(WORDS[label]) for label in task.labels]
    nats = 0.0
    for row, value in zip(rows.table, guess.values, strict=True):
        ids = [2, *tokenizer(f"{before}{row['text']} is", add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            scores = torch.log_softmax(plain(torch.tensor([ids])).logits[0, -1, choices], -1)
        assert value == int(scores.argmax())
        nats -= float(scores[task.labels.index(row["label"])])
    assert guess.loss == pytest.approx(nats / len(rows), rel=1e-4)


def test_shots_are_balanced_and_drawn_by_the_seed() -> None:
    cls = registry.load("task", "text-classification")
    task = cls(cls.Options())
    many = [{"text": f"{row['text']} {i}", "label": "a"} for i, row in enumerate(toy_rows(40))]
    rows = Rows(
        Dataset.from_list([*many, *({"text": f"{label} {i}", "label": label} for i in range(5) for label in "bc")]),
        "rows",
        "x",
    )
    task.fit(rows)
    found = few_shot.choose(task, rows, 8, 0)
    counts = np.unique([row["label"] for row in found], return_counts=True)[1]
    assert len(found) == 8 and counts.tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert found == few_shot.choose(task, rows, 8, 0) != few_shot.choose(task, rows, 8, 1)
    assert (
        len(few_shot.choose(task, rows, 15, 0))
        == len({row["text"] for row in few_shot.choose(task, rows, 15, 0)})
        == 15
    )
    assert len(few_shot.choose(task, rows, 100, 0)) == 50  # all there are

    tags = registry.load("task", "token-classification")
    tagging = tags(tags.Options())
    rows = Rows(Dataset.from_list(rows_for("token-classification")), "rows", "x")
    tagging.fit(rows)
    shots = few_shot.choose(tagging, rows, 6, 0)
    assert sorted(shot["label"] for shot in shots) == ["O", "O", "WORD", "WORD", "WORK", "WORK"]
    assert all(shot["word"] in shot["tokens"] for shot in shots)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering", "instruction"])
def test_every_task_and_option(task: str, models: Path, tmp_path: Path) -> None:
    """More shots, another seed and another template change what the model is asked, and so its loss."""
    model = checkpoint("gpt2", models, tmp_path)
    words = {"O": "the", "WORK": "film", "WORD": "good"} if task == "token-classification" else WORDS
    template = {"question-answering": "{question} {context}", "token-classification": "{text} {word} is"}.get(
        task, "{text} is"
    )
    given = {"words": words, "template": template}
    found = [
        guess_of(model, task, **{"shots": 2, **given})[0].loss,
        guess_of(model, task, **{"shots": 4, **given})[0].loss,
    ]
    found.append(guess_of(model, task, seed=1, **{"shots": 2, **given})[0].loss)
    if task != "instruction":
        found.append(guess_of(model, task, **{"shots": 2, **given, "template": f"the {template}"})[0].loss)
    assert len(set(found)) == len(found) and np.all(np.isfinite(found))


def test_shots_that_do_not_fit_are_left_out(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("tunesmith.baselines._asking.warn", said.append)
    model = checkpoint("gpt2", models, tmp_path)  # reads 128 tokens
    assert np.isfinite(guess_of(model, "text-classification", shots=16, **QUESTION)[0].loss)
    assert "of 16 shots fit" in said[0]
    asker = Asker.open(RunConfig(model=model, train="x", device="cpu"), "few-shot")  # type: ignore[call-arg]
    asker.show(["the film is good"] * 16)
    assert len(asker.shots) + len(asker.encode("the film " * 100, "")) <= 128


def test_models_that_cannot_continue_examples_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(TechniqueError, match="fills gaps"):
        guess_of(checkpoint("bert", models, tmp_path), "text-classification", **QUESTION)
    with pytest.raises(TechniqueError, match="few-shot is not defined"):
        guess_of(str(tiny_model("llama", models / "llama")), "text-classification")
