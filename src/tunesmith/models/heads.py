"""Several heads on one backbone: one transformers model a head, all holding the same base object.

    first model   AutoModelForSequenceClassification   base --+
    second        AutoModelForTokenClassification      base --+-- the same module, with whatever a technique hooked on it
    third         AutoModelForCausalLM                 base --+

Nothing is wrapped: each model stays a transformers model that runs, saves and generates by itself. The technique is attached
once, through the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.models.backbone import BASE_PARTS, Backbone
from tunesmith.models.load import Loaded, model_class

SEPARATOR = "::"
"""Between the name of a head and the name of a parameter that only its model has."""


class Heads:
    """Models by head name, the first of which a technique was attached to."""

    def __init__(self, name: str, loaded: Loaded) -> None:
        self.first = loaded
        self.loaded: dict[str, Loaded] = {name: loaded}
        self.columns: Any = None  # `models.columns.Columns`, where a strategy keeps one for every stage

    @property
    def model(self) -> Any:
        """The first model."""
        return self.first.model

    @property
    def backbone(self) -> Backbone:
        """The first model's view of the shared base."""
        return self.first.backbone

    def __getitem__(self, name: str) -> Loaded:
        """The model under a head."""
        return self.loaded[name]

    def __contains__(self, name: str) -> bool:
        return name in self.loaded

    def add(self, name: str, loaded: Loaded) -> Loaded:
        """Put a model of the same architecture on the shared base; its own base is dropped.

        Raises:
            ModelError: it is of another architecture.
        """
        share(self.first, loaded)
        self.loaded[name] = replace(
            loaded,
            backbone=Backbone(
                loaded.model, reads=loaded.backbone.reads, fresh=loaded.backbone.fresh, tokenizer=loaded.tokenizer,
                owns_head=loaded.backbone.owns_head,
            ),
        )  # fmt: skip
        return self.loaded[name]

    def place(self, name: str, task: Any, load: Callable[[], Loaded]) -> Loaded | None:
        """A head for a task: the language model's own output layer if that is what it reads, else a model of its own.

        Args:
            name: of the head.
            task: says which class it needs.
            load: opens the pretrained model under the task's head.

        Returns:
            The new model; None where one that is there serves.
        """
        wanted = task.model_class(self.model.config)
        for other in self.loaded.values():
            if not task.owns_head and not other.backbone.owns_head:
                same = model_class(wanted, other.model.config)._model_mapping[type(other.model.config)]
                if isinstance(other.model, same):
                    task.bind(other.model, other.tokenizer, other.backbone.kind)
                    self.loaded[name] = other
                    return None
        return self.add(name, load())

    def to(self, device: torch.device) -> None:
        """Move every model, and the columns, which are no model's parameters."""
        for loaded in self.loaded.values():
            loaded.model.to(device)
        if self.columns is not None:
            self.columns.to(device)

    def grow(self, name: str, task: Any, load: Callable[[], Loaded]) -> None:
        """Give a head as many outputs as its task has labels by now; the rows of known labels stay what they are."""
        loaded = self.loaded[name]
        wanted = task.config_overrides()
        if not loaded.backbone.owns_head or wanted.get("num_labels", 0) in (0, loaded.model.config.num_labels):
            return
        larger = load()
        for head in loaded.backbone.head_names:
            place = larger.model.get_submodule(head)
            old = dict(loaded.model.get_submodule(head).named_parameters())
            learning = any(p.requires_grad for p in old.values())
            with torch.no_grad():
                for parameter_name, parameter in place.named_parameters():
                    known = old[parameter_name]
                    parameter[tuple(slice(0, n) for n in known.shape)] = known
                    parameter.requires_grad_(learning)
            loaded.model.set_submodule(head, place)
        for key, value in wanted.items():
            setattr(loaded.model.config, key, value)
        if hasattr(loaded.model, "num_labels"):
            loaded.model.num_labels = wanted["num_labels"]

    def rest(self, used: Iterable[str]) -> list[nn.Parameter]:
        """Stop every head that is not in use from learning; returns what was stopped."""
        wanted = set(used)
        busy = {id(p) for name in wanted for _, p in self.loaded[name].backbone.head_parameters()}
        stopped = []
        for name, loaded in self.loaded.items():
            for _, parameter in loaded.backbone.head_parameters() if name not in wanted else ():
                if id(parameter) not in busy and parameter.requires_grad:
                    parameter.requires_grad_(False)
                    stopped.append(parameter)
        return stopped

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter once: those of the first model under their own names, further ones as `HEAD::name`."""
        seen: set[int] = set()
        for head, loaded in self.loaded.items():
            for name, parameter in loaded.model.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (name if loaded is self.first else f"{head}{SEPARATOR}{name}"), parameter

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def modules(self) -> Iterator[nn.Module]:
        """Every module once."""
        seen: set[int] = set()
        for module in (module for loaded in self.loaded.values() for module in loaded.model.modules()):
            if id(module) not in seen:
                seen.add(id(module))
                yield module

    def fresh(self, head: str) -> set[str]:
        """Names of the parameters of a head that no checkpoint brought, as `named_parameters` has them."""
        backbone = self.loaded[head].backbone
        new = {id(parameter) for name, parameter in backbone.head_parameters() if name in backbone.fresh}
        return {name for name, parameter in self.named_parameters() if id(parameter) in new}

    def further(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that the first model does not have."""
        for name, parameter in self.named_parameters():
            if SEPARATOR in name:
                yield name, parameter


def can_share(donor: Loaded, other: Loaded) -> bool:
    """Whether a model's base can be replaced by another's: the same class, or every part of it is there by name."""
    mine, theirs = donor.backbone.base, other.backbone.base
    if type(mine) is type(theirs) and other.backbone.base_name:
        return True
    parts = [name for name, _ in theirs.named_children() if name in BASE_PARTS]
    return mine is theirs or (bool(parts) and all(getattr(mine, name, None) is not None for name in parts))


def share(donor: Loaded, other: Loaded) -> None:
    """Replace the base of `other` by the donor's, module by module where a class is its own base (T5 for generation)."""
    mine, theirs = donor.backbone.base, other.backbone.base
    if mine is theirs:
        return
    for name, child in theirs.named_children():  # a pooler that the donor's class leaves out
        if getattr(mine, name, None) is None and donor.backbone.base_name and other.backbone.base_name:
            setattr(mine, name, child)
    if type(mine) is type(theirs) and other.backbone.base_name:
        other.model.set_submodule(other.backbone.base_name, mine)
    else:
        parts = [name for name, _ in theirs.named_children() if name in BASE_PARTS]
        if not parts or any(getattr(mine, name, None) is None for name in parts):
            raise ModelError(
                f"a head of {type(other.model).__name__} cannot stand on the backbone of {type(donor.model).__name__}: they share no base."
            )
        for name in parts:
            setattr(theirs, name, getattr(mine, name))
    if not other.backbone.owns_head:
        other.model.tie_weights()
