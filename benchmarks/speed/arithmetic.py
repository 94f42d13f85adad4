"""How much arithmetic a case needs at least, and how fast this machine multiplies matrices.

    2 P operations a token forward, 2 P for the gradient of the input, 2 P for that of the weights         P weights of linear layers

Frozen weights need no third, a frozen backbone whose states are kept only the first of one epoch, and the output layer only the tokens that are
learned. Attention's own products, norms and activations are not counted, so a share of the ceiling is a lower bound.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from cases import Case

PASSES = {"full": 3, "lora": 2, "qlora": 2, "feature-based": 1}


def ceiling(bf16: bool, device: str) -> float:
    """Operations a second of a large matrix product through torch: the best of several."""
    size = 2048 if device == "cpu" else 8192
    kind = torch.bfloat16 if bf16 else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, b)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def weights(model: str, causal: bool) -> tuple[int, int]:
    """(weights of linear layers below the output layer, weights of the output layer)."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    with torch.device("meta"):
        made: Any = (AutoModelForCausalLM if causal else AutoModel).from_config(AutoConfig.from_pretrained(model))
    head = made.get_output_embeddings() if causal else None
    inner = sum(m.weight.numel() for m in made.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    return inner, head.weight.numel() if head is not None else 0


def operations(case: Case, model: str, tokens: int, supervised: int, teacher: str | None = None) -> float:
    """Of all epochs of a case.

    Args:
        case: says what learns.
        model: its folder.
        tokens: of one epoch.
        supervised: tokens of one epoch that are learned.
        teacher: the folder of a model whose answers are computed once.
    """
    inner, head = weights(model, case.kind == "causal")
    epochs = 1 if case.technique == "feature-based" else case.epochs
    total = 2.0 * PASSES[case.technique] * epochs * (inner * tokens + head * supervised)
    if teacher is not None:
        total += 2.0 * tokens * weights(teacher, False)[0]
    return total
