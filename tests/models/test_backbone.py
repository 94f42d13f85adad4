"""Parts of a model found by role on every architecture: base, head, blocks, linear modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.models.backbone import Backbone, dimensions, is_linear, role_of
from tunesmith.testing import KINDS
from tunesmith.testing.techniques import Bench

# kind: (base, head, family, blocks, roles of the linear modules in one block)
EXPECTED: dict[str, tuple[str, tuple[str, ...], str, int, set[str]]] = {
    "bert": ("bert", ("classifier",), "encoder", 2, {"q", "k", "v", "o", "up", "down"}),
    "distilbert": ("distilbert", ("classifier", "pre_classifier"), "encoder", 2, {"q", "k", "v", "o", "up", "down"}),
    "roberta": ("roberta", ("classifier",), "encoder", 2, {"q", "k", "v", "o", "up", "down"}),
    "modernbert": ("model", ("classifier", "head"), "encoder", 2, {"qkv", "o", "up", "down"}),
    "gpt2": ("transformer", ("score",), "decoder", 2, {"qkv", "o", "up", "down"}),
    "llama": ("model", ("score",), "decoder", 2, {"q", "k", "v", "o", "up", "down"}),
    "qwen3": ("model", ("score",), "decoder", 2, {"q", "k", "v", "o", "up", "down"}),
    "gemma3": ("model", ("score",), "decoder", 2, {"q", "k", "v", "o", "up", "down"}),
    "t5": ("transformer", ("classification_head",), "encoder-decoder", 4, {"q", "k", "v", "o", "up", "down"}),
    "bart": ("model", ("classification_head",), "encoder-decoder", 4, {"q", "k", "v", "o", "up", "down"}),
    "lstm": ("model", ("score",), "decoder", 2, {"qkv", "state"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts(kind: str, models: Path) -> None:
    backbone = Bench(kind, models, "full").loaded.backbone
    base, head, family, blocks, roles = EXPECTED[kind]
    assert backbone.base_name == base
    assert backbone.head_names == head
    assert backbone.kind == family
    assert len(backbone.layers) == blocks
    assert {role_of(name) for name in backbone.linears()} == roles  # nothing is left over as "other"
    everything = {n for n, m in backbone.model.named_modules() if is_linear(m)}
    outside = {n for n in everything if n not in backbone.linears() and not backbone.in_head(n)}
    assert all("pooler" in n for n in outside), outside
    names = {n for n, _ in backbone.head_parameters()} | {n for n, _ in backbone.backbone_parameters()}
    assert names == {n for n, _ in backbone.model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_names_survive_a_technique(kind: str, models: Path) -> None:
    """After LoRA the same linear modules are found, and nothing that LoRA added."""
    bench = Bench(kind, models, "lora")
    before = list(bench.loaded.backbone.linears())
    bench.attach()
    assert list(bench.loaded.backbone.linears()) == before


def test_depth_orders_layers(models: Path) -> None:
    backbone = Bench("bert", models, "full").loaded.backbone
    depths = {n: backbone.layer_index(n) for n, _ in backbone.model.named_parameters()}
    assert depths["bert.embeddings.word_embeddings.weight"] == 0
    assert depths["bert.encoder.layer.0.attention.self.query.weight"] == 1
    assert depths["bert.encoder.layer.1.output.dense.weight"] == 2
    assert depths["classifier.weight"] == depths["bert.pooler.dense.weight"] == 3


def test_new_pooler_belongs_to_the_head(tmp_path: Path) -> None:
    """A masked-LM checkpoint has no pooler: what classification makes anew learns with the head."""
    from transformers import AutoModelForMaskedLM, BertConfig

    from tunesmith import registry
    from tunesmith.models.load import load_model, load_tokenizer, locate
    from tunesmith.tasks.text_classification import TextClassificationOptions
    from tunesmith.testing.models import tiny_tokenizer

    tokenizer = tiny_tokenizer(True)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    source = locate(str(tmp_path))
    task = registry.load("task", "text-classification")(TextClassificationOptions())
    task.labels, task.problem = ["a", "b"], "single-label"
    loaded = load_model(source, load_tokenizer(source), task)
    assert loaded.backbone.head_names == ("bert.pooler", "classifier")


def test_head_is_drawn_from_the_seed_alone(models: Path) -> None:
    import torch

    heads = []
    for seed in (0, 0, 1):
        torch.randn(7)
        heads.append(Bench("bert", models, "full", seed=seed).loaded.model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_model_without_known_modules_is_refused() -> None:
    class Odd(nn.Module):
        base_model_prefix = ""
        config: Any = None

    with pytest.raises(ModelError, match="no linear module"):
        Backbone(Odd()).linears("q")


def test_dimensions_of_transposed_weights() -> None:
    from transformers.pytorch_utils import Conv1D

    assert dimensions(Conv1D(5, 3)) == (3, 5)
