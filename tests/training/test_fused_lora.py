"""LoRA in fewer passes: equal to peft's modules with gradients, and out of the way of whatever it does not know."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

import tunesmith
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows
from tunesmith.testing.techniques import Bench
from tunesmith.training import dropout, fused_lora


def pair(dtype: torch.dtype = torch.float32, seed: int = 0, **settings: Any) -> tuple[Any, Any]:
    """Two layers with LoRA, as peft runs them and fused; the noise comes from the same draws."""
    torch.manual_seed(seed)
    plain: Any = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5, bias=False))
    config = LoraConfig(**{"r": 3, "lora_alpha": 6, "lora_dropout": 0.0, "target_modules": ["0", "2"], **settings})
    plain = inject_adapter_in_model(config, plain)
    for parameter in plain.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    plain = plain.to(dtype).train()
    dropout.install(plain)
    fused = deepcopy(plain)
    fused_lora.install(fused)
    return plain, fused


def run(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient of the input, gradients of what learns."""
    torch.manual_seed(1)
    x = x.detach().clone().requires_grad_()
    y = model(x)
    (0.1 * y.square()).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]  # type: ignore[list-item]


def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the fused function runs from here on."""
    calls = [0]
    for function in (fused_lora._Beside, fused_lora._Scaled):

        def counted(*arguments: Any, real: Any = function.apply) -> Any:
            calls[0] += 1
            return real(*arguments)

        monkeypatch.setattr(function, "apply", counted)
    return calls


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Within what sums in another order may differ by, of a tensor's largest element."""
    for one, other in zip(expected, found, strict=True):
        bound = (1e-12 if one.dtype == torch.float64 else 1e-5) * float(one.abs().max().clamp(min=1e-3))
        torch.testing.assert_close(other, one, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 12)])
@pytest.mark.parametrize(
    "settings",
    [{}, {"lora_dropout": 0.4}, {"use_rslora": True}, {"use_dora": True}, {"use_dora": True, "lora_dropout": 0.4}],
    ids=["plain", "dropout", "rank stabilised", "dora", "dora with dropout"],
)
def test_it_is_what_peft_computes(
    settings: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fused = pair(dtype, **settings)
    x = torch.randn(shape, dtype=dtype)
    expected = run(plain, x)
    calls = count(monkeypatch)
    found = run(fused, x)
    assert calls == [2]
    same(found, expected)


@pytest.mark.parametrize("dora", [False, True])
def test_rounding_in_half_precision_is_no_worse(dora: bool) -> None:
    ratios = []
    for seed in range(6):
        plain, fused = pair(torch.bfloat16, seed=seed, use_dora=dora)
        exact = deepcopy(plain).double()  # of the weights as they are rounded
        x = torch.randn(64, 12).bfloat16()
        truth = run(exact, x.double())
        ours, theirs = (
            [float((a.double() - b).square().sum()) for a, b in zip(run(model, x), truth, strict=True)]
            for model in (fused, plain)
        )
        ratios += [one / other for one, other in zip(ours, theirs, strict=True)]
    assert sum(ratios) / len(ratios) < 1.0


def test_backward_without_a_gradient_for_the_input() -> None:
    plain, fused = pair()
    gradients = []
    for model in (plain, fused):
        model(torch.ones(4, 12)).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    same(gradients[1], gradients[0])


def hook(model: Any) -> None:
    model[0].lora_A["default"].register_forward_hook(lambda module, args, out: 2 * out)


def second(model: Any) -> None:
    for layer in (model[0], model[2]):
        layer.update_layer("more", 2, lora_alpha=2, config=LoraConfig(r=2, lora_dropout=0.0, init_lora_weights=False))
        layer.set_adapter(["default", "more"])


ASIDE = {
    "a hook": hook,
    "two adapters": second,
    "adapters off": lambda model: [layer.enable_adapters(False) for layer in (model[0], model[2])],
    "merged": lambda model: [layer.merge() for layer in (model[0], model[2])],
    "a base that learns": lambda model: [layer.base_layer.requires_grad_() for layer in (model[0], model[2])],
    "another dtype": lambda model: [layer.base_layer.double() for layer in (model[0],)],
}


@pytest.mark.parametrize("case", ASIDE)
def test_it_steps_aside(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = pair()
    torch.manual_seed(3)
    ASIDE[case](plain)
    torch.manual_seed(3)
    ASIDE[case](fused)
    calls, x = count(monkeypatch), torch.randn(4, 12)
    if case == "another dtype":
        with pytest.raises(RuntimeError):
            plain(x)
        with pytest.raises(RuntimeError):
            fused(x)
        return
    torch.testing.assert_close(fused(x), plain(x), rtol=0, atol=0)
    assert calls[0] == (1 if case == "a hook" else 0)  # the other layer has none


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_row_norms_without_the_product(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, down, up = (torch.randn(shape, generator=generator) for shape in ((9, 7), (3, 7), (9, 3)))
    exact = torch.linalg.vector_norm(weight.double() + scale * up.double() @ down.double(), dim=1)
    torch.testing.assert_close(fused_lora._norms(weight, down, up, scale).double(), exact, rtol=1e-5, atol=0)


def test_a_magnitude_of_zero_has_its_gradient() -> None:
    plain, fused = pair(use_dora=True)
    for model in (plain, fused):
        with torch.no_grad():
            model[0].lora_magnitude_vector["default"].weight[2] = 0.0
    x = torch.randn(4, 12)
    same(run(fused, x), run(plain, x))


def test_nothing_is_fused_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = pair()
    calls, x = count(monkeypatch), torch.randn(4, 12)
    with torch.no_grad():
        assert torch.equal(fused(x), plain(x))
    assert calls == [0]


@pytest.mark.parametrize("technique", ["lora", "dora"])
@pytest.mark.parametrize("kind", ["bert", "llama", "t5", "gpt2", "qwen3", "gemma3"])
def test_every_architecture_has_the_same_gradients(
    kind: str, technique: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(kind, models, technique, {"rank": 3, "dropout": 0.2})
    bench.attach()
    model = bench.loaded.model.double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    dropout.install(model)
    model.train()
    calls, found = count(monkeypatch), []
    for fused in (False, True):
        if fused:
            fused_lora.install(model)
        model.zero_grad()
        torch.manual_seed(2)
        loss = bench.task.loss(bench.task.forward(model, bench.batch), bench.batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    same(found[1], found[0])
    assert (calls[0] == 0) == (kind == "gpt2")  # whose layers are no nn.Linear


def test_the_switch(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, losses = count(monkeypatch), {}
    for fused in (True, False):
        before = calls[0]
        found = tunesmith.train(
            str(tiny_model("llama", models / "llama")), train=toy_rows(24), eval=toy_rows(8), technique="lora", max_steps=4,
            training={"fused_lora": fused}, output=tmp_path / str(fused), doctor=False, device="cpu", dtype="float32",
        )  # fmt: skip
        assert (calls[0] > before) == fused
        losses[fused] = found.result["metrics"]["after"]["loss"]
    assert losses[True] == pytest.approx(losses[False], abs=1e-4)
