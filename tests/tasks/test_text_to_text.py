"""Tasks in words: what is put before a model, what is made of what it writes, and one head for several tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from safetensors.torch import load_file

import tunesmith
from tunesmith import registry
from tunesmith.data.sources import Rows
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows

WORDS = {
    "text-classification": {"positive": "good", "negative": "bad"},
    "token-classification": {"WORK": "film", "WORD": "good"},
}


def wording(task: str, rows: list[dict[str, Any]], **options: Any) -> Any:
    cls = registry.load("task", "text-to-text")
    found = cls(cls.Options(task=task, **options))
    found.fit(Rows(Dataset.from_list(rows), "rows", "x"))
    return found


LABELS = [{"text": "a", "label": "very_good"}, {"text": "b", "label": "bad"}]
MANY = [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}]
NUMBERS = [{"text": "a", "label": 1.5}, {"text": "b", "label": -2.25}]
SPANS = [
    {"tokens": ["Angela", "Merkel", "saw", "Paris", "Paris"], "ner_tags": ["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]},
    {"tokens": ["nobody", "came"], "ner_tags": ["O", "O"]},
]
TAGS = [{"tokens": ["we", "saw"], "ner_tags": ["PRON", "VERB"]}]
QUESTIONS = [
    {"question": "Where?", "context": "It is in Huế.", "answers": json.dumps({"text": ["Huế"], "answer_start": [9]})},
    {"question": "Who?", "context": "Nobody.", "answers": json.dumps({"text": [], "answer_start": []})},
]


@pytest.mark.parametrize(
    ("task", "rows", "texts"),
    [
        ("text-classification", LABELS, ["very good", "bad"]),
        ("text-classification", MANY, ["x, y", "none"]),
        ("text-classification", NUMBERS, ["1.5", "-2.25"]),
        ("token-classification", SPANS, ["PER: Angela Merkel; LOC: Paris; LOC: Paris", "none"]),
        ("token-classification", TAGS, ["PRON VERB"]),
        ("question-answering", QUESTIONS, ["Huế", "unanswerable"]),
    ],
)
def test_what_should_be_written_is_read_back_as_the_truth(task: str, rows: Any, texts: list[str]) -> None:
    """Target -> answer -> metric: a perfect writer scores perfectly, with the wrapped task's own metric."""
    found = wording(task, rows)
    metric = found.metric()
    for row, text in zip(rows, texts, strict=True):
        assert found.wording.target(row) == text
        for written in (text, f" {text.upper()}. "):
            value, readable = found.wording.value(written, row)
            assert readable
            if task != "question-answering" and "1.5" not in texts:
                assert np.all(value == found.truth(row)), (written, value)
        value, readable = found.wording.value(text, row)
        metric.update((registry_score(), value, readable), found.truth(row))
    scores = metric.compute()
    perfect = {
        k: v for k, v in scores.items() if k in ("accuracy", "f1_macro", "f1", "exact_match", "pearson", "readable")
    }
    assert found.primary in scores and all(v == pytest.approx(1) for v in perfect.values()), scores


def registry_score() -> Any:
    from tunesmith.tasks._language import TokenScore

    return TokenScore(1.0, 1, 1)


@pytest.mark.parametrize(
    ("task", "rows", "row", "text", "value", "readable"),
    [
        ("text-classification", LABELS, 0, "very good indeed", 1, True),
        ("text-classification", LABELS, 0, "excellent", -1, False),
        ("text-classification", MANY, 0, "y, z", [0, 1], False),
        ("text-classification", NUMBERS, 0, "about three", 0.0, False),
        ("token-classification", SPANS, 0, "PER: Merkel; ORG: Paris", ["O", "B-PER", "O", "O", "O"], False),
        ("token-classification", SPANS, 0, "LOC: Paris", ["O", "O", "O", "B-LOC", "O"], True),
        ("token-classification", SPANS, 1, "PER: Angela", ["O", "O"], False),
        ("token-classification", TAGS, 0, "VERB", ["VERB", "PRON"], False),
        ("question-answering", QUESTIONS, 0, "", "", False),
    ],
)
def test_what_fits_nothing_is_a_wrong_answer(
    task: str, rows: Any, row: int, text: str, value: Any, readable: bool
) -> None:
    found = wording(task, rows).wording.value(text, rows[row])
    assert np.all(found[0] == np.asarray(value)) if isinstance(value, list) and task[:2] == "te" else found[0] == value
    assert found[1] is readable


def test_options_that_are_about_rows_reach_the_wrapped_task() -> None:
    rows = [{"text": "a", "label": "x|y"}, {"text": "b", "label": "x"}]
    assert wording("text-classification", rows).wording.target(rows[0]) == "x|y"
    assert wording("text-classification", rows, options={"separator": "|"}).wording.target(rows[0]) == "x, y"
    assert wording("text-classification", rows, generate_rows=0).primary == "perplexity"
    assert wording("language-modeling", [{"text": "a"}], generate_rows=0).primary == "bits_per_byte"


def test_labels_that_would_be_written_alike_are_refused() -> None:
    rows = [{"text": "a", "label": "a-b"}, {"text": "b", "label": "a_b"}]
    with pytest.raises(tunesmith.UserError, match="would be written like `a-b`"):
        wording("text-classification", rows)
    assert wording("text-classification", rows, words={"a_b": "other"}).wording.target(rows[1]) == "other"
    with pytest.raises(tunesmith.UserError, match="would be written like `nothing`"):
        wording("text-classification", [{"text": "a", "label": "none"}, {"text": "b", "label": "x"}])


