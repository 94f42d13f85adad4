"""What a model says of a few fixed texts: two models that should be the same are compared by it."""

from __future__ import annotations

from typing import Any

import torch

TEXTS = (
    "The film begins slowly and ends too soon.",
    "Is this review positive or negative?",
    "Bộ phim này hay hơn tôi tưởng, nhưng hơi dài.",
    "Hà Nội có mùa thu đẹp nhất trong năm.",
    "In 1969, Neil Armstrong walked on the Moon; 600 million people watched.",
    "def add(a, b):\n    return a + b",
    "Please turn on the lights in the kitchen and close the door.",
    "WINNER!! Call 0900 123 now to claim your prize",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen",
    "a",
)


def answers(model: Any, tokenizer: Any) -> list[torch.Tensor]:
    """Logits (for spans start and end) of every text alone, in evaluation mode."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    found = []
    writes = model.config.is_encoder_decoder and hasattr(model, "generate") and model.can_generate()
    for text in TEXTS:
        ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"].to(device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if writes:
            inputs["decoder_input_ids"] = ids
        with torch.no_grad():
            out = model(**inputs)
        logits = out["logits"] if "logits" in out else torch.stack([out["start_logits"], out["end_logits"]], -1)
        found.append(logits.float().cpu())
    model.train(training)
    return found


def drift(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest difference of a logit, as a share of the largest logit where that is above 1; infinite where shapes or what is finite differ."""
    if [a.shape for a in one] != [b.shape for b in other]:
        return float("inf")
    found, scale = 0.0, 1.0
    for a, b in zip(one, other, strict=True):
        fine = torch.isfinite(a)
        if not torch.equal(fine, torch.isfinite(b)) or not torch.equal(a[~fine], b[~fine]):
            return float("inf")  # also where both are no numbers
        if fine.any():
            scale = max(scale, float(a[fine].abs().max()))
            found = max(found, float((a - b)[fine].abs().max()))
    return found / scale
