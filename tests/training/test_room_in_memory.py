"""What a step needs is counted before it is taken, and activations are recomputed where they would not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tunesmith
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows
from tunesmith.training import memory

WORDS = [{"text": " ".join(["good" if i % 2 else "bad"] * n), "label": ("negative", "positive")[i % 2]} for i, n in enumerate((4, 9, 30, 60, 90, 110, 17, 50))]  # fmt: skip


def go(place: Path, models: Path, kind: str = "llama", rows: Any = None, **settings: Any) -> tunesmith.RunResult:
    given: dict[str, Any] = {"technique": "lora", "max_steps": 2, "batch_size": 4, "dtype": "float32", "doctor": False, "device": "cpu"}  # fmt: skip
    return tunesmith.train(
        str(tiny_model(kind, models / kind)),
        train=rows or toy_rows(16),
        eval=toy_rows(8),
        output=place,
        **given | settings,
    )


@pytest.mark.parametrize("technique", ["lora", "full"])
@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", "t5", "lstm"])
def test_short_rows_tell_what_the_largest_batch_keeps(
    kind: str, technique: str, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, int]] = []
    real = memory.shortage

    def look(feed: Any, *others: Any) -> str:
        rows, _ = memory.largest(feed)
        longest = np.argsort(-feed.lengths, kind="stable")[:rows]
        one = feed.make(np.repeat(longest[:1], rows), np.random.default_rng(0))  # a batch of the longest row
        known = {p.untyped_storage().data_ptr() for p in (*feed.model.parameters(), *feed.model.buffers())}
        feed.model.train()
        counted = memory.saved_bytes(lambda: feed.task.loss(feed.task.forward(feed.model, one.batch), one.batch), known)
        found.append((memory.activations(feed) or 0, counted))
        return real(feed, *others)

    monkeypatch.setattr(memory, "shortage", look)
    go(tmp_path, models, kind, WORDS, technique=technique)
    ((predicted, counted),) = found
    assert counted > 10_000
    assert predicted == pytest.approx(counted, rel=0.1)


def test_where_they_do_not_fit_activations_are_recomputed(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = go(tmp_path / "kept", models)
    assert "recomputed" not in capsys.readouterr().err
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    calls: list[int] = []
    real = memory.recompute
    monkeypatch.setattr(memory, "recompute", lambda heads: calls.append(1) or real(heads))
    recomputed = go(tmp_path / "recomputed", models)
    printed = " ".join(capsys.readouterr().err.split())
    assert "activations of 4 rows" in printed
    assert "recomputed in the backward pass" in printed
    assert calls == [1]
    assert recomputed.result["metrics"]["after"]["loss"] == pytest.approx(
        kept.result["metrics"]["after"]["loss"], abs=1e-5
    )
    go(tmp_path / "refused", models, training={"gradient_checkpointing": False})
    assert calls == [1]


def test_a_model_that_cannot_recompute_is_warned_of(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    monkeypatch.setattr(memory, "can_recompute", lambda heads: False)
    go(tmp_path / "off", models, training={"auto_micro_batch": False})
    assert "a smaller training.micro_batch_size" in " ".join(capsys.readouterr().err.split())
    run = go(tmp_path / "on", models)
    assert "a forward pass has at most 1 rows" in " ".join(capsys.readouterr().err.split())
    assert json.loads((run.folder / "checkpoints" / "decided.json").read_text())["micro"] == 1


def test_the_limit_of_the_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    whole = memory.available(cpu)
    assert whole > 1 << 20
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available(cpu) > 1 << 20
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory.available(cpu) == 600_000
    (tmp_path / "memory.stat").write_text("anon 300000\nactive_file 20000\ninactive_file 50000\n")
    assert memory.available(cpu) == 650_000  # files that were read are let go when memory is asked for


def test_the_trial_draws_nothing_and_leaves_the_model_as_it_was(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout in the model, so that a trial outside of its own random state would be seen."""
    tried: list[int] = []

    def look(feed: Any, *_: Any) -> str:
        for training in (True, False):
            feed.model.train(training)
            before = torch.random.get_rng_state()
            tried.append(memory.activations(feed) or 0)
            assert torch.equal(torch.random.get_rng_state(), before)
            assert feed.model.training is training
            assert all(p.grad is None for p in feed.model.parameters())
        return ""

    monkeypatch.setattr(memory, "shortage", look)
    go(tmp_path, models, "bert", WORDS, technique="full", training={"dropout": 0.2})
    assert tried[0] == tried[1] > 0


@pytest.mark.parametrize(
    ("task", "kind"),
    [("question-answering", "bert"), ("token-classification", "bert"), ("instruction", "llama"), ("language-modeling", "llama"),
     ("language-modeling", "bert"), ("summarization", "t5")],
)  # fmt: skip
def test_every_kind_of_row_can_be_cut(
    task: str, kind: str, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that lie behind the cut, packed documents, the leaner loss."""
    found: list[int | None] = []
    real = memory.activations
    monkeypatch.setattr(memory, "activations", lambda feed: found.append(real(feed)) or found[-1])
    rows = rows_for(task, 24)
    tunesmith.train(
        str(tiny_model(kind, models / kind)), task=task, train=rows, eval=rows[:6], technique="lora", max_steps=1, batch_size=4, max_length=64,
        dtype="float32", device="cpu", doctor=False, output=tmp_path,
    )  # fmt: skip
    assert len(found) == 1
    assert (found[0] or 0) > 10_000
