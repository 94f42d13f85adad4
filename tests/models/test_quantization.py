"""Backbones in few bits: what is quantised, what a product is, gradients after an evaluation, every technique on them, refusals."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

import tunesmith
from tunesmith.models import quantization
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows
from tunesmith.testing.techniques import Bench, check_technique, parameters

pytest.importorskip("bitsandbytes")
KINDS = ("nf4", "int8")


def levels() -> np.ndarray:
    """The 16 values of NF4: quantiles of a normal distribution, an exact zero among them (Dettmers et al. 2023, appendix E)."""
    offset = 1 - 0.5 * (1 / 32 + 1 / 30)
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([positive, [0.0], negative]))
    return np.asarray(values / np.abs(values).max())


def quantized(kind: str, models: Path, name: str = "llama") -> tuple[Bench, Bench]:
    """The same model with and without quantisation."""
    return Bench(name, models, "lora", quantization=kind), Bench(name, models, "lora")


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "bart"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_are_quantised_and_nothing_else(kind: str, name: str, models: Path) -> None:
    few, plain = quantized(kind, models, name)
    inside = set(plain.loaded.backbone.linears())
    stored = {n for n, m in few.loaded.model.named_modules() if isinstance(m, quantization.QuantizedLinear)}
    assert stored == inside and inside
    for (n, p), (m, q) in zip(few.loaded.model.named_parameters(), plain.loaded.model.named_parameters(), strict=True):
        assert n == m and quantization.count(p) == q.numel()
        if quantization.bits(p) is None:
            assert torch.equal(p, q), f"{n} is not a quantised weight and changed"
    assert parameters(few.loaded.model)[1] == parameters(plain.loaded.model)[1]
    assert quantization.stored_bytes(few.loaded.model) < quantization.stored_bytes(plain.loaded.model)
    assert quantization.kind_of(few.loaded.model) == kind and quantization.kind_of(plain.loaded.model) == "none"


def test_nf4_is_the_nearest_of_sixteen_levels_in_blocks_of_64(models: Path) -> None:
    """Against levels and scales computed here; the scales' own 8 bits leave an error of a few per mille of a scale."""
    few, plain = quantized("nf4", models)
    table = levels()
    for name, module in few.loaded.model.named_modules():
        if not isinstance(module, quantization.QuantizedLinear):
            continue
        weights = plain.loaded.model.get_submodule(name).weight.detach().numpy().reshape(-1, 64)
        scale = np.abs(weights).max(1, keepdims=True)
        nearest = table[np.abs(weights[..., None] / scale[..., None] - table).argmin(-1)] * scale
        found = quantization.weight_of(module).numpy().reshape(-1, 64)
        assert np.abs(found - nearest).max() <= 0.01 * scale.max()
        assert np.abs(found - nearest).mean() <= 0.003 * scale.mean()


