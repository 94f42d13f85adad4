"""Rows that join and leave a running batch read what they would read alone."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.artifacts.switch import AdapterBank
from tunesmith.serve.batches import Together, batch_of

BOUND = 2e-5  # fp32 sums in another order on logits of size 1


def alone(model: Any, ids: Sequence[int], **inputs: Any) -> torch.Tensor:
    """Logits of the next token, without a cache and without padding."""
    return model(input_ids=torch.tensor([list(ids)]), **inputs, use_cache=False).logits[0, -1]


def play(
    batch: Any, choose: Callable[[random.Random], tuple[str | None, list[int]]], check: Callable[..., None]
) -> int:
    """Sixty events at random: rows join, write or leave, and after each step every row is checked."""
    dice = random.Random(0)
    texts: list[list[int]] = []
    checked = 0
    for _ in range(60):
        event = dice.random()
        if event < 0.35 and len(texts) < 6:
            new = [choose(dice) for _ in range(dice.choice([1, 1, 3]))]
            logits = batch.prefill([name for name, _ in new], [ids for _, ids in new])
            texts += [list(ids) for _, ids in new]
            rows = range(len(texts) - len(new), len(texts))
        elif event < 0.5 and texts:
            row = dice.randrange(len(texts))
            batch.drop(row)
            texts[row] = texts[-1]
            texts.pop()
            continue
        elif texts:
            tokens = [dice.randrange(5, 50) for _ in texts]
            logits = batch.step(tokens)
            for text, token in zip(texts, tokens, strict=True):
                text.append(token)
            rows = range(len(texts))
        else:
            continue
        for place, row in enumerate(rows):
            check(batch.names[row], texts[row], logits[place])
            checked += 1
    return checked


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma3", "lstm"])
@torch.no_grad()
def test_rows_of_a_batch_read_what_they_read_alone(kind: str, base: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(base(kind)).eval()
    if kind == "gemma3":
        window = 6
        model = AutoModelForCausalLM.from_pretrained(base(kind), sliding_window=window).eval()
        assert "sliding_attention" in model.config.layer_types
    batch = batch_of(model, lambda names: nullcontext())
    assert isinstance(batch, Together) == (kind != "lstm")

    def choose(dice: random.Random) -> tuple[None, list[int]]:
        return None, [dice.randrange(5, 50) for _ in range(dice.choice([1, 2, 5, 9, 30]))]

    def check(name: None, ids: list[int], logits: torch.Tensor) -> None:
        torch.testing.assert_close(logits, alone(model, ids), atol=BOUND, rtol=BOUND)

    assert play(batch, choose, check) > 60


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_each_row_has_its_own_adapter(
    kind: str, base: Callable[[str], Path], loras: Callable[..., dict[str, Path]]
) -> None:
    from peft import PeftModel

    folders = loras(kind, 3)
    bank = AdapterBank(str(base(kind)), device="cpu")
    for name, folder in folders.items():
        bank.add(name, folder)
    plain: dict[str | None, Any] = {None: AutoModelForCausalLM.from_pretrained(base(kind)).eval()}
    for name, folder in folders.items():
        plain[name] = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base(kind)), folder).eval()
    batch = batch_of(bank.model, bank.rows)

    def choose(dice: random.Random) -> tuple[str | None, list[int]]:
        return dice.choice([None, *folders]), [dice.randrange(5, 50) for _ in range(dice.choice([1, 4, 12]))]

    def check(name: str | None, ids: list[int], logits: torch.Tensor) -> None:
        torch.testing.assert_close(logits, alone(plain[name], ids), atol=5 * BOUND, rtol=5 * BOUND)

    assert play(batch, choose, check) > 60


@torch.no_grad()
def test_keys_of_rows_that_left_never_reach_another_row(base: Callable[[str], Path]) -> None:
    """What stands in masked columns is finite, whatever a row that left had there."""
    model = AutoModelForCausalLM.from_pretrained(base("llama")).eval()
    batch = Together(model, lambda names: nullcontext())
    batch.prefill([None, None], [[7] * 20, [8] * 3])
    for layer in batch.cache.layers:
        layer.keys[0] = layer.values[0] = torch.nan  # a row whose numbers overflowed
    batch.drop(0)
    batch.prefill([None], [[9] * 12])
    logits = batch.step([5, 6])
    torch.testing.assert_close(logits[0], alone(model, [8] * 3 + [5]), atol=BOUND, rtol=BOUND)
    torch.testing.assert_close(logits[1], alone(model, [9] * 12 + [6]), atol=BOUND, rtol=BOUND)


@torch.no_grad()
def test_a_batch_that_is_over_leaves_nothing_behind(base: Callable[[str], Path]) -> None:
    """Its buffers go with it and wait for no garbage collection: on a real model they are hundreds of megabytes."""
    model = AutoModelForCausalLM.from_pretrained(base("llama")).eval()
    gc.disable()
    try:
        batch = Together(model, lambda names: nullcontext())
        batch.prefill([None, None], [[7] * 20, [8] * 3])
        batch.step([1, 2])
        seen = [weakref.ref(tensor) for layer in batch.cache.layers for tensor in (layer.keys, layer.values)]
        assert seen
        del batch
        assert all(each() is None for each in seen)
    finally:
        gc.enable()
