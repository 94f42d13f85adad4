"""Techniques that peft implements: injected in place into the whole model, with the backbone's module names.

Injecting into the whole model (not the base alone) and naming every module keeps the file format that plain
`PeftModel.from_pretrained` reads, and never wraps a head by accident. The head is saved beside the adapter as
peft's `modules_to_save`.

The model is changed by peft's tuner class itself, which is kept: methods such as VeRA and VB-LoRA hold tensors that
several modules share, and those are saved from there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from tunesmith.errors import ArtifactError, TechniqueError
from tunesmith.models.backbone import Backbone
from tunesmith.models.quantization import is_quantized
from tunesmith.techniques._base import Technique, inside, load_tensors
from tunesmith.techniques._layers import within

ADAPTER = "default"
PREFIX = "base_model.model."
TASK_TYPES = (
    ("ForSequenceClassification", "SEQ_CLS"),
    ("ForTokenClassification", "TOKEN_CLS"),
    ("ForQuestionAnswering", "QUESTION_ANS"),
    ("ForCausalLM", "CAUSAL_LM"),
    ("LMHeadModel", "CAUSAL_LM"),
    ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
)
ROLE_WORDS = {
    "all-linear": (),
    "attention": ("q", "k", "v", "qkv", "o"),
    "feed-forward": ("up", "down"),
    "q": ("q",), "k": ("k",), "v": ("v",), "qkv": ("qkv",), "o": ("o",), "up": ("up",), "down": ("down",), "state": ("state",),
}  # fmt: skip


def task_type(model: Any) -> str | None:
    """Peft's name for what a model class is for."""
    name = type(model).__name__
    return next((kind for ending, kind in TASK_TYPES if name.endswith(ending)), None)


def find_targets(
    backbone: Backbone, words: list[str], layers: list[tuple[str, torch.nn.Module]] | None = None
) -> dict[str, torch.nn.Module]:
    """Linear modules of the backbone chosen by role words or by (the end of) their names, in some of its layers (default: all).

    Raises:
        TechniqueError: a word matches nothing.
    """
    everything = {n: m for n, m in backbone.linears().items() if layers is None or within(n, layers)}
    chosen: dict[str, torch.nn.Module] = {}
    for word in words:
        if word in ROLE_WORDS:
            from tunesmith.models.backbone import role_of

            roles = ROLE_WORDS[word]
            # Fused projections answer to each of their parts.
            roles = (*roles, "qkv") if {"q", "k", "v"} & set(roles) else roles
            # A recurrent layer has no feed-forward network: what its state goes through stands in for it.
            roles = (*roles, "state") if "down" in roles else roles
            found = {n: m for n, m in everything.items() if not roles or role_of(n) in roles}
        else:
            found = {n: m for n, m in everything.items() if n == word or n.endswith(f".{word}")}
        if not found:
            few = "" if layers is None or len(layers) == len(backbone.layers) else f" in the last {len(layers)} layer"
            few += "s" if few and len(layers or ()) > 1 else ""
            names = sorted({n.rsplit(".", 1)[-1] for n in everything})
            raise TechniqueError(
                f"targets: `{word}` matches no linear module of {type(backbone.model).__name__}{few}; use a role "
                f"({', '.join(ROLE_WORDS)}) or a module name ({', '.join(names)})."
            )
        chosen.update(found)
    return {n: m for n, m in everything.items() if n in chosen}


class Shell(torch.nn.Module):
    """The module tree of a `PeftModel` (`base_model.model.*` and what the tuner shares), for peft's own state functions."""

    def __init__(self, tuner: Any) -> None:
        super().__init__()
        self.base_model = tuner
        self.peft_config = tuner.peft_config


