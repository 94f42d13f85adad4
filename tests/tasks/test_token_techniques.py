"""Every technique tags words on every architecture: aligned logits, falling loss, the same logits when opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from tunesmith import registry, seeding
from tunesmith.data.sources import Rows
from tunesmith.errors import TechniqueError
from tunesmith.models.load import load_model, load_tokenizer, locate
from tunesmith.tasks.token_classification import TokenClassification
from tunesmith.testing import tiny_model

KINDS = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "t5")
TECHNIQUES = [*(name for name in registry.names("technique") if name != "peft"), "peft:LOHA"]
ROWS = [
    {"tokens": ["the", "red", "film", "was", "good"], "ner_tags": ["O", "B-COL", "O", "O", "B-GOOD"]},
    {"tokens": ["one", "red", "blue", "book", "and", "the", "green"], "ner_tags": ["O", "B-COL", "I-COL", "O", "O", "O", "B-COL"]},
    {"tokens": ["you", "love"], "ner_tags": ["O", "B-GOOD"]},
]  # fmt: skip


class Tagger:
    """A technique attached to a tiny model under the task."""

    def __init__(self, kind: str, technique: str, source: Any, head_seed: int = 0) -> None:
        self.task = TokenClassification(TokenClassification.Options())
        self.task.fit(Rows(Dataset.from_list(ROWS), "rows", "rows"))
        self.loaded = load_model(source, load_tokenizer(source), self.task, seed=head_seed)
        cls = registry.load("technique", technique)
        options = (
            {"grow_biases": True} if technique == "bitfit" and kind in ("modernbert", "llama", "qwen3", "t5") else {}
        )
        self.technique = cls(cls.Options.model_validate(options), registry.split_name(technique)[1])
        features = [f for several in self.task.encode(ROWS, self.loaded.tokenizer, 32) for f in several]
        self.batch = self.task.collate(features, self.loaded.tokenizer.pad_token_id)

    def attach(self, seed: int) -> None:
        seeding.seed_everything(seed)
        self.technique.attach(self.loaded.backbone)

    def logits(self) -> torch.Tensor:
        self.loaded.model.eval()
        with torch.no_grad():
            return self.task.forward(self.loaded.model, self.batch).logits.clone()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_techniques_tag_words(technique: str, kind: str, models: Path, tmp_path: Path) -> None:
    source = locate(str(tiny_model(kind, models / kind)))
    tagger = Tagger(kind, technique, source)
    try:
        tagger.attach(1)
    except TechniqueError as error:
        pytest.fail(f"refused: {error}")
    task, model, batch = tagger.task, tagger.loaded.model.eval(), tagger.batch
    assert tagger.logits().shape == (*batch["input_ids"].shape, len(task.labels))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = task.loss(task.forward(model, batch), batch) / task.units(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    trained = tagger.logits()
    tagger.technique.export(tagger.loaded.backbone, tmp_path, source.path)
    if tagger.technique.saves == "model":
        tagger.loaded.tokenizer.save_pretrained(tmp_path)
        again = Tagger(kind, technique, locate(str(tmp_path)), head_seed=7)
    else:
        again = Tagger(kind, technique, source, head_seed=7)
        again.attach(2)
    again.technique.restore(again.loaded.backbone, tmp_path)
    torch.testing.assert_close(again.logits(), trained, rtol=0, atol=1e-6)
