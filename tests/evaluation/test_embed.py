"""Vectors of rows: what a head reads, computed a second time with plain transformers, one row at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tunesmith
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for

CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # fp32, padded batches against single rows


@pytest.fixture(scope="module")
def trained(models: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The artifact of one step."""
    made: dict[tuple[str, ...], Path] = {}

    def train(task: str, kind: str, technique: str = "full") -> Path:
        if (task, kind, technique) not in made:
            output = tmp_path_factory.mktemp("runs") / "run"
            written = {"max_new_tokens": 2, "generate_rows": 0}
            settings = {task: written} if task in ("summarization", "instruction", "chat") else {}
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TUNESMITH_CACHE", str(cache))
                patch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
                rows = rows_for(task, 8)
                tunesmith.train(
                    str(tiny_model(kind, models / kind)), task=task, train=rows, eval=rows, technique=technique, max_steps=1, batch_size=4,
                    device="cpu", output=output, doctor="off", **settings,
                )  # fmt: skip
            made[task, kind, technique] = output / "artifact"
        return made[task, kind, technique]

    return train


def last(model: Any, name: str, ids: torch.Tensor) -> torch.Tensor:
    return getattr(model, name)(ids).last_hidden_state[0]


SEQUENCE: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "bert": lambda m, ids: m.bert(ids).pooler_output[0],
    "roberta": lambda m, ids: last(m, "roberta", ids)[0],
    "modernbert": lambda m, ids: last(m, "model", ids)[0] if m.config.classifier_pooling == "cls" else last(m, "model", ids).mean(0),
    "llama": lambda m, ids: last(m, "model", ids)[-1],
    "t5": lambda m, ids: m.transformer(ids, decoder_input_ids=m._shift_right(ids)).last_hidden_state[0, -1],
    "bart": lambda m, ids: last(m, "model", ids)[-1],
}  # fmt: skip


