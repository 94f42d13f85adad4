"""A tiny language model of each architecture and random adapters on it, trained by nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.testing import tiny_model

ADAPTERS = 8


def random_lora(base: Path, folder: Path, seed: int, scale: float = 0.3) -> Path:
    """A plain peft LoRA on all linear modules of the blocks, with random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tunesmith.models.backbone import Backbone

    model = AutoModelForCausalLM.from_pretrained(base)
    turned = any(type(m).__name__ == "Conv1D" for m in model.modules())
    targets = list(Backbone(model, owns_head=False).linears())
    made: Any = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=turned)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    made.save_pretrained(folder)
    return folder


def writer(kind: str, models: Path) -> Path:
    """The tiny model of an architecture with an output layer of its own, which every opening finds there."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models / f"{kind}-writer"
    if not (folder / "config.json").is_file():
        plain = tiny_model(kind, models / kind)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = AutoModelForCausalLM.from_pretrained(plain)
            head = model.get_output_embeddings().weight
            if head is not model.get_input_embeddings().weight:
                torch.nn.init.normal_(head, std=0.3)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(plain).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(models: Path) -> Callable[[str], Path]:
    """The tiny model of an architecture, able to write."""
    return lambda kind: writer(kind, models)


@pytest.fixture(scope="session")
def loras(models: Path) -> Callable[..., dict[str, Path]]:
    """The first `count` random adapters on an architecture, by name."""

    def make(kind: str, count: int = ADAPTERS) -> dict[str, Path]:
        found = {}
        for seed in range(count):
            folder = models / f"{kind}-lora-{seed}"
            if not folder.is_dir():
                random_lora(writer(kind, models), folder, seed)
            found[f"a{seed}"] = folder
        return found

    return make
