"""Which kernel attention runs in, and that it is the same attention."""

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
from tunesmith.training.attention import SHORT, attention_kernel

HERE = torch.device("cpu")


@pytest.mark.parametrize(("dtype", "fused"), [("bfloat16", False), ("float32", True)])
def test_short_rows_in_half_precision_are_plain_products(
    dtype: str, fused: bool, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward, recomputed layers too; what is measured afterwards is left alone."""
    seen: list[bool] = []
    real = Supervised.loss

    def loss(self: Any, each: Any) -> Any:
        found = real(self, each)
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        found.register_hook(lambda _: seen.append(torch.backends.cuda.flash_sdp_enabled()))
        return found

    monkeypatch.setattr(Supervised, "loss", loss)
    tunesmith.train(
        str(tiny_model("llama", models / "llama")), train=toy_rows(16), eval=toy_rows(8), technique="lora", max_steps=2,
        device="cpu", dtype=dtype, output=tmp_path / "run", doctor=False, training={"gradient_checkpointing": True},
    )  # fmt: skip
    assert seen and set(seen) == {fused}
    assert torch.backends.cuda.flash_sdp_enabled()


def test_long_rows_are_left_to_torch() -> None:
    with attention_kernel(HERE, torch.bfloat16, SHORT + 1):
        assert torch.backends.cuda.flash_sdp_enabled()
    with attention_kernel(torch.device("meta"), torch.bfloat16, 8):
        assert torch.backends.cuda.flash_sdp_enabled()


def test_both_kernels_are_one_attention() -> None:
    """Against fp32, both within a few steps of bf16, with their gradients."""
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 40, 16) for _ in range(3)]
    mask = torch.ones(2, 1, 40, 40, dtype=torch.bool).tril()

    def run(dtype: torch.dtype, length: int) -> list[torch.Tensor]:
        own = [part.detach().clone().to(dtype).requires_grad_() for part in parts]
        with attention_kernel(HERE, dtype, length):
            out = scaled_dot_product_attention(*own, attn_mask=mask)
            out.sum().backward()
        return [out.detach().float(), *(part.grad.float() for part in own)]  # type: ignore[union-attr]

    for truth, plain, fused in zip(
        run(torch.float32, 40), run(torch.bfloat16, 40), run(torch.bfloat16, 999), strict=True
    ):
        assert torch.allclose(plain, truth, atol=0.03) and torch.allclose(fused, truth, atol=0.03)