class PeftTechnique(Technique):
    """Attach, save and load through peft; subclasses say which configuration."""

    saves: ClassVar[Literal["state", "peft", "model"]] = "peft"
    folds: ClassVar[bool] = True
    given: Any = None
    """A peft configuration to use as it stands, in place of the one that the options make (an adapter made elsewhere)."""
    adapter_name: str = ADAPTER

    @abstractmethod
    def peft_config(self, backbone: Backbone) -> Any:
        """The peft configuration, with full module names."""

    def attach(self, backbone: Backbone) -> None:
        """Inject, then freeze everything but the adapter and the head."""
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        self.config = self.peft_config(backbone) if self.given is None else self.given
        try:
            self.tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING[self.config.peft_type](
                backbone.model, self.config, adapter_name=ADAPTER
            )
        except (ValueError, NotImplementedError, TypeError, RuntimeError) as error:
            raise TechniqueError(f"`{self.name}` cannot act on {type(backbone.model).__name__}: {error}") from error
        for name, parameter in backbone.model.named_parameters():
            if backbone.in_head(name):
                parameter.requires_grad_(True)

    def export(self, backbone: Backbone, folder: Path, base_path: str) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors` as peft does, the head as modules_to_save."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        tensors = get_peft_model_state_dict(
            Shell(self.tuner), adapter_name=self.adapter_name, save_embedding_layers=False
        )
        tensors |= {f"{PREFIX}{name}": parameter for name, parameter in backbone.head_parameters()}
        config = deepcopy(self.config)
        config.base_model_name_or_path = base_path
        config.inference_mode = True
        config.task_type = task_type(backbone.model)
        if hasattr(config, "modules_to_save"):
            config.modules_to_save = list(backbone.head_names) or None
        config.save_pretrained(str(folder))
        save_file(
            {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in tensors.items()},
            str(folder / "adapter_model.safetensors"),
            metadata={"format": "pt"},
        )

    def restore(self, backbone: Backbone, folder: Path, *, without: Collection[str] = ()) -> None:
        """Load adapter and head from a folder that `export` wrote."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        saved = load_file(str(folder / "adapter_model.safetensors"))
        inner = {n.removeprefix(PREFIX): t for n, t in saved.items()}
        own = dict(backbone.model.named_parameters())
        if without:
            of_head = {n for n in inner if inside(n, without)}
        else:
            of_head = {n for n in inner if backbone.in_head(n)}
            load_tensors(own, {n: inner[n] for n in of_head}, {n for n, _ in backbone.head_parameters()}, folder)
        of_adapter = {n: t for n, t in saved.items() if n.removeprefix(PREFIX) not in of_head}
        try:
            result: Any = set_peft_model_state_dict(
                Shell(self.tuner),
                of_adapter,
                adapter_name=ADAPTER,
            )
        except (RuntimeError, KeyError, ValueError) as error:
            raise ArtifactError(
                f"the adapter in `{folder}` does not fit this model: {str(error).splitlines()[-1].strip()}"
            ) from error
        # A tensor that modules share has many names; one of them is enough.
        absent = set(result.missing_keys)
        named = Shell(self.tuner).named_parameters(remove_duplicate=False)
        loaded = {id(p) for n, p in named if n not in absent}
        missing = {n for n, p in own.items() if p.requires_grad and not backbone.in_head(n) and id(p) not in loaded}
        if missing or result.unexpected_keys:
            name = min(missing) if missing else result.unexpected_keys[0]
            raise ArtifactError(
                f"the adapter in `{folder}` does not fit this model (`{name}`); it was made for another one."
            )

    def merge(self, backbone: Backbone) -> None:
        """W' = W + what the adapter adds, for every adapted module, which goes back to its plain class."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        if is_quantized(backbone.model):
            raise ArtifactError(
                "nothing can be folded into quantised weights; they are stored as floating point first."
            )
        for name, module in list(backbone.model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge(safe_merge=True)
                parent, _, child = name.rpartition(".")
                setattr(backbone.model.get_submodule(parent), child, module.get_base_layer())
        if hasattr(backbone.model, "peft_config"):
            del backbone.model.peft_config
