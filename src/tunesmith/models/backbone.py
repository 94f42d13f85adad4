"""Backbone and head are roles of one unmodified transformers model, found here once.

    model (AutoModelFor...)
      |- base      the backbone: what a technique acts on
      |    |- stack    the part that takes the tokens (the encoder of T5 and BART, else the base itself)
      |    |- layers   the repeated blocks, in order
      |    `- pooler   head, if the checkpoint did not bring it (BERT from a masked-LM checkpoint)
      `- classifier, score, ...   the head: what the task owns

The model is never wrapped: wrapping loses weights on save and breaks `generate`. A technique attaches with
hooks or by replacing single modules inside the base.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from tunesmith.errors import ModelError

Role = Literal["q", "k", "v", "qkv", "o", "up", "down", "state", "other"]

# The end of a module's dotted path decides its role; the first rule that matches wins. `attention.output.dense`
# must stand before the feed-forward `output.dense` of BERT-like models.
ROLES: tuple[tuple[Role, str], ...] = (
    ("qkv", r"(Wqkv|c_attn|qkv_proj|query_key_value|in_proj)"),
    ("q", r"(query|q_proj|q_lin|q|q_attn|query_proj)"),
    ("k", r"(key|k_proj|k_lin|k|key_proj)"),
    ("v", r"(value|v_proj|v_lin|v|value_proj)"),
    ("o", r"(\w*attention\.output\.dense|\w*att(n|ention)\.(Wo|c_proj|dense)|o_proj|out_proj|out_lin|o)"),
    ("up", r"(intermediate\.dense|mlp\.(Wi|c_fc)|gate_proj|up_proj|gate_up_proj|lin1|wi|wi_0|wi_1|fc1|dense_h_to_4h)"),
    ("state", r"(state_proj)"),  # of a recurrent layer, whose map of the input is its `in_proj`
    ("down", r"(output\.dense|mlp\.(Wo|c_proj)|down_proj|lin2|wo|fc2|dense_4h_to_h)"),
)
ROLE_PATTERNS = tuple((role, re.compile(rf"(?:^|.*\.){pattern}$")) for role, pattern in ROLES)
# Modules of the backbone that are not part of a repeated block and are never adapted by default.
BASE_PARTS = frozenset({"shared", "encoder", "decoder"})
EMBEDS = re.compile(r"(^|\.)\w*embed\w*(\.|$)")
OUTSIDE_BLOCKS = re.compile(r"(^|\.)(embeddings?|pooler|lm_head|shared|wte|wpe|embed_tokens|project_(in|out))(\.|$)")


def role_of(name: str) -> Role:
    """The role of a linear module by its dotted name."""
    for role, pattern in ROLE_PATTERNS:
        if pattern.match(name):
            return role
    return "other"


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a weight matrix: `nn.Linear` (and its quantised kin) or GPT-2's `Conv1D`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def dimensions(module: nn.Module) -> tuple[int, int]:
    """(input, output) width of a linear module; Conv1D stores its weight transposed."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight: Any = module.weight
    return int(weight.shape[0]), int(weight.shape[1])


