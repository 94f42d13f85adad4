"""The loss a chunk of logits at a time: equal to the plain one with its gradients, used where it is right and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_packing import CPU, bench
from torch import nn
from torch.nn import functional as F

import tunesmith
from tunesmith.tasks._chunked import chunked_cross_entropy, plain_head
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for
from tunesmith.training.trials import lean_loss_works


@pytest.mark.parametrize("rows", [1, 3, 7, 100, None])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learns", ["states", "all"])
def test_it_is_the_plain_loss_with_its_gradients(rows: int | None, bias: bool, learns: str) -> None:
    torch.manual_seed(0)
    head = nn.Linear(6, 11, bias=bias).requires_grad_(learns == "all")
    states, labels = torch.randn(7, 6, requires_grad=True), torch.randint(0, 11, (7,))
    found = []
    for way in (
        lambda: F.cross_entropy(head(states), labels, reduction="sum"),
        lambda: chunked_cross_entropy(states, head, labels, rows),
    ):
        head.zero_grad()
        states.grad = None
        loss = way()
        (0.3 * loss).backward()
        gradients = [states.grad, *(p.grad for p in head.parameters() if p.requires_grad)]
        assert all(g is not None for g in gradients)
        found.append([loss.detach(), *(g.clone() for g in gradients if g is not None)])
    for plain, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None for p in head.parameters() if not p.requires_grad)


def test_no_tensor_is_as_large_as_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            for each in found if isinstance(found, (tuple, list)) else (found,):
                if isinstance(each, torch.Tensor):
                    largest[0] = max(largest[0], each.numel())
            return found

    head = nn.Linear(4, 500, bias=False).requires_grad_(False)
    states = torch.randn(64, 4, requires_grad=True)
    labels = torch.randint(0, 500, (64,))
    with Watch():
        chunked_cross_entropy(states, head, labels, rows=4).backward()
    assert largest[0] == 4 * 500


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "bert", "lstm", "qwen3"])
@pytest.mark.parametrize("technique", ["full", "lora", "prompt-tuning"])
def test_models_learn_the_same(kind: str, technique: str, models: Path) -> None:
    if technique == "prompt-tuning" and kind == "lstm":
        pytest.skip("a recurrent model takes no soft prompt here")
    options = {"objective": "masked"} if kind == "bert" else {}
    task, loaded, encoded = bench(kind, models, technique, **options)
    assert lean_loss_works(task, loaded.model, encoded, 0, CPU)
    batch = task.collate([encoded[i] for i in range(5)], 0)
    found = []
    for way in (
        lambda: task.loss(task.forward(loaded.model, batch), batch),
        lambda: task.lean_loss(loaded.model, batch),
    ):
        loaded.model.eval().zero_grad()
        loss = way()
        loss.backward()
        gradients = [p.grad.flatten().clone() for p in loaded.model.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(gradients)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", ["soft cap", "LoRA on it", "hook"])
def test_it_keeps_away_from_an_output_layer_that_is_not_plain(what: str, models: Path) -> None:
    task, loaded, encoded = bench("llama", models)
    head = loaded.model.get_output_embeddings()
    if what == "soft cap":  # as Gemma 2 has it
        plain = loaded.model.forward

        def capped(*args: Any, **kwargs: Any) -> Any:
            found = plain(*args, **kwargs)
            found.logits = torch.tanh(found.logits / 0.1) * 0.1
            return found

        loaded.model.forward = capped
        assert plain_head(loaded.model) is not None
    elif what == "hook":
        head.register_forward_hook(lambda module, args, output: output * 2)
    else:
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(LoraConfig(r=2, target_modules=["lm_head"]), loaded.model)
    assert not lean_loss_works(task, loaded.model, encoded, 0, CPU)


@pytest.mark.parametrize(
    ("kind", "task"), [("llama", "instruction"), ("t5", "summarization"), ("llama", "language-modeling")]
)
def test_the_option_changes_the_way_and_not_what_is_learned(
    kind: str, task: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.tasks import _base

    calls = [0]
    real = _base.chunked_cross_entropy

    def counted(*args: Any) -> torch.Tensor:
        calls[0] += 1
        return real(*args)

    monkeypatch.setattr(_base, "chunked_cross_entropy", counted)
    losses, used = [], []
    for chunked in (True, False):
        calls[0] = 0
        run = tunesmith.train(
            str(tiny_model(kind, models / kind)), task=task, train=rows_for(task, 16), eval=rows_for(task, 4), technique="lora",
            max_steps=4, batch_size=8, output=tmp_path / str(chunked), device="cpu", dtype="float32", doctor=False, learning_rate=1e-2,
            training={"chunked_loss": chunked, "log_every": 1},
        )  # fmt: skip
        used.append(calls[0])
        lines = [line for line in tunesmith.training.log.read(run.folder / "metrics.jsonl") if line["event"] == "train"]
        losses.append([line["loss"] for line in lines])
    assert used[0] >= 4 and used[1] == 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
