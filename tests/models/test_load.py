"""Opening a checkpoint: no class may leave a layer random without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith import registry
from tunesmith.errors import ModelError
from tunesmith.models.load import Loaded, load_model, load_tokenizer, locate
from tunesmith.testing import tiny_model


def whole(kind: str, models: Path, place: Path) -> Path:
    """A decoder with its output layer, as pretrained ones come."""
    folder = tiny_model(kind, models / kind)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def opened(folder: Path, task: str) -> Loaded:
    source = locate(str(folder))
    cls = registry.load("task", task)
    return load_model(source, load_tokenizer(source), cls(cls.Options()))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma3"])
def test_a_head_for_answers_stands_on_the_weights_of_the_checkpoint(kind: str, models: Path, tmp_path: Path) -> None:
    """The classes of Llama and Qwen3 for answers look for their base under another name than language models save it."""
    folder = whole(kind, models, tmp_path)
    answers, writes = opened(folder, "question-answering"), opened(folder, "language-modeling")
    mine, theirs = answers.backbone.base.state_dict(), writes.backbone.base.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert answers.backbone.head_names == ("qa_outputs",)


def test_missing_layers_are_refused(models: Path, tmp_path: Path) -> None:
    folder = whole("llama", models, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if "layers.1.self_attn.q_proj" not in n}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    for task in ("language-modeling", "question-answering"):
        with pytest.raises(ModelError, match="lacks 1 weights"):
            opened(folder, task)