def test_int8_is_the_nearest_of_255_levels_a_row(models: Path) -> None:
    few, plain = quantized("int8", models)
    for name, module in few.loaded.model.named_modules():
        if isinstance(module, quantization.QuantizedLinear):
            weights = plain.loaded.model.get_submodule(name).weight.detach()
            step = weights.abs().amax(1, keepdim=True) / 127
            error = (quantization.weight_of(module) - weights).abs()
            # Half a level; weights and scale pass through half precision, whose rounding is 2^-12 of a value of up to 127 levels.
            assert (error <= step * (0.5 + 2 * 127 * 2**-12)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_and_its_gradients_are_those_of_the_dequantised_weights(
    kind: str, dtype: torch.dtype, models: Path
) -> None:
    few, _ = quantized(kind, models, "bert")  # with biases
    module: Any = next(m for m in few.loaded.model.modules() if isinstance(m, quantization.QuantizedLinear))
    module.bias.requires_grad_(True)
    x = torch.randn(3, 5, module.in_features, dtype=dtype, requires_grad=True)
    out = module(x)
    out.sum().backward()
    other = x.detach().clone().requires_grad_()
    bias = module.bias.detach().clone().requires_grad_()
    wanted = nn.functional.linear(other, quantization.weight_of(module, dtype)) + bias.to(dtype)
    wanted.sum().backward()
    assert out.dtype == dtype and torch.equal(out, wanted) and torch.equal(x.grad, other.grad)
    assert torch.equal(module.bias.grad, bias.grad) and module.bias.dtype == torch.float32


def test_dequantised_it_computes_the_same(models: Path) -> None:
    for kind in KINDS:
        few, _ = quantized(kind, models)
        before = few.logits()
        quantization.dequantize(few.loaded.model)
        assert torch.equal(few.logits(), before)
        assert quantization.kind_of(few.loaded.model) == "none"
        assert not any(isinstance(m, quantization.QuantizedLinear) for m in few.loaded.model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_before_training_cuts_no_gradient(kind: str, models: Path) -> None:
    """bitsandbytes' own forward repacks the weights at the first pass in evaluation mode on some processors."""
    few, _ = quantized(kind, models)
    few.attach()
    few.loaded.model.eval()
    first = few.logits()
    losses = few.train(3)
    assert losses[-1] < losses[0]
    idle = [
        n for n, p in few.loaded.model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert not idle and not torch.equal(few.logits(), first)


@pytest.mark.parametrize(
    ("name", "kind", "stored"),
    [
        *((name, kind, "nf4") for name in ("lora", "dora", "ia3", "adapter", "prefix-tuning", "prompt-tuning", "peft:VERA") for kind in ("bert", "llama")),
        ("bitfit", "bert", "nf4"), ("feature-based", "bert", "nf4"), ("lora", "bert", "int8"), ("bitfit", "bert", "int8"), ("adapter", "llama", "int8"),
    ],
)  # fmt: skip
def test_every_technique_stands_on_a_quantised_backbone(name: str, kind: str, stored: str, models: Path) -> None:
    options = {"r": 8} if name.startswith("peft:") else None
    check_technique(name, kind, models, options, quantization=stored)


def go(models: Path, output: Path, **settings: Any) -> Any:
    return tunesmith.train(
        str(tiny_model("llama", models / "llama")), train=toy_rows(24), eval=toy_rows(8), output=output, device="cpu", doctor=False,
        **{"max_steps": 4, "batch_size": 8, "learning_rate": 1e-2, **settings},
    )  # fmt: skip


def test_runs_on_quantised_backbones(models: Path, tmp_path: Path) -> None:
    """qlora is lora on nf4, to the bit; the kinds differ; checkpointing and dtype are options there too."""
    plain = go(models, tmp_path / "plain", technique="lora")
    qlora = go(models, tmp_path / "qlora", technique="qlora")
    nf4 = go(models, tmp_path / "nf4", technique="lora", quantization="nf4")
    int8 = go(models, tmp_path / "int8", technique="qlora", quantization="int8")
    losses = [run.result["metrics"]["after"]["loss"] for run in (plain, qlora, nf4, int8)]
    assert losses[1] == losses[2] and len(set(losses)) == 3
    totals = {run.result["cost"]["total_parameters"] for run in (plain, qlora, nf4, int8)}
    assert len(totals) == 1
    assert tunesmith.load(qlora.artifact).opened.info["quantization"] == "nf4"
    assert tunesmith.load(int8.artifact).opened.info["quantization"] == "int8"
    kept = go(models, tmp_path / "kept", technique="qlora", training={"gradient_checkpointing": False})
    assert kept.result["metrics"]["after"]["loss"] == pytest.approx(losses[1], abs=1e-5)
    half = go(models, tmp_path / "half", technique="qlora", dtype="bfloat16")
    assert half.result["metrics"]["after"]["loss"] == pytest.approx(losses[1], rel=0.05)


def test_vera_learns_in_half_precision(models: Path, tmp_path: Path) -> None:
    """Its frozen random matrices are buffers, which otherwise keep their dtype."""
    run = go(models, tmp_path / "vera", technique="peft:VERA", dtype="bfloat16", peft={"r": 8})
    assert run.result["status"] == "finished"


def test_what_cannot_be(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tunesmith.UserError, match="qlora or another"):
        go(models, tmp_path / "full", technique="full", quantization="nf4")
    with pytest.raises(tunesmith.UserError, match="random weights"):
        tunesmith.train(
            "new:lstm", train=toy_rows(24), output=tmp_path / "new", technique="full", quantization="nf4", doctor=False
        )
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else find(n, *a))
    with pytest.raises(tunesmith.UserError, match=r"pip install 'tunesmith\[qlora\]'"):
        go(models, tmp_path / "missing", technique="qlora")
