"""Zero-shot: the labels are scored by what the untouched model says, and models that cannot be asked are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from tunesmith import registry
from tunesmith.baselines._asking import Asker, begin
from tunesmith.baselines.zero_shot import ZeroShot
from tunesmith.config import RunConfig
from tunesmith.data.sources import Rows
from tunesmith.data.splits import Roles
from tunesmith.errors import TechniqueError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for

AUTO = {"gpt2": AutoModelForCausalLM, "bert": AutoModelForMaskedLM}


@pytest.fixture
def checkpoint(models: Path, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A tiny model with its language-model head."""
    kind = request.param
    AUTO[kind].from_pretrained(str(tiny_model(kind, models / kind))).save_pretrained(tmp_path / kind)
    AutoTokenizer.from_pretrained(str(models / kind)).save_pretrained(tmp_path / kind)
    return str(tmp_path / kind)


def guess_of(model: str, task_name: str, **options: Any) -> tuple[Any, Any, Any]:
    cls = registry.load("task", task_name)
    task = cls(cls.Options())
    rows = Rows(Dataset.from_list(rows_for(task_name)), "rows", "x")
    task.fit(rows)
    roles = Roles(rows, None, rows, {})
    config = RunConfig(model=model, task=task_name, train="x", device="cpu")  # type: ignore[call-arg]
    return ZeroShot(ZeroShot.Options(**options)).predict(task, roles, config), task, rows


@pytest.mark.parametrize("checkpoint", ["gpt2", "bert"], indirect=True)
def test_labels_are_scored_by_the_word_that_comes_next(checkpoint: str) -> None:
    """Against the plain model, row by row without padding."""
    words = {"positive": "good", "negative": "bad"}
    guess, task, rows = guess_of(checkpoint, "text-classification", words=words, template="{text} is")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    masked = "bert" in checkpoint
    model = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(checkpoint).eval()
    choices = [tokenizer.convert_tokens_to_ids(words[label]) for label in task.labels]
    nats = 0.0
    for row, value in zip(rows.table, guess.values, strict=True):
        ids = tokenizer(f"{row['text']} is", add_special_tokens=False)["input_ids"]
        tail = [tokenizer.mask_token_id, *tokenizer(".", add_special_tokens=False)["input_ids"], 3] if masked else []
        whole = [2, *ids, *tail]
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits[0, len(ids) + 1 if masked else -1]
        scores = torch.log_softmax(logits[choices], -1)
        assert value == int(scores.argmax())
        nats -= float(scores[task.labels.index(row["label"])])
    assert guess.loss == pytest.approx(nats / len(rows), rel=1e-4)


@pytest.mark.parametrize("checkpoint", ["gpt2"], indirect=True)
@pytest.mark.parametrize(
    "changed", [{"template": "the plot of {text}"}, {"words": {"positive": "love", "negative": "hate"}}], ids=str
)
def test_each_option_changes_the_scores(checkpoint: str, changed: dict[str, Any]) -> None:
    base = {"words": {"positive": "good", "negative": "bad"}, "template": "{text} is"}
    assert (
        guess_of(checkpoint, "text-classification", **base)[0].loss
        != guess_of(checkpoint, "text-classification", **{**base, **changed})[0].loss
    )


def test_a_model_without_a_head_cannot_be_asked(models: Path) -> None:
    with pytest.raises(TechniqueError, match="cannot be asked"):
        guess_of(str(tiny_model("llama", models / "llama")), "text-classification")


@pytest.mark.parametrize("checkpoint", ["gpt2"], indirect=True)
def test_words_that_begin_alike_are_refused(checkpoint: str) -> None:
    with pytest.raises(TechniqueError, match="begin with the same token"):
        guess_of(checkpoint, "text-classification", words={"positive": "good", "negative": "good"})


@pytest.mark.parametrize("checkpoint", ["gpt2"], indirect=True)
@pytest.mark.parametrize("task", ["instruction", "summarization", "chat", "language-modeling"])
def test_writing_is_scored_by_the_untouched_model(checkpoint: str, task: str) -> None:
    guess, fitted, rows = guess_of(checkpoint, task)
    metric = fitted.metric()
    for value, row in zip(guess.values, rows.table, strict=True):
        metric.update(value, fitted.truth(row))
    assert metric.compute()["perplexity"] == pytest.approx(np.exp(guess.loss), rel=1e-4)


@pytest.mark.parametrize("checkpoint", ["gpt2"], indirect=True)
def test_long_prompts_lose_their_beginning(checkpoint: str) -> None:
    asker = Asker.open(RunConfig(model=checkpoint, train="x", device="cpu"), "zero-shot")  # type: ignore[call-arg]
    ids = asker.encode("good " * 300 + "bad film is", "")
    assert len(ids) <= 128
    assert asker.tokenizer.decode(ids).endswith("bad film is")


def test_runs_of_a_type_are_one_entity() -> None:
    assert begin(["O", "PER", "PER", "LOC", "O", "LOC"]) == ["O", "B-PER", "I-PER", "B-LOC", "O", "B-LOC"]
