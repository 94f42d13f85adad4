"""Soft prompts and prefixes of causal language models as files that plain peft opens.

peft's file holds one tensor, `prompt_embeddings`: the prompt [k, d], or the prefix [k, layers x 2 x heads x width] with the key
before the value in each layer. It fits where the model has its own language-model head: with a task's head, peft would
show the head other positions than ours does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from tunesmith.errors import ArtifactError
from tunesmith.models.backbone import Backbone


def writes_text(backbone: Backbone) -> bool:
    """Whether the model is a decoder with its language-model head, for which peft's prompts mean the same as ours."""
    named = type(backbone.model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    return backbone.kind == "decoder" and named and not backbone.head_names


def read(folder: Path) -> torch.Tensor:
    """The table of a file that peft wrote.

    Raises:
        ArtifactError: there is none in it.
    """
    from safetensors.torch import load_file

    table = load_file(str(folder / "adapter_model.safetensors")).get("prompt_embeddings")
    if table is None:
        raise ArtifactError(f"`{folder}` holds no `prompt_embeddings`; it was made by another method or is damaged.")
    return table


def fill(parameter: torch.nn.Parameter, table: torch.Tensor, folder: Path) -> None:
    """Copy a table into the parameter that stands for it.

    Raises:
        ArtifactError: it has another shape.
    """
    if parameter.shape != table.shape:
        raise ArtifactError(
            f"`{folder}`: `prompt_embeddings` has shape {tuple(table.shape)} where the model has {tuple(parameter.shape)}; it was made for another."
        )
    with torch.no_grad():
        parameter.copy_(table)


def write(
    backbone: Backbone, folder: Path, base_path: str, kind: Literal["prompt", "prefix"], table: torch.Tensor, heads: int
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        backbone: of a causal language model.
        folder: the artifact.
        base_path: what transformers opens as the base model.
        kind: prompt or prefix.
        table: [k, width].
        heads: key-value heads of a layer.
    """
    from peft import PrefixTuningConfig, PromptTuningConfig
    from safetensors.torch import save_file

    layers = len(backbone.layers)
    width = table.shape[1] if kind == "prompt" else table.shape[1] // (2 * layers)
    shared: dict[str, Any] = {
        "task_type": "CAUSAL_LM", "num_virtual_tokens": table.shape[0], "token_dim": width, "num_layers": layers,
        "num_attention_heads": heads, "num_transformer_submodules": 1, "base_model_name_or_path": base_path, "inference_mode": True,
    }  # fmt: skip
    config = PromptTuningConfig(**shared) if kind == "prompt" else PrefixTuningConfig(**shared)
    config.save_pretrained(str(folder))
    tensors = {"prompt_embeddings": table.detach().float().cpu().contiguous().clone()}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
