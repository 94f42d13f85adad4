"""Prefix tuning: learned keys and values that every attention layer sees besides its own (Li & Liang 2021, section 4).

    attention(q, [P_k; k], [P_v; v])        2 k L n_kv d_head parameters in all

Keys and values join inside the attention function, so hidden states keep the caller's positions on encoders,
decoders and cross-attention alike, and the generation cache is untouched. With `reparametrization` the prefix is
trained as the output of a small network over an embedding (section 4.3), which steadies training; only its result
is saved.

A recurrent layer has no keys: what it sees before the text is its first state, and that is what the prefix is then, one
vector for each state of each direction of a layer, whatever `length` says.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from tunesmith.config import Options as BaseOptions
from tunesmith.errors import TechniqueError
from tunesmith.models.backbone import Backbone
from tunesmith.techniques._base import STATE_FILE, Technique
from tunesmith.techniques._prompt_files import fill, read, write, writes_text

CHILD = "tunesmith_prefix"
ATTENTION = "tunesmith_prefix"
PROBE = "tunesmith_probe"


class Options(BaseOptions):
    """Options of prefix tuning."""

    length: int = Field(20, ge=1, description="k, the number of virtual positions of every layer")
    reparametrization: bool = Field(False, description="train the prefix through a two-layer network")
    hidden: int = Field(256, ge=1, description="inner width of that network")


class Prefix(nn.Module):
    """What all layers see before the text, [k, sum of the sites' sizes]."""

    def __init__(self, sizes: list[int], length: int, hidden: int | None) -> None:
        super().__init__()
        self.sizes, self.length = sizes, length
        if hidden is None:
            self.weight = nn.Parameter(torch.randn(length, sum(sizes)) * 0.02)
        else:
            self.embedding = nn.Parameter(torch.randn(length, hidden))
            self.network = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, sum(sizes)))

    def flat(self) -> torch.Tensor:
        """Everything, [k, sum of sizes]."""
        return self.weight if hasattr(self, "weight") else self.network(self.embedding)


@dataclass(frozen=True)
class Attention:
    """An attention module, which sees keys and values, [k, 2 heads width]."""

    module: nn.Module
    heads: int
    width: int

    @property
    def size(self) -> int:
        """Numbers a position."""
        return 2 * self.heads * self.width

    def hand(self, part: torch.Tensor) -> None:
        """Give the module its (keys, values), [heads, k, width] each."""
        keys, values = part.view(len(part), 2, self.heads, self.width).permute(1, 2, 0, 3)
        object.__setattr__(self.module, "tunesmith_pair", (keys, values))


@dataclass(frozen=True)
class Recurrence:
    """A recurrent layer, which starts from a state, [1, directions states width]."""

    module: Any

    @property
    def size(self) -> int:
        """Numbers in its first state."""
        return math.prod(self.module.state_shape)

    def hand(self, part: torch.Tensor) -> None:
        """Give the layer its first state."""
        self.module.first_state = part.view(self.module.state_shape)


class PrefixTuning(Technique):
    """Learned keys and values through the attention interface."""

    Options = Options
    default_learning_rate = 2e-2
    starts_as_identity: ClassVar[bool] = False

    def attach(self, backbone: Backbone) -> None:
        """Freeze, find the attention modules with one probe, switch the attention function."""
        backbone.freeze()
        recurrent = backbone.recurrent
        self.sites: list[Any] = [Recurrence(m) for m in backbone.layers] if recurrent else find_attention(backbone)
        hidden = self.options.hidden if self.options.reparametrization else None
        prefix = Prefix([site.size for site in self.sites], 1 if recurrent else self.options.length, hidden)
        backbone.base.add_module(CHILD, prefix.to(backbone.embedding.weight.device))
        for stack, places in self._stacks(backbone):
            stack.register_forward_pre_hook(_Spread(prefix, self.sites, places))
        if recurrent:
            return
        if writes_text(backbone):
            backbone.base.register_forward_pre_hook(_Shift(self.options.length), with_kwargs=True)
        _register()
        backbone.model.set_attn_implementation(ATTENTION)

    def _stacks(self, backbone: Backbone) -> list[tuple[nn.Module, list[int]]]:
        """Modules that run on their own, each with the places of the sites inside it: generation calls an encoder before its decoder."""
        base: Any = backbone.base
        stacks = [base]
        if backbone.kind == "encoder-decoder":
            stacks = [
                getattr(base, "get_encoder", lambda: base.encoder)(),
                getattr(base, "get_decoder", lambda: base.decoder)(),
            ]
        inside = [{id(module) for module in stack.modules()} for stack in stacks]
        return [
            (stack, [i for i, site in enumerate(self.sites) if id(site.module) in members])
            for stack, members in zip(stacks, inside, strict=True)
        ]

    def extra_positions(self, backbone: Backbone) -> int:
        """A causal language model counts its positions from behind the prefix, as peft does."""
        return int(self.options.length) if writes_text(backbone) and not backbone.recurrent else 0

    def export(self, backbone: Backbone, folder: Path, base_path: str) -> None:
        """Our own file, and for causal language models peft's beside it."""
        super().export(backbone, folder, base_path)
        prefix: Any = getattr(backbone.base, CHILD)
        if writes_text(backbone) and not backbone.recurrent and len(set(prefix.sizes)) == 1:
            write(backbone, folder, base_path, "prefix", prefix.flat(), self.sites[0].heads)

    def state(self, backbone: Backbone) -> dict[str, torch.Tensor]:
        """The prefix itself in place of the network that makes it."""
        saved = super().state(backbone)
        name = f"{backbone.base_name}.{CHILD}" if backbone.base_name else CHILD
        kept = {n: t for n, t in saved.items() if not n.startswith(f"{name}.")}
        return {**kept, f"{name}.weight": backbone.model.get_submodule(name).flat().detach()}

    def restore(self, backbone: Backbone, folder: Path, *, without: Collection[str] = ()) -> None:
        """Load into a plain prefix, whether it was trained through the network or not."""
        prefix: Any = getattr(backbone.base, CHILD)
        if not hasattr(prefix, "weight"):
            size = sum(prefix.sizes)
            del prefix.embedding, prefix.network
            prefix.weight = nn.Parameter(torch.zeros(prefix.length, size))
        if (folder / STATE_FILE).is_file():
            super().restore(backbone, folder, without=without)
        else:  # peft's file, where there is no other
            fill(prefix.weight, read(folder), folder)

    def closed_form_count(self, backbone: Backbone) -> int:
        """2 k n_kv d_head a site (the state's size in a recurrent layer), or the size of the reparametrising network."""
        prefix: Any = getattr(backbone.base, CHILD)
        total, k, h = sum(prefix.sizes), prefix.length, self.options.hidden
        if not self.options.reparametrization:
            return k * total
        return k * h + h * h + h + h * total + total


