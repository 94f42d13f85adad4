"""Packed documents: none is lost, no sequence overflows, and no document sees another."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith import registry, seeding
from tunesmith.data.batching import pack
from tunesmith.data.encode import encode
from tunesmith.data.sources import Rows
from tunesmith.models.load import load_model, load_tokenizer, locate
from tunesmith.testing import tiny_model
from tunesmith.training.feed import Feed
from tunesmith.training.trials import packing_works

TEXTS = [
    "the film was very good",
    "a bad plot",
    "i love the slow and awful story of the actor",
    "fine",
    "they hate it",
] * 3
DECODERS = ("gpt2", "llama", "qwen3", "gemma3")
CPU = torch.device("cpu")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(10, 40))
def test_every_row_is_in_one_sequence_that_holds_it(lengths: list[int], capacity: int) -> None:
    sizes = np.asarray(lengths)
    found = pack(sizes, capacity)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert all(sizes[part].sum() <= capacity or len(part) == 1 for part in found)
    least = math.ceil(np.minimum(sizes, capacity).sum() / capacity)
    big = int((2 * sizes > capacity).sum())  # no two of these share a sequence
    assert len(found) <= 11 / 9 * max(least, big) * 2 + 1
    assert sum(sizes[part].sum() * 2 <= capacity for part in found) <= 1, "two half-empty sequences would be one"


def bench(kind: str, models: Path, technique: str = "full", **options: Any) -> tuple[Any, Any, Any]:
    task_class = registry.load("task", "language-modeling")
    task = task_class(task_class.Options(**options))
    source = locate(str(tiny_model(kind, models / kind)))
    tokenizer = load_tokenizer(source)
    rows = Rows(Dataset.from_dict({"text": TEXTS}), "texts", f"texts-{len(TEXTS)}")
    loaded = load_model(source, tokenizer, task)
    task.fit(rows)
    cls = registry.load("technique", technique)
    seeding.seed_everything(0)
    cls(cls.Options()).attach(loaded.backbone)
    return task, loaded, encode(task, rows, tokenizer, 64)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("technique", ["full", "lora", "adapter", "prefix-tuning"])
def test_packed_documents_do_not_see_each_other(kind: str, technique: str, models: Path) -> None:
    """The same loss packed and apart, and the same gradient; a change in one document leaves the others' scores."""
    task, loaded, encoded = bench(kind, models, technique)
    assert packing_works(task, loaded.model, encoded, 0, CPU)
    features = [encoded[i] for i in range(5)]
    gradients, losses = [], []
    for batch in (task.collate(features, 0), task.collate([task.pack(features[:3]), task.pack(features[3:])], 0)):
        loaded.model.eval().zero_grad()
        loss = task.loss(task.forward(loaded.model, batch), batch)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in loaded.model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4)


def test_what_takes_positions_of_its_own_is_not_packed(models: Path) -> None:
    """A soft prompt stands before the first document only: the probe sees it, and rows stay apart."""
    task, loaded, encoded = bench("llama", models, "prompt-tuning")
    assert not packing_works(task, loaded.model, encoded, 0, CPU)


def test_a_model_that_ignores_positions_is_not_packed(models: Path) -> None:
    task, loaded, encoded = bench("gpt2", models)
    plain = loaded.model.forward

    def forgetful(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    loaded.model.forward = forgetful
    assert not packing_works(task, loaded.model, encoded, 0, CPU)


@pytest.mark.parametrize("packing", [True, False])
def test_the_option_decides(packing: bool, models: Path) -> None:
    task, loaded, encoded = bench("llama", models, packing=packing)
    assert packing_works(task, loaded.model, encoded, 0, CPU) is packing


def test_a_feed_serves_every_document_once_an_epoch(models: Path) -> None:
    task, loaded, encoded = bench("llama", models)
    feed = Feed(
        task,
        loaded.model,
        encoded,
        batch_size=2,
        micro_batch_size=None,
        seed=0,
        buckets=True,
        device=CPU,
        pad_id=0,
        capacity=32,
    )
    assert feed.bins is not None
    assert len(feed.bins) < len(encoded)
    steps = list(feed.steps(0, feed.steps_per_epoch))
    assert sorted(np.concatenate([p.rows for step in steps for p in step]).tolist()) == list(range(len(TEXTS)))
    assert sum(p.tokens for step in steps for p in step) == int(encoded.lengths.sum())