@pytest.mark.parametrize("kind", SEQUENCE)
def test_what_a_sequence_head_reads(kind: str, trained: Callable[..., Path]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = trained("text-classification", kind)
    texts = [f"the film was {'very ' * (i * 5 % 7)}good" for i in range(9)]
    found = tunesmith.load(folder, device="cpu", batch_size=4).embed([{"text": text} for text in texts])
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        plain = [SEQUENCE[kind](model, torch.tensor([tokenizer(text)["input_ids"]])).numpy() for text in texts]
    np.testing.assert_allclose(found, np.stack(plain), **CLOSE)
    assert found.dtype == np.float32 and len({tuple(vector) for vector in found.round(4).tolist()}) >= 7


def test_a_pooler_that_is_learned_with_the_head(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a masked language model brings no pooler: it is head, and what it reads is the first state."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForMaskedLM

    folder = tiny_model("bert", models / "bert")
    BertForMaskedLM.from_pretrained(folder).save_pretrained(tmp_path / "masked")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "masked")
    monkeypatch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
    rows = rows_for("text-classification", 8)
    run = tunesmith.train(
        str(tmp_path / "masked"),
        train=rows,
        eval=rows,
        technique="full",
        max_steps=1,
        output=tmp_path / "run",
        doctor="off",
    )
    (found,) = tunesmith.load(run.artifact, device="cpu").embed([{"text": "the film was good"}])
    model = AutoModelForSequenceClassification.from_pretrained(run.artifact).eval()
    ids = AutoTokenizer.from_pretrained(run.artifact)("the film was good", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        np.testing.assert_allclose(found, last(model, "bert", ids)[0].numpy(), **CLOSE)


@pytest.mark.parametrize(
    ("technique", "kind"),
    [("prompt-tuning", "bert"), ("feature-based", "bert"), ("prompt-tuning", "llama")],
)
def test_the_head_makes_its_scores_of_it(technique: str, kind: str, trained: Callable[..., Path]) -> None:
    """With whatever stands in the backbone: the vector through the head alone gives the prediction's score."""
    artifact = tunesmith.load(trained("text-classification", kind, technique), device="cpu", batch_size=4)
    rows = [{"text": f"the film was {'very ' * (i * 5 % 7)}bad"} for i in range(6)]
    head = {"bert": "classifier", "llama": "score", "bart": "classification_head"}[kind]
    with torch.no_grad():
        logits = getattr(artifact.model, head)(torch.from_numpy(artifact.embed(rows)))
    scores = logits.softmax(-1).max(-1).values.numpy()
    np.testing.assert_allclose([row["score"] for row in artifact.predict(rows)], scores, **CLOSE)


def mean(states: torch.Tensor) -> np.ndarray[Any, Any]:
    return states[0].mean(0).numpy()


CHAT = [
    {"role": "user", "content": "the film"},
    {"role": "assistant", "content": "i love it"},
    {"role": "user", "content": "very good"},
]
TOKENS: list[tuple[str, str, str, list[dict[str, Any]], Callable[[Any, Any, dict[str, Any]], np.ndarray[Any, Any]]]] = [
    ("token-classification", "bert", "AutoModelForTokenClassification", [{"tokens": ["a", "good", "film"] * n} for n in (1, 4)],
     lambda m, t, row: mean(m.bert(torch.tensor([t(" ".join(row["tokens"]))["input_ids"]])).last_hidden_state)),
    ("language-modeling", "llama", "AutoModelForCausalLM", [{"text": "the film was good " * n} for n in (1, 5)],
     lambda m, t, row: mean(m.model(torch.tensor([t(row["text"])["input_ids"]])).last_hidden_state)),
    ("language-modeling", "bert", "AutoModelForMaskedLM", [{"text": "the film was good " * n} for n in (1, 5)],
     lambda m, t, row: mean(m.bert(torch.tensor([t(row["text"])["input_ids"]])).last_hidden_state)),
    ("summarization", "t5", "AutoModelForSeq2SeqLM", [{"document": "the film was good " * n} for n in (1, 5)],
     lambda m, t, row: mean(m.encoder(torch.tensor([t('summarize: ' + row["document"])["input_ids"]])).last_hidden_state)),
    ("question-answering", "bart", "AutoModelForQuestionAnswering", [{"question": "a film", "context": "the film was good " * n} for n in (1, 5)],
     lambda m, t, row: mean(m.model.encoder(torch.tensor([t(row["question"], row["context"])["input_ids"]])).last_hidden_state)),
    ("chat", "llama", "AutoModelForCausalLM", [{"messages": CHAT[:n]} for n in (1, 3)],
     lambda m, t, row: mean(m.model(torch.tensor([t(t.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True),
                                                    add_special_tokens=False)["input_ids"]])).last_hidden_state)),
]  # fmt: skip


@pytest.mark.parametrize(("task", "kind", "auto", "rows", "plainly"), TOKENS, ids=[f"{t[0]}-{t[1]}" for t in TOKENS])
def test_the_mean_of_the_last_states(
    task: str, kind: str, auto: str, rows: list[dict[str, Any]], plainly: Any, trained: Callable[..., Path]
) -> None:
    import transformers

    folder = trained(task, kind)
    found = tunesmith.load(folder, device="cpu").embed(rows)
    model = getattr(transformers, auto).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        plain = [plainly(model, tokenizer, row) for row in rows]
    np.testing.assert_allclose(found, np.stack(plain), **CLOSE)


def test_long_rows_are_the_mean_over_their_windows(trained: Callable[..., Path]) -> None:
    artifact = tunesmith.load(trained("language-modeling", "llama"), device="cpu")
    text = "the film was very good and we like it " * 40
    (found,) = artifact.embed([{"text": text}])
    windows = next(artifact.task.encode([{"text": text}], artifact.tokenizer, artifact.max_length))
    assert len(windows) > 2
    with torch.no_grad():
        states = [artifact.model.model(torch.tensor([w["input_ids"].tolist()])).last_hidden_state[0] for w in windows]
    np.testing.assert_allclose(found, torch.cat(states).mean(0).numpy(), **CLOSE)


def test_rows_of_nothing(trained: Callable[..., Path]) -> None:
    artifact = tunesmith.load(trained("token-classification", "bert"), device="cpu")
    assert artifact.embed([]).shape == (0, 32)
    empty, full = artifact.embed([{"tokens": []}, {"tokens": ["film"]}])
    assert not empty.any() and full.any()


def test_the_file_holds_the_same_numbers(trained: Callable[..., Path], cli: Any, tmp_path: Path) -> None:
    """To the bit, in as few digits as that takes; the head is not asked."""
    folder, rows = trained("text-classification", "bert"), rows_for("text-classification", 20)
    data = tmp_path / "in.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        cli("predict", folder, "--data", data, "-o", tmp_path / "e.jsonl", "--embeddings", "--device", "cpu").code == 0
    )
    found = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "embedding"} for row in found] == rows
    direct = tunesmith.load(folder, device="cpu").embed(rows)
    assert (np.asarray([row["embedding"] for row in found], np.float32) == direct).all()
    assert all(len(str(number)) < 15 for number in found[0]["embedding"])


def test_rows_of_several_tasks(models: Path, tmp_path: Path) -> None:
    """With --head auto each row is read as its own task's head reads it."""
    films = [{"text": f"the film was {word}", "label": word} for word in ("good", "bad") * 6]
    colours = [{"text": f"a {word} book", "label": word} for word in ("red", "blue") * 6]
    stages = [
        {"name": name, "task": "text-classification", "train": rows, "eval": rows[:4]}
        for name, rows in (("films", films), ("colours", colours))
    ]
    run = tunesmith.train(
        str(tiny_model("bert", models / "bert")), stream={"stages": stages}, technique="bitfit", max_steps=1, batch_size=4,
        output=tmp_path / "run",
    )  # fmt: skip
    rows = [{"text": "the film was good"}, {"text": "a red book"}]
    artifact = run.load()
    each = [artifact.choose(name).embed(rows) for name in ("films", "colours", "auto")]
    np.testing.assert_allclose(each[2], np.stack([each[0][0], each[1][1]]), **CLOSE)
    assert artifact.names.keys() >= {"films", "colours"}