def find_attention(backbone: Backbone) -> list[Attention]:
    """Attention modules in calling order with their key-value heads and head width, from one forward pass.

    Raises:
        TechniqueError: the model does not use the attention interface.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    found: dict[int, Attention] = {}

    def probe(
        module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        found.setdefault(id(module), Attention(module, key.shape[1], key.shape[3]))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **kwargs)

    model = backbone.model
    before, training = model.config._attn_implementation, model.training
    ALL_ATTENTION_FUNCTIONS.register(PROBE, probe)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PROBE, sdpa_mask)
    try:
        model.set_attn_implementation(PROBE)
        model.eval()
        ids = torch.tensor(
            [[model.config.get_text_config().eos_token_id or 1] * 3], device=backbone.embedding.weight.device
        )
        ids = ids if ids.dtype == torch.long else torch.ones_like(ids, dtype=torch.long)
        with torch.no_grad():
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if backbone.kind == "encoder-decoder" and not hasattr(model, "classification_head"):
                inputs["decoder_input_ids"] = ids
            model(**inputs)
    finally:
        model.set_attn_implementation(before)
        model.train(training)
    if not found:
        raise TechniqueError(
            f"prefix-tuning needs attention layers, and {type(model).__name__} has none that use transformers' attention interface."
        )
    return list(found.values())


class _Shift:
    """Pre-hook of a decoder: positions are counted from behind the prefix."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, base: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positions, cache = kwargs.get("position_ids"), kwargs.get("past_key_values")
        if positions is None:
            ids = args[0] if args else kwargs.get("input_ids")
            if ids is None:
                ids = kwargs["inputs_embeds"]
            past = cache.get_seq_length() if cache is not None else 0
            positions = torch.arange(past, past + ids.shape[1], device=ids.device)[None]
        return args, {**kwargs, "position_ids": positions + self.length}


class _Spread:
    """Pre-hook of a stack: hands each site inside it its part of the prefix for this pass."""

    def __init__(self, prefix: Prefix, sites: list[Any], places: list[int]) -> None:
        self.prefix, self.sites, self.places = prefix, sites, places

    def __call__(self, stack: nn.Module, inputs: Any) -> None:
        parts = self.prefix.flat().split(self.prefix.sizes, dim=1)
        for place in self.places:
            self.sites[place].hand(parts[place])


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, prefix_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)


def prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Scaled dot-product attention over the module's prefix and the keys it was given.

    Args:
        module: the attention module, which holds its prefix pair ([heads, k, width] each).
        query: [rows, heads, Tq, width].
        key: [rows, kv heads, Tk, width].
        value: [rows, kv heads, Tk, width].
        attention_mask: None, boolean (True = visible) or additive, [rows or 1, 1 or heads, Tq, Tk].
        position_bias: additive, of the same shape (T5).
        is_causal: whether the mask may be left to the kernel.
        **kwargs: passed on to transformers' own function.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
    pair = getattr(module, "tunesmith_pair", None)
    if pair is None:
        return attention(
            module, query, key, value, attention_mask, is_causal=is_causal, position_bias=position_bias, **kwargs
        )
    n, rows = pair[0].shape[1], key.shape[0]
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    queries, keys = query.shape[2], key.shape[2]
    if attention_mask is None and causal and queries > 1:
        lower = torch.ones(queries, keys, dtype=torch.bool, device=key.device).tril(keys - queries)
        attention_mask = lower[None, None]
    if attention_mask is not None:
        visible = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = F.pad(attention_mask, (n, 0), value=visible)
    if position_bias is not None:
        position_bias = F.pad(position_bias, (n, 0))
    key = torch.cat([pair[0].to(key.dtype)[None].expand(rows, -1, -1, -1), key], 2)
    value = torch.cat([pair[1].to(value.dtype)[None].expand(rows, -1, -1, -1), value], 2)
    return attention(module, query, key, value, attention_mask, is_causal=False, position_bias=position_bias, **kwargs)
