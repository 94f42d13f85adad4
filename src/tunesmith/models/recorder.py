"""What a forward pass computes beside logits: the states after every layer, and who attends to whom.

    stack 0 (encoder)   states  [embeddings, layer 1, ..., layer L], each [B, T, d]     maps  [layer 1, ..., layer L], each [B, heads, T, T]
    stack 1 (decoder)   likewise

transformers' `output_attentions` needs `attn_implementation="eager"`, which changes what is computed, and gives maps after dropout.
Here the model computes as always, through whatever attention it was set to, and each map is worked out a second time from the
queries and keys that the attention function is handed (all architectures go through transformers' attention interface):

    map = softmax(Q K^T scale + bias + mask)                        no dropout, keys that a technique adds left out

States are recorded by hooks on the layers, which every architecture has, recurrent ones too.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.models.backbone import Backbone

MAPS = "tunesmith_maps::"
"""Before the name of the attention function that computes the output."""
SINK = "tunesmith_recorder"
CROSS = re.compile(r"cross|encoder_attn|EncDec", re.IGNORECASE)


class Recorder:
    """Records a model's states and maps of its last forward pass, from `install` to `remove`.

    Attributes:
        states: for every stack of layers, the layers' input and each one's output.
        maps: for every stack, each layer's attention among its own positions.
    """

    def __init__(self, backbone: Backbone, wanted: set[str]) -> None:
        self.backbone, self.wanted = backbone, set(wanted)
        stacks: dict[str, list[nn.Module]] = {}
        for name, layer in backbone.named_layers():
            stacks.setdefault(name.rpartition(".")[0], []).append(layer)
        self.layers = list(stacks.values())
        self.states: list[list[torch.Tensor]] = [[] for _ in self.layers]
        self.maps: list[list[torch.Tensor]] = [[] for _ in self.layers]
        self.handles: list[Any] = []
        self.before: str | None = None

    @property
    def depths(self) -> list[int]:
        """Layers of every stack."""
        return [len(layers) for layers in self.layers]

    def install(self) -> Recorder:
        """Begin to record.

        Raises:
            ModelError: maps are wanted of a model that has none.
        """
        for stack, layers in enumerate(self.layers):
            self.handles.append(layers[0].register_forward_pre_hook(self._begin(stack), with_kwargs=True))
            for layer in layers if "hidden_states" in self.wanted else ():
                self.handles.append(layer.register_forward_hook(self._end(stack)))
        if "attentions" in self.wanted:
            self._watch_attention()
        return self

    def remove(self) -> None:
        """Record no more, and let the attention function be what it was."""
        for handle in self.handles:
            handle.remove()
        self.handles = []
        if self.before is not None:
            self.backbone.model.set_attn_implementation(self.before)
            self.before = None
        for layers in self.layers:
            for layer in layers:
                for module in layer.modules():
                    module.__dict__.pop(SINK, None)

    def _begin(self, stack: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            first = args[0] if args else kwargs["hidden_states"]
            self.states[stack], self.maps[stack] = [first], []

        return hook

    def _end(self, stack: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.states[stack].append(output[0] if isinstance(output, tuple) else output)

        return hook

    def _watch_attention(self) -> None:
        model = self.backbone.model
        current = getattr(model.config, "_attn_implementation", None)
        if self.backbone.recurrent or current is None:
            raise ModelError(
                f"{type(model).__name__} has no attention, so there are no attention maps to learn from; set distillation.attention=0 "
                "and use distillation.hidden."
            )
        name = current if str(current).startswith(MAPS) else f"{MAPS}{current}"
        _register(name)
        self.before = current
        model.set_attn_implementation(name)
        for stack, layers in enumerate(self.layers):
            for layer in layers:
                for path, module in layer.named_modules():
                    if not CROSS.search(
                        path
                    ):  # what a decoder sees of an encoder is no attention among its own positions
                        module.__dict__[SINK] = (self, stack)


def _register(name: str) -> None:
    """An attention function that leaves maps behind, and computes its output by the one that it is named after."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    inner = name.removeprefix(MAPS)

    def attention(module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        sink = module.__dict__.get(SINK)
        if sink is not None and query.shape[2] == key.shape[2]:
            sink[0].maps[sink[1]].append(attention_map(module, query, key, attention_mask, **kwargs))
        return ALL_ATTENTION_FUNCTIONS[inner](module, query, key, value, attention_mask, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, sdpa_mask)


def attention_map(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> torch.Tensor:
    """Probabilities of each query over the keys, [B, heads, Tq, Tk], in fp32.

    Args:
        module: the attention module, which knows whether it looks ahead.
        query: [B, heads, Tq, width].
        key: [B, key heads, Tk, width]; a key head serves several query heads where there are fewer (Ainslie et al. 2023).
        mask: None, boolean (True = visible) or additive.
        scaling: of the scores (default: one over the root of the width).
        position_bias: additive (T5).
        is_causal: whether a position sees only earlier ones, where no mask says so.
    """
    groups = query.shape[1] // key.shape[1]
    scores = query.float() @ key.float().repeat_interleave(groups, 1).transpose(-1, -2)
    scores = scores * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    if position_bias is not None:
        scores = scores + position_bias.float()
    causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
    if mask is None and causal and query.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()[None, None]
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask.float()
    return scores.softmax(-1)
