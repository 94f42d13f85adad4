"""Attention on a CPU: own products against the equation, against torch, and inside of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import tunesmith
from tunesmith.objectives.supervised import Supervised
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows
from tunesmith.training import attention
from tunesmith.training.attention import attention_kernel, own_attention
from tunesmith.training.dropout import STEPS

HERE = torch.device("cpu")


def parts(dtype: torch.dtype = torch.float32, values: int = 16) -> list[torch.Tensor]:
    """Queries, keys and values as models lay them out: heads behind tokens."""
    draw = torch.Generator().manual_seed(0)
    widths = (16, 16, values)
    made = [torch.randn(5, length, 3, w, generator=draw) for length, w in zip((9, 11, 11), widths, strict=True)]
    return [each.to(dtype).transpose(1, 2).requires_grad_() for each in made]


def with_gradients(out: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """An output and what a fixed gradient of it makes of its inputs."""
    weight = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]


@pytest.mark.parametrize("at_once", [1 << 20, 2 * 3 * 99, 99, 1])  # all rows, two of them, one head, less than one
@pytest.mark.parametrize("bias", ["none", "rows", "heads"])
def test_is_the_equation_with_its_gradients(at_once: int, bias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "AT_ONCE", at_once)
    query, key, value = own = parts(torch.float64, values=8)
    shape = {"none": None, "rows": (5, 1, 9, 11), "heads": (1, 3, 9, 11)}[bias]
    added = torch.randn(shape, dtype=torch.float64, requires_grad=True) if shape else None
    inputs = [*own, *([added] if added is not None else [])]
    scores = 0.3 * query @ key.transpose(-1, -2)
    plain = torch.softmax(scores if added is None else scores + added, -1) @ value
    truth = with_gradients(plain.transpose(1, 2), *inputs)
    for found, wanted in zip(with_gradients(own_attention(*own, added, 0.3), *inputs), truth, strict=True):
        assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_elements_of_the_map(dtype: torch.dtype) -> None:
    """With values that are the identity the output is the dropped map itself; its gradient follows the same mask."""
    query, key, _ = parts(dtype)
    value = torch.eye(11, dtype=dtype).expand(5, 3, 11, 11).clone().requires_grad_()
    whole = own_attention(query, key, value, None, 0.3)
    torch.manual_seed(3)
    out = own_attention(query, key, value, None, 0.3, dropout=0.25)
    kept = out.detach() != 0
    scale = STEPS / round(0.75 * STEPS)
    assert 0.7 < kept.double().mean() < 0.8
    close = {"rtol": 1e-5 if dtype == torch.float32 else 2e-2, "atol": 1e-6 if dtype == torch.float32 else 1e-2}
    assert torch.allclose(out.detach()[kept], whole.detach()[kept] * scale, **close)
    map_ = torch.softmax(0.3 * query.float() @ key.float().transpose(-1, -2), -1)
    truth = map_ * kept.transpose(1, 2) * scale @ value.float()
    wanted = with_gradients(truth.transpose(1, 2), query, key, value)
    for found, right in zip(with_gradients(out, query, key, value), wanted, strict=True):
        assert torch.allclose(found.float(), right.float(), **close)


def test_dropout_is_drawn_anew_and_repeats_with_the_seed() -> None:
    own = parts()
    torch.manual_seed(1)
    first, second = (own_attention(*own, None, 1.0, 0.5) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(own_attention(*own, None, 1.0, 0.5), first) and not torch.equal(first, second)


def test_half_precision_is_as_near_to_the_truth_as_torch() -> None:
    """Scores and softmax are fp32, as in torch's plain products; the map is rounded before it meets the values."""
    truth = with_gradients(own_attention(*(exact := parts()), None, 0.25), *exact)
    own = with_gradients(own_attention(*(half := parts(torch.bfloat16)), None, 0.25), *half)
    out = scaled_dot_product_attention(*(half := parts(torch.bfloat16)), scale=0.25).transpose(1, 2)
    theirs = with_gradients(out, *half)
    for a, b, right in zip(own, theirs, truth, strict=True):
        assert (a.float() - right).abs().mean() < 1.5 * (b.float() - right).abs().mean() + 1e-4


@pytest.mark.parametrize("kind", ["bert", "t5", "llama", "gpt2", "bart", "gemma3", "modernbert"])
def test_models_compute_the_same_with_it(kind: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, causal rows, grouped heads and T5's positions, forward and backward."""
    from transformers import AutoModel

    monkeypatch.setattr(attention, "suits", lambda query, keys, dropout, more: True)
    called: list[int] = []
    real = attention.own_attention
    monkeypatch.setattr(attention, "own_attention", lambda *given: called.append(1) or real(*given))
    model = AutoModel.from_pretrained(tiny_model(kind, models / kind)).eval()
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids[:, :5]

    def run() -> dict[str, torch.Tensor]:
        model.zero_grad()
        out = model(**batch).last_hidden_state
        real = mask[:, : out.shape[1]].bool() if not model.config.is_encoder_decoder else slice(None)
        out[real].square().mean().backward()
        return {"": out.detach()[real], **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}

    plain = run()
    assert not called
    with attention_kernel(HERE):
        own = run()
    assert called and plain.keys() == own.keys()
    for name, wanted in plain.items():
        assert torch.allclose(own[name], wanted, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    ("dtype", "dropout", "keys", "own"),
    [
        (torch.bfloat16, 0.0, 64, True),
        (torch.bfloat16, 0.0, attention.LONG + 1, False),  # a map of it takes memory
        (torch.float32, 0.0, 64, False),  # torch is as fast
        (torch.float32, 0.1, 64, True),
        (torch.bfloat16, 0.1, 999, True),  # torch would keep more
    ],
)
def test_where_it_is_faster(dtype: torch.dtype, dropout: float, keys: int, own: bool) -> None:
    query = torch.zeros(1, 2, 8, 4, dtype=dtype)
    assert attention.suits(query, keys, dropout, {}) is own
    assert not attention.suits(query[:, :, :1], keys, dropout, {})  # one token that is written
    assert not attention.suits(query, keys, dropout, {"softcap": 50.0})


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", True), ("float32", False)])
def test_a_run_trains_with_it_and_measures_without(
    dtype: str, expected: bool, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward, recomputed layers too; what is measured afterwards is left alone."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]
    inside: list[bool] = []
    calls: list[torch.dtype] = []
    real, own = Supervised.loss, attention.own_attention

    def loss(self: Any, each: Any) -> Any:
        found = real(self, each)
        inside.append(ALL_ATTENTION_FUNCTIONS["sdpa"] is attention.sdpa)
        found.register_hook(lambda _: inside.append(ALL_ATTENTION_FUNCTIONS["sdpa"] is attention.sdpa))
        return found

    monkeypatch.setattr(Supervised, "loss", loss)
    monkeypatch.setattr(attention, "own_attention", lambda *given: calls.append(given[0].dtype) or own(*given))
    tunesmith.train(
        str(tiny_model("llama", models / "llama")), train=toy_rows(16), eval=toy_rows(8), technique="lora", max_steps=2,
        device="cpu", dtype=dtype, output=tmp_path / "run", doctor=False, training={"gradient_checkpointing": True},
    )  # fmt: skip
    assert inside and all(inside)
    assert (set(calls) == {torch.bfloat16}) if expected else not calls
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is usual
