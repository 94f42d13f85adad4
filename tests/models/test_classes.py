"""Every head on every architecture: what transformers has, and what tunesmith adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.models.backbone import Backbone
from tunesmith.models.load import model_class
from tunesmith.techniques._base import create
from tunesmith.testing import KINDS, tiny_model

TOKENS, ANSWERS = "AutoModelForTokenClassification", "AutoModelForQuestionAnswering"
ADDED = [("gemma3", TOKENS), ("gemma3", ANSWERS), ("bart", TOKENS)]
# Heads that make no sense: an encoder does not write, a decoder is not trained on masks.
NONE = {
    "AutoModelForCausalLM": {"distilbert", "modernbert", "t5"},
    "AutoModelForMaskedLM": {"gpt2", "llama", "qwen3", "gemma3", "t5", "lstm"},
    "AutoModelForSeq2SeqLM": set(KINDS) - {"t5", "bart"},
    "AutoModelForSequenceClassification": set(),
    TOKENS: set(),
    ANSWERS: set(),
}


def opened(kind: str, name: str, models: Path, seed: int = 0) -> Any:
    from transformers import AutoConfig

    folder = tiny_model(kind, models / kind)
    config = AutoConfig.from_pretrained(folder, num_labels=3, pad_token_id=0)
    torch.manual_seed(seed)
    return model_class(name, config).from_pretrained(folder, config=config).eval()


def inputs(rows: int = 3) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 40, (rows, 8), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 3
    ids[0, 5:] = 0
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def numbers(output: Any) -> torch.Tensor:
    return output.logits if "logits" in output else torch.stack([output.start_logits, output.end_logits], -1)


@pytest.mark.parametrize("name", NONE)
def test_no_hole_is_left(name: str, models: Path) -> None:
    from transformers import AutoConfig

    without = set()
    for kind in KINDS:
        config = AutoConfig.from_pretrained(tiny_model(kind, models / kind))
        try:
            assert type(config) in model_class(name, config)._model_mapping
        except ModelError as error:
            assert kind in str(error) or config.model_type in str(error)
            without.add(kind)
    assert without == NONE[name]


@pytest.mark.parametrize(("kind", "name"), ADDED)
def test_added_heads(kind: str, name: str, models: Path, tmp_path: Path) -> None:
    """Shapes, padding, the loss, gradients everywhere, and saved equals opened again."""
    model = opened(kind, name, models)
    batch = inputs()
    logits = numbers(model(**batch))
    assert logits.shape == (3, 8, 2 if name == ANSWERS else 3)
    alone = numbers(model(input_ids=batch["input_ids"][:1, :5], attention_mask=batch["attention_mask"][:1, :5]))
    assert torch.allclose(logits[:1, :5], alone, atol=1e-5)
    if name == TOKENS:
        labels = torch.where(batch["attention_mask"] == 1, batch["input_ids"] % 3, -100)
        output = model(**batch, labels=labels)
        assert torch.allclose(output.loss, nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    else:
        where = torch.tensor([1, 2, 3])
        output = model(**batch, start_positions=where, end_positions=where)
        both = [nn.functional.cross_entropy(logits[..., i], where) for i in (0, 1)]
        assert torch.allclose(output.loss, sum(both) / 2)
    output.loss.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert not idle
    model.save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(numbers(again.eval()(**batch)), numbers(model(**batch)))


@pytest.mark.parametrize("technique", ["full", "bitfit", "adapter", "lora", "ia3", "prompt-tuning", "prefix-tuning"])
@pytest.mark.parametrize(("kind", "name"), ADDED)
def test_techniques_on_added_heads(technique: str, kind: str, name: str, models: Path) -> None:
    """A few steps lower the loss, padding stays invisible, the head learns."""
    if (technique, kind) == ("bitfit", "gemma3"):
        pytest.skip("Gemma 3 has no biases")
    model = opened(kind, name, models)
    backbone = Backbone(model, reads="tokens")
    assert len(backbone.head_names) == 1
    torch.manual_seed(0)
    create(technique, {"length": 3} if "tuning" in technique else {}).attach(backbone)
    model.eval()
    batch = inputs()
    labels = torch.where(batch["attention_mask"] == 1, batch["input_ids"] % 3, -100)
    where = {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([2, 2, 5])}
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    losses = []
    for _ in range(12):
        loss = model(**batch, **({"labels": labels} if name == TOKENS else where)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.requires_grad for _, p in backbone.head_parameters())
    short = {n: t[:1, :5] for n, t in batch.items()}
    with torch.no_grad():
        assert torch.allclose(numbers(model(**batch))[:1, :5], numbers(model(**short)), atol=1e-5)
