"""Norms as one kernel: which modules are such norms, and the same numbers and gradients from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tunesmith.testing import tiny_model
from tunesmith.training import norms


def found(kind: str, models: Path) -> list[nn.Module]:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_model(kind, models / kind))
    for module in model.modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.dim() == 1:
            nn.init.normal_(module.weight, std=0.3)  # not all ones or zeros
    return [module for module in model.modules() if norms.kind(module)]


@pytest.mark.parametrize(
    ("kind", "added"), [("llama", 0.0), ("gemma3", 1.0), ("t5", 0.0), ("bert", None), ("gpt2", None)]
)
def test_which_modules_are(kind: str, added: float | None, models: Path) -> None:
    kinds = [norms.kind(module) for module in found(kind, models)]
    assert {each[1] for each in kinds if each} == (set() if added is None else {added})


@pytest.mark.parametrize("kind", ["llama", "gemma3", "t5"])
def test_the_same_numbers_and_gradients(kind: str, models: Path) -> None:
    """Against the model's own, in fp32, to 1e-5 of numbers around 1."""
    module = found(kind, models)[0]
    x = torch.randn(3, 5, len(module.weight), requires_grad=True)  # type: ignore[arg-type]
    pull = torch.randn_like(x)

    def both() -> list[torch.Tensor]:
        y = module(x)
        return [y, *torch.autograd.grad((y * pull).sum(), [x, module.weight])]  # type: ignore[list-item]

    own, state = both(), dict(module.state_dict())
    epsilon, added = norms.kind(module)  # type: ignore[misc]
    module.__class__ = norms.fused(type(module), epsilon, added)
    for one, other in zip(own, both(), strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)
    assert module.state_dict().keys() == state.keys()


def test_a_norm_of_another_kind_is_left(models: Path) -> None:
    class Shifted(nn.Module):
        """Looks like one, and subtracts the mean."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * nn.functional.layer_norm(x, (8,), eps=self.eps)

    assert norms.kind(Shifted()) is None and norms.kind(nn.LayerNorm(8, bias=False)) is None


def test_a_processor_keeps_the_models_own(models: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_model("llama", models / "llama"))
    before = [type(module) for module in model.modules()]
    norms.install(model, torch.device("cpu"))
    assert [type(module) for module in model.modules()] == before
