"""What the doctor needs of a model: its tokenizer, its shape and the task bound to it, and no weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tunesmith.config import RunConfig, is_new
from tunesmith.data.sources import Rows
from tunesmith.errors import TechniqueError
from tunesmith.models import new
from tunesmith.models.backbone import Backbone
from tunesmith.models.load import Loaded, Source, load_model, load_tokenizer, locate, model_class


def open_without_weights(config: RunConfig, task: Any, train: Rows) -> Loaded:
    """The model with empty weights under a task's head, and its tokenizer.

    A model that cannot be made empty (it brings code of its own) is opened as a run would, and one that a run would make from
    nothing is made, and thrown away.

    Args:
        config: names the model.
        task: fitted.
        train: the rows that a new model's tokenizer is made from.

    Raises:
        ModelError: it cannot be opened at all, or the task makes no sense on it.
    """
    import torch
    import transformers

    if is_new(config.model):
        with tempfile.TemporaryDirectory() as folder:
            made = new.source_of(config, task, train, Path(folder))
            return load_model(made, load_tokenizer(made), task)
    source = locate(config.model)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    if config.trust_remote_code:
        return load_model(source, tokenizer, task, trust_remote_code=True)
    try:
        shape = transformers.AutoConfig.from_pretrained(source.path)
    except Exception:  # load_model says in a sentence what is wrong
        return load_model(source, tokenizer, task)
    for key, value in {**task.config_overrides(), "pad_token_id": tokenizer.pad_token_id}.items():
        setattr(shape, key, value)
    chosen = model_class(task.model_class(shape), shape)
    try:
        with torch.device("meta"):
            model = chosen.from_config(shape)
    except (RuntimeError, NotImplementedError):  # a model that computes with its weights while it is made
        return load_model(source, tokenizer, task)
    _read_generation(model, source)
    backbone = Backbone(model, reads=task.reads, tokenizer=tokenizer)
    task.bind(model, tokenizer, backbone.kind)
    return Loaded(model, tokenizer, backbone, source)


def _read_generation(model: Any, source: Source) -> None:
    """The end tokens that the checkpoint writes with, which `from_config` does not read."""
    from transformers import GenerationConfig

    try:
        model.generation_config = GenerationConfig.from_pretrained(source.path)
    except (OSError, ValueError):
        return


def learning_parameters(technique: Any, backbone: Backbone) -> int | None:
    """How many parameters a technique would train, head included; None where it does not say or does not fit."""
    try:
        return int(technique.closed_form_count(backbone)) + sum(p.numel() for _, p in backbone.head_parameters())
    except (TechniqueError, RuntimeError, NotImplementedError, AttributeError):
        return None
