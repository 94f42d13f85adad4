"""Language modelling: every token predicted once, bits per byte by hand, masks drawn as the paper says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

import tunesmith
from tunesmith import registry
from tunesmith.data.encode import encode
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError, ModelError
from tunesmith.evaluation.evaluate import evaluate
from tunesmith.models.load import load_model, load_tokenizer, locate
from tunesmith.tasks._base import IGNORED
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

TEXTS = ["the film was very good and the plot was not bad", "phim hay", "a slow scene of the actor", ""]
CPU = torch.device("cpu")


def opened(kind: str, models: Path, **options: Any) -> tuple[Any, Any]:
    cls = registry.load("task", "language-modeling")
    task = cls(cls.Options(**options))
    source = locate(str(tiny_model(kind, models / kind)))
    return task, load_model(source, load_tokenizer(source), task)


def rows_of(texts: list[str]) -> Rows:
    return Rows(Dataset.from_dict({"text": texts}), "texts.txt", str(texts))


@pytest.mark.parametrize("max_length", [5, 8, 64])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_bits_per_byte_is_the_chain_rule(kind: str, max_length: int, models: Path) -> None:
    """-sum log2 p(token | its window), token by token in a plain loop, over the bytes of the texts."""
    task, loaded = opened(kind, models)
    rows, tokenizer = rows_of(TEXTS), loaded.tokenizer
    encoded = encode(task, rows, tokenizer, max_length)
    found = evaluate(loaded.model, task, rows.table, encoded, batch_size=3, device=CPU, pad_id=0).metrics
    nats, tokens = 0.0, 0
    for text in TEXTS:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for i in range(1, len(ids)):
            start = (i - 1) // (max_length - 1) * (max_length - 1)  # windows share one token
            with torch.no_grad():
                logits = loaded.model(torch.tensor([ids[start:i]])).logits[0, -1]
            nats -= float(torch.log_softmax(logits, -1)[ids[i]])
            tokens += 1
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(len(t.encode()) for t in TEXTS), rel=1e-5)
    assert found["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)


def test_every_token_is_asked_once() -> None:
    cls = registry.load("task", "language-modeling")
    from tunesmith.testing.models import tiny_tokenizer

    task, tokenizer = cls(cls.Options(objective="causal")), tiny_tokenizer(False)
    text = "the film was very good and the plot was not bad"
    windows = next(iter(task.encode([{"text": text}], tokenizer, 5)))
    asked = [t for w in windows for t in w["labels"].tolist() if t != IGNORED]
    assert asked == [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert max(len(w["input_ids"]) for w in windows) == 5


def test_marks_in_a_text_are_text() -> None:
    """`[SEP]` written in a document is not the end token."""
    cls = registry.load("task", "language-modeling")
    from tunesmith.testing.models import tiny_tokenizer

    task, tokenizer = cls(cls.Options(objective="causal")), tiny_tokenizer(False)
    ids = next(iter(task.encode([{"text": "good [SEP] film"}], tokenizer, 64)))[0]["input_ids"].tolist()
    assert ids.count(tokenizer.sep_token_id) == 1
    assert ids[-1] == tokenizer.sep_token_id


def masked_batch(task: Any, loaded: Any, texts: list[str], rng: np.random.Generator | None) -> Any:
    features = [f for i, fs in enumerate(task.encode([{"text": t} for t in texts], loaded.tokenizer, 64)) for f in fs]
    features = [{**f, "row": i} for i, f in enumerate(features)]
    plain = torch.nn.utils.rnn.pad_sequence([torch.tensor(f["input_ids"]) for f in features], batch_first=True)
    return task.collate(features, 0, rng), plain


def test_masks_are_drawn_as_the_paper_says(models: Path) -> None:
    """15 % of the tokens, of which 80 % masked, 10 % random, 10 % kept; never a special token. 3 standard errors."""
    task, loaded = opened("bert", models)
    texts = ["the film was very good and the plot was not bad and slow"] * 800
    batch, plain = masked_batch(task, loaded, texts, np.random.default_rng(0))
    asked = batch["labels"] != IGNORED
    words = torch.tensor([t not in (0, 2, 3) for t in plain.flatten().tolist()]).view(plain.shape)
    assert not (asked & ~words).any()
    assert (batch["labels"][asked] == plain[asked]).all()
    total, share = int(words.sum()), float(asked.sum()) / int(words.sum())
    at_least_one = 0.85 ** (total / 800) / (total / 800)  # a row that draws nothing is asked one token
    assert abs(share - 0.15 - at_least_one) < 3 * math.sqrt(0.15 * 0.85 / total)
    hidden = batch["input_ids"][asked] == loaded.tokenizer.mask_token_id
    changed = batch["input_ids"][asked] != plain[asked]
    n = int(asked.sum())
    assert abs(float(hidden.float().mean()) - 0.8) < 3 * math.sqrt(0.8 * 0.2 / n) + 0.1 / 61
    assert abs(float((changed & ~hidden).float().mean()) - 0.1) < 3 * math.sqrt(0.1 * 0.9 / n) + 0.2 / 61
    assert (batch["input_ids"][~asked] == plain[~asked]).all()


def test_masks_change_with_the_step_and_not_with_the_measurement(models: Path) -> None:
    task, loaded = opened("bert", models)
    texts = ["the film was very good and the plot was not bad and slow"] * 8
    drawn = [masked_batch(task, loaded, texts, np.random.default_rng(seed))[0]["labels"] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert task.redraws
    rows = rows_of(texts)
    encoded = encode(task, rows, loaded.tokenizer, 64)
    losses = [
        evaluate(loaded.model, task, rows.table, encoded, batch_size=size, device=CPU, pad_id=0).metrics["loss"]
        for size in (1, 3, 8)
    ]
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-5)


@pytest.mark.parametrize(("option", "low", "high"), [("mask_probability", 0.05, 0.5)])
def test_the_share_of_masks_is_an_option(option: str, low: float, high: float, models: Path) -> None:
    counts = []
    for value in (low, high):
        task, loaded = opened("bert", models, **{option: value})
        batch, _ = masked_batch(
            task, loaded, ["the film was very good and the plot was not bad"] * 50, np.random.default_rng(0)
        )
        counts.append(int((batch["labels"] != IGNORED).sum()))
    assert counts[1] > 4 * counts[0]


def test_whole_words_are_masked_together(models: Path) -> None:
    task, _loaded = opened("bert", models, whole_word=True, mask_probability=0.4)
    feature = {
        "input_ids": np.asarray([2, 10, 11, 12, 13, 14, 15, 3]), "labels": np.asarray([IGNORED, 10, 11, 12, 13, 14, 15, IGNORED]),
        "starts": np.asarray([0, 1, 0, 0, 1, 0, 1, 0]), "row": 0,
    }  # fmt: skip
    seen = set()
    for seed in range(40):
        asked = (task.collate([feature], 0, np.random.default_rng(seed))["labels"][0] != IGNORED).tolist()
        assert asked[1] == asked[2] == asked[3]
        assert asked[4] == asked[5]
        seen.add(tuple(asked))
    assert len(seen) > 3
    task.options.whole_word = False
    alone = [(task.collate([feature], 0, np.random.default_rng(s))["labels"][0] != IGNORED).tolist() for s in range(40)]
    assert any(a[1] != a[2] for a in alone)


@pytest.mark.parametrize(
    ("kind", "objective"), [("bert", "masked"), ("gpt2", "causal"), ("llama", "causal"), ("bart", "masked")]
)
def test_the_objective_is_what_the_model_was_made_for(kind: str, objective: str, models: Path) -> None:
    task, _ = opened(kind, models)
    assert task.objective == objective
    assert task.primary == ("perplexity" if objective == "masked" else "bits_per_byte")
    assert not task.higher_is_better


@pytest.mark.parametrize(("kind", "options"), [("t5", {}), ("llama", {"objective": "masked"})])
def test_models_without_such_a_head_are_refused(kind: str, options: dict[str, Any], models: Path) -> None:
    with pytest.raises(ModelError, match="language-model head"):
        opened(kind, models, **options)


def test_rows_without_text_are_refused() -> None:
    cls = registry.load("task", "language-modeling")
    with pytest.raises(DataError, match="every text is empty"):
        cls(cls.Options()).fit(rows_of(["", " "]))
    with pytest.raises(DataError, match=r"row 1.*`text` is a number"):
        cls(cls.Options()).fit(Rows(Dataset.from_dict({"text": [3]}), "x", "x"))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_plain_text_file_is_learned(kind: str, models: Path, tmp_path: Path) -> None:
    """A .txt file in passages, trained, measured, predicted for."""
    lines = "\n\n".join(row["text"] for row in toy_rows(16) * 40)
    (tmp_path / "train.txt").write_text(lines, encoding="utf-8")
    run = tunesmith.train(
        str(tiny_model(kind, models / kind)), train=str(tmp_path / "train.txt"), task="language-modeling", technique="full",
        max_steps=20, batch_size=4, learning_rate=1e-2, max_length=64, output=tmp_path / "run",
    )  # fmt: skip
    assert run.metrics["loss"] < 0.8 * run.result["metrics"]["before"]["loss"]
    found = run.load().predict([{"text": "the film was very good"}, {"text": "film film was was bad bad"}])
    assert found[0]["score"] == -found[0]["prediction"] or found[0]["score"] == pytest.approx(
        -found[0]["prediction"], abs=1e-5
    )
