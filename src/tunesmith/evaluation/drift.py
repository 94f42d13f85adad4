r"""Drift: how far a model's representations of the same texts moved, for models that have no language-model head to ask.

With x_i, y_i in R^d the mean of the last hidden states over the real positions of text i, before and after,

    cosine_distance = 1/n sum_i (1 - cos(x_i, y_i)) = 1/(2n) sum_i |x_i/|x_i| - y_i/|y_i||^2          0 (same direction) .. 2
    cka = |Y_c^T X_c|_F^2 / (|X_c^T X_c|_F |Y_c^T Y_c|_F)          linear CKA, 1 for equal geometry (rotation and scale do not count)

X_c, Y_c [n, d] have their column means taken off (Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited",
section 3, equation 4 with linear kernels; with n below d it is biased upwards). Both are exact for equal states: 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


@torch.no_grad()
def states(backbone: Any, tokenizer: Any, texts: Sequence[str], *, max_length: int, batch_size: int) -> torch.Tensor:
    """Mean of the last hidden states over real positions, [texts, d] in fp64.

    Args:
        backbone: of a model; the part that takes the tokens runs (the encoder of an encoder-decoder).
        tokenizer: its tokenizer.
        texts: each cut to `max_length` tokens.
        max_length: tokens.
        batch_size: texts in a forward pass.
    """
    device, model, found = backbone.embedding.weight.device, backbone.model, []
    training = model.training
    model.eval()
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]), truncation=True, max_length=max_length, padding=True, split_special_tokens=True,
            return_tensors="pt",
        ).to(device)  # fmt: skip
        mask = batch["attention_mask"]
        last = backbone.stack(input_ids=batch["input_ids"], attention_mask=mask)[0].double()
        weights = mask[..., None].double()
        found.append(((last * weights).sum(1) / weights.sum(1).clamp(min=1)).cpu())
    model.train(training)
    return torch.cat(found)


def cosine_distance(before: torch.Tensor, after: torch.Tensor) -> float:
    """Mean over rows of 1 - cos, [n, d] each; exactly 0 for equal rows."""
    one, other = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-300) for x in (before, after))
    return float((one - other).square().sum(1).mean() / 2)


def cka(before: torch.Tensor, after: torch.Tensor) -> float:
    """Linear CKA of [n, d] and [n, e]; 1 where either side does not vary at all and both are equal, else 0 there."""
    x, y = (s - s.mean(0) for s in (before.double(), after.double()))
    across, own, other = (float((a.T @ b).square().sum()) for a, b in ((y, x), (x, x.clone()), (y, y.clone())))
    scale = (own * other) ** 0.5
    if scale == 0:
        return float(torch.equal(before, after))
    return across / scale
