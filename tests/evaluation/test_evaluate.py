"""How many rows are measured at a time, and what is let go."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import tunesmith
from tunesmith.cache.ragged import ListedColumn, RaggedRows
from tunesmith.evaluation import evaluate, shortage
from tunesmith.tasks.instruction import Instruction
from tunesmith.tasks.text_classification import TextClassification
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows
from tunesmith.training.memory import saved_bytes


class Wide(torch.nn.Module):
    """A model with nothing but a vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(1, vocabulary, bias=False)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


@pytest.mark.parametrize(
    ("vocabulary", "supervised", "expected"),
    [(262_144, 8, 1024), (262_144, 32, 256), (262_144, 1, 4096), (1000, 32, 4096), (1 << 28, 32, 1)],
)
def test_a_large_vocabulary_takes_fewer_tokens(
    vocabulary: int, supervised: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2^26 logits on a CPU: 4,096 tokens of which a sixteenth is supervised, with 262,144 words."""
    monkeypatch.setattr(evaluate, "evaluated_tokens", lambda: 4096)
    task = Instruction(Instruction.Options())
    labels = np.where(np.arange(32) < supervised, 5, -100)
    rows = [{"input_ids": np.arange(32), "labels": labels, "row": i} for i in range(200)]
    encoded = RaggedRows({name: ListedColumn([row[name] for row in rows]) for name in rows[0]})
    assert evaluate.tokens_at_a_time(Wide(vocabulary), task, encoded) == expected
    classes = TextClassification(TextClassification.Options())
    assert evaluate.tokens_at_a_time(Wide(vocabulary), classes, encoded) == 4096


def test_scores_do_not_depend_on_how_many_are_measured_at_a_time(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tunesmith.train(
        str(tiny_model("llama", models / "llama")), task="language-modeling", train=[{"text": r["text"] * 3} for r in toy_rows(16)],
        eval=[{"text": r["text"] * 3} for r in toy_rows(8)], technique="lora", max_steps=1, device="cpu", output=tmp_path / "run", doctor=False,
    )  # fmt: skip
    opened = tunesmith.load(run.artifact, device="cpu")
    held = [{"text": r["text"] * 3} for r in toy_rows(8)]
    whole = opened.evaluate(held)
    seen: list[int] = []
    real = evaluate.by_length

    def watched(lengths: object, size: int, tokens: int) -> object:
        found = real(lengths, size, tokens)  # type: ignore[arg-type]
        seen.append(len(found))
        return found

    monkeypatch.setattr(evaluate, "by_length", watched)
    monkeypatch.setattr(evaluate, "LOGITS_A_TOKEN", 1)
    apart = opened.evaluate(held)
    assert seen and max(seen) > 1
    assert apart.keys() == whole.keys()
    for name, value in whole.items():
        assert apart[name] == pytest.approx(value, rel=1e-5)


def test_counting_activations_keeps_nothing() -> None:
    """A saved tensor that is its own node's output would be a circle that no collector sees."""

    def counted() -> tuple[weakref.ref[torch.Tensor], ...]:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Softmax(-1), torch.nn.Linear(4, 1))
        assert saved_bytes(lambda: model(torch.ones(2, 4)).sum(), set()) > 0
        return weakref.ref(model[0].weight), weakref.ref(model[2].weight)

    weight, inside = counted()
    gc.collect()
    assert weight() is None and inside() is None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident set from /proc")
def test_freed_blocks_are_given_back() -> None:
    """Small blocks below one that lives stay in glibc's heap until it is asked."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    blocks = [torch.ones(4096) for _ in range(12_000)]  # 16 KiB each: 190 MiB
    last = torch.ones(4096)
    del blocks
    held = resident()
    shortage.give_back()
    assert held - resident() > 100 << 20 and last is not None