@dataclass
class Backbone:
    """A model seen as backbone and head.

    Attributes:
        model: the whole transformers model, unmodified.
        reads: whether the head reads one vector a row ("sequence") or one a token ("tokens").
        fresh: dotted names of parameters that the checkpoint did not bring.
        tokenizer: the model's tokenizer, where one is known.
        owns_head: whether the head belongs to the task and learns; else the output layer is part of the model (`output_names`).
    """

    model: Any
    reads: Literal["sequence", "tokens"] = "sequence"
    fresh: frozenset[str] = field(default_factory=frozenset)
    tokenizer: Any = None
    owns_head: bool = True

    def __post_init__(self) -> None:
        self.base_name = _base_name(self.model)
        outside = self._find_head()
        # An output layer that the checkpoint did not bring knows nothing yet: it learns like a task's own.
        self.head_names = tuple(name for name in outside if self.owns_head or self._is_fresh(name))
        self.output_names = tuple(name for name in outside if name not in self.head_names)

    @property
    def base(self) -> nn.Module:
        """The base model; the model itself where its class has no separate one (T5 for generation)."""
        return self.model.get_submodule(self.base_name) if self.base_name else self.model

    @property
    def kind(self) -> Literal["encoder", "decoder", "encoder-decoder"]:
        """What family of transformer it is."""
        config = self.model.config
        if getattr(config, "is_encoder_decoder", False) and _has_encoder(self.base):
            return "encoder-decoder"
        return "decoder" if self.causal else "encoder"

    @property
    def causal(self) -> bool:
        """Whether a position sees only earlier ones."""
        found = [m.is_causal for m in self.base.modules() if isinstance(getattr(m, "is_causal", None), bool)]
        return bool(found) and all(found) and not getattr(self.model.config, "use_bidirectional_attention", False)

    @property
    def recurrent(self) -> bool:
        """Whether the blocks are recurrent layers (`models.recurrent`): a state in place of attention."""
        return any(hasattr(layer, "first_state") for layer in self.layers)

    @property
    def stack(self) -> nn.Module:
        """The module that takes the caller's tokens."""
        if _has_encoder(self.base) and getattr(self.model.config, "is_encoder_decoder", False):
            return self.base.get_encoder() if hasattr(self.base, "get_encoder") else self.base.encoder  # type: ignore[operator,return-value]
        return self.base

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        config = self.model.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding."""
        return self.model.get_input_embeddings()

    @property
    def layers(self) -> list[nn.Module]:
        """The repeated blocks in order; encoder before decoder."""
        return [module for _, module in self.named_layers()]

    def named_layers(self) -> list[tuple[str, nn.Module]]:
        """The repeated blocks with their full names."""
        found: list[tuple[str, nn.Module]] = []
        for name, module in self.base.named_modules(prefix=self.base_name):
            inside = any(name.startswith(f"{outer}.") for outer, _ in found)
            if isinstance(module, nn.ModuleList) and not inside and any(is_linear(m) for m in module.modules()):
                found += [(f"{name}.{i}", layer) for i, layer in enumerate(module)]
        return found

    def linears(self, *roles: str) -> dict[str, nn.Module]:
        """Linear modules inside the repeated blocks by full name, those with one of `roles` (default: all).

        Raises:
            ModelError: nothing matches.
        """
        found = {}
        for prefix, layer in self.named_layers():
            inside: list[str] = []  # linear modules seen: what a technique added inside them is not the backbone's
            for name, module in layer.named_modules(prefix=prefix):
                if any(name.startswith(f"{outer}.") for outer in inside):
                    continue
                plain = getattr(module, "base_layer", module)  # under a peft layer
                if is_linear(plain):
                    inside.append(name)
                    if (not roles or role_of(name) in roles) and not OUTSIDE_BLOCKS.search(name):
                        found[name] = plain
        if not found:
            wanted = ", ".join(roles) or "any"
            raise ModelError(
                f"{type(self.model).__name__} has no linear module with role {wanted}; name the modules yourself in the technique's `targets`."
            )
        return found

    def head_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters of the head."""
        for name, parameter in self.model.named_parameters():
            if self.in_head(name):
                yield name, parameter

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters of the backbone."""
        for name, parameter in self.model.named_parameters():
            if not self.in_head(name):
                yield name, parameter

    def in_head(self, name: str) -> bool:
        """Whether a parameter or module name belongs to the head."""
        return any(name == head or name.startswith(f"{head}.") for head in self.head_names)

    def freeze(self) -> None:
        """Freeze the backbone; the head keeps learning."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.in_head(name))

    def layer_index(self, name: str) -> int:
        """Depth of a parameter: 0 for embeddings, 1..L for the blocks, L + 1 for the head and what follows the blocks."""
        layers = self.named_layers()
        for index, (prefix, _) in enumerate(layers, 1):
            if name == prefix or name.startswith(f"{prefix}."):
                return index
        inner = name.removeprefix(f"{self.base_name}.")
        early = (OUTSIDE_BLOCKS.search(inner) or EMBEDS.search(inner)) and "pooler" not in name
        return 0 if not self.in_head(name) and early else len(layers) + 1

    def _is_fresh(self, name: str) -> bool:
        own = {
            n for n, _ in self.model.named_parameters()
        }  # a weight shared with the embedding has the embedding's name
        return any(n.startswith(f"{name}.") and n in own for n in self.fresh)

    def _find_head(self) -> tuple[str, ...]:
        # Without a module of its own the base is what reads and writes; what stands beside it is the head.
        inside = {self.base_name.split(".")[0]} if self.base_name else BASE_PARTS
        outside = [
            name
            for name, child in self.model.named_children()
            if name not in inside and any(True for _ in child.parameters())
        ]
        # A part of the base that the checkpoint did not bring knows nothing: it learns with the head (BERT's
        # pooler on a masked-LM checkpoint).
        place = f"{self.base_name}.pooler"
        pooler = {place for name in self.fresh if name.startswith(f"{place}.")}
        return tuple(sorted({*outside, *pooler}))


def _has_encoder(base: nn.Module) -> bool:
    return hasattr(base, "encoder") and hasattr(base, "decoder")


def _base_name(model: Any) -> str:
    """Dotted name of the base model inside the model, "" where they are the same object."""
    prefix = getattr(model, "base_model_prefix", "")
    if prefix and isinstance(getattr(model, prefix, None), nn.Module):
        return prefix
    if {"encoder", "decoder"} <= {name for name, _ in model.named_children()}:
        return ""  # T5 for generation and question answering: the model is its own base
    # Classes whose attribute differs from the declared prefix (Llama and Qwen3 for QA use `transformer`).
    for name, child in model.named_children():
        if hasattr(child, "get_input_embeddings") and hasattr(child, "config"):
            return name
    return ""