def stage(**changed: Any) -> dict[str, Any]:
    tasks = [
        {"name": "films", "train": toy_rows(24), "eval": toy_rows(4), "instruction": "is the film good or bad"},
        {"name": "words", "task": "token-classification", "train": rows_for("token-classification", 24)},
        {"name": "asked", "task": "question-answering", "train": rows_for("question-answering", 24)},
        {"name": "text", "task": "language-modeling", "train": rows_for("language-modeling", 24)},
    ]  # fmt: skip
    for task in tasks:
        task.setdefault("eval", task["train"][:4])
        words = {"words": WORDS[task.get("task", "text-classification")]} if task["name"] in ("films", "words") else {}
        task["options"] = {**words, "max_new_tokens": 4}
    return {"name": "all", "form": "text", "mixing": "equal", "tasks": tasks, **changed}


@pytest.mark.parametrize("kind", ["llama", "t5", "bart"])
def test_four_tasks_through_one_head(kind: str, tmp_path: Path, models: Path) -> None:
    """One stage, one head, each task's own metrics; saved, verified and used without knowing more than a task's name."""
    found = tunesmith.train(
        str(tiny_model(kind, models / kind)), stream={"stages": [stage()]}, technique="full", max_steps=25, batch_size=16, learning_rate=5e-3,
        output=tmp_path / "run", dtype="float32", device="cpu", doctor=False,
    )  # fmt: skip
    after, before = found.result["metrics"]["after"], found.result["metrics"]["before"]
    assert {"films/accuracy", "words/f1", "asked/exact_match", "text/bits_per_byte", "films/readable"} <= after.keys()
    ratios = {name: after[f"{name}/loss"] / before[f"{name}/loss"] for name in ("films", "words", "asked", "text")}
    assert max(ratios.values()) < 0.9, ratios
    assert not load_file(str(found.artifact / "heads.safetensors"))  # nothing beside the model's own
    artifact = tunesmith.load(found.artifact, device="cpu")
    answer = artifact.choose("films").predict([{"text": "the film was very good"}])[0]
    assert answer["prediction"] in ("positive", "negative", None) and isinstance(answer["written"], str)
    tagged = artifact.choose("words").predict([{"tokens": ["the", "film"]}])[0]
    assert len(tagged["prediction"]) == 2 and "spans" in tagged
    assert artifact.choose("text").evaluate(rows_for("language-modeling", 4))["bits_per_byte"] > 0


def test_alone(tmp_path: Path, models: Path) -> None:
    """A plain run in words."""
    settings = {"task": "text-classification", "words": WORDS["text-classification"], "max_new_tokens": 2}
    found = tunesmith.train(
        str(tiny_model("llama", models / "llama")), task="text-to-text", train=toy_rows(16), eval=toy_rows(8), max_steps=2, device="cpu",
        output=tmp_path / "run", **{"text-to-text": settings}, doctor=False,
    )  # fmt: skip
    assert found.result["metrics"]["primary"] == "accuracy" and "readable" in found.metrics


def test_options_change_what_is_read_or_learned(models: Path) -> None:
    from tunesmith.models.load import load_model, load_tokenizer, locate

    source = locate(str(tiny_model("llama", models / "llama")))
    tokenizer, rows, seen = load_tokenizer(source), toy_rows(4), set()
    for options in (
        {}, {"instruction": "good or bad"}, {"words": {"positive": "love", "negative": "hate"}}, {"template": "alpaca"}, {"train_on_prompt": True},
    ):  # fmt: skip
        task = wording("text-classification", rows, **{"words": WORDS["text-classification"], **options})
        load_model(source, tokenizer, task)
        features = next(task.encode(rows, tokenizer, 96))[0]
        seen.add((tuple(features["input_ids"].tolist()), tuple(features["labels"].tolist())))
    assert len(seen) == 5


def test_a_long_text_is_cut_into_windows_that_hold_all_of_it(models: Path) -> None:
    from tunesmith.models.load import load_model, load_tokenizer, locate

    task = wording("language-modeling", [{"text": "the film " * 100}])
    source = locate(str(tiny_model("llama", models / "llama")))
    tokenizer = load_tokenizer(source)
    load_model(source, tokenizer, task)
    (features,) = task.encode([{"text": "the film " * 100}], tokenizer, 48)
    told = [token for f in features for token in f["labels"][f["labels"] >= 0].tolist()]
    assert told == [*tokenizer("the film " * 100, add_special_tokens=False)["input_ids"], task.stops[0]]
    assert max(len(f["input_ids"]) for f in features) <= 48


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task": "summarization"}, ["summarization"]),
        ({"form": "head"}, ["instruction is for form: text"]),
        ({"options": {"stride": 3}}, ["text-classification.stride"]),
        ({"options": {"threshold": 0.4}}, ["text-classification.threshold is about a head", "problem, separator"]),
    ],
)
def test_bad_forms_are_refused(changed: dict[str, Any], words: list[str], models: Path, tmp_path: Path) -> None:
    one = {"name": "a", "train": toy_rows(8), "instruction": "x", **changed}
    with pytest.raises(tunesmith.UserError) as caught:
        tunesmith.train(str(tiny_model("llama", models / "llama")), stream={"stages": [one]}, output=tmp_path / "run")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_model_that_cannot_write_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(tunesmith.UserError, match="cannot write"):
        tunesmith.train(
            str(tiny_model("bert", models / "bert")), task="text-to-text", train=toy_rows(16), output=tmp_path / "run", doctor=False
        )  # fmt: skip
