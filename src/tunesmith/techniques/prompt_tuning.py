"""Prompt tuning: learned vectors stand in the input beside the embedded tokens (Lester et al. 2021, section 2).

    [CLS] p_1 ... p_k  x_1 ... x_T          k d parameters

The virtual positions are woven in on the way into the token-taking stack and taken out of its output, so that
token heads, span heads, poolers and generation see exactly the caller's positions. They stand before the first
real token of a row (after left padding) in a decoder, after the first token in an encoder (whose pooler reads
position 0), and in the encoder of an encoder-decoder.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from tunesmith.config import Options as BaseOptions
from tunesmith.errors import TechniqueError
from tunesmith.models.backbone import Backbone
from tunesmith.techniques._base import STATE_FILE, Technique
from tunesmith.techniques._prompt_files import fill, read, write, writes_text

CHILD = "tunesmith_prompt"
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")  # count from the padding index + 1


class Options(BaseOptions):
    """Options of prompt tuning."""

    length: int = Field(20, ge=1, description="k, the number of virtual tokens")
    init: Literal["vocabulary", "random", "text"] = Field("vocabulary", description="what the vectors start from")
    text: str = Field(
        "Classify the text:", description="the words that init=text starts from, repeated or cut to length"
    )


class Prompt(nn.Module):
    """The learned vectors, [k, d]."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(vectors)


class PromptTuning(Technique):
    """Soft prompts on hooks of the token-taking stack."""

    Options = Options
    default_learning_rate = 1e-2
    starts_as_identity: ClassVar[bool] = False

    def extra_positions(self, backbone: Backbone) -> int:
        """The prompt stands in the input."""
        return int(self.options.length)

    def attach(self, backbone: Backbone) -> None:
        """Freeze, register the vectors on the stack, weave them in."""
        backbone.freeze()
        stack = backbone.stack
        stack.add_module(CHILD, Prompt(self._start(backbone)))
        weaver = _Weaver(backbone)
        stack.register_forward_pre_hook(weaver.weave, with_kwargs=True)
        stack.register_forward_hook(weaver.unweave, with_kwargs=True)

    def _start(self, backbone: Backbone) -> torch.Tensor:
        """First values: rows of the embedding (as the model sees them), or noise of the same scale."""
        embedding, k = backbone.embedding, self.options.length
        device = embedding.weight.device
        with torch.no_grad():
            if self.options.init == "random":
                return torch.randn(k, embedding.weight.shape[1], device=device) * embedding.weight.float().std()
            if self.options.init == "text":
                if backbone.tokenizer is None:
                    raise TechniqueError("prompt-tuning.init=text needs the tokenizer; give tokenizer= with the model.")
                ids = backbone.tokenizer(self.options.text, add_special_tokens=False)["input_ids"]
                if not ids:
                    raise TechniqueError("prompt-tuning.text has no tokens; write at least one word.")
                chosen = torch.tensor([ids[i % len(ids)] for i in range(k)], device=device)
            else:
                size = backbone.model.config.get_text_config().vocab_size
                chosen = torch.randint(min(1000, size // 2), size, (k,)).to(
                    device
                )  # the first ids are special or unused
            return embedding(chosen).detach().float().clone()

    def export(self, backbone: Backbone, folder: Path, base_path: str) -> None:
        """Our own file, and for causal language models peft's beside it."""
        super().export(backbone, folder, base_path)
        if writes_text(backbone):
            write(backbone, folder, base_path, "prompt", getattr(backbone.stack, CHILD).weight, 1)

    def restore(self, backbone: Backbone, folder: Path) -> None:
        """From our own file, or from peft's where there is no other."""
        if (folder / STATE_FILE).is_file():
            super().restore(backbone, folder)
        else:
            fill(getattr(backbone.stack, CHILD).weight, read(folder), folder)

    def closed_form_count(self, backbone: Backbone) -> int:
        """K d."""
        return self.options.length * int(backbone.embedding.weight.shape[1])


class _Weaver:
    """Hooks that put the prompt into the stack's input and take its positions out of the output."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.causal = backbone.kind == "decoder"
        self.signature = inspect.signature(type(backbone.stack).forward)
        self.at: torch.Tensor | None = None
        self.length = 0

    def weave(
        self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        bound = dict(self.signature.bind_partial(stack, *args, **kwargs).arguments)
        bound.pop("self", None)
        for key in [k for k, p in self.signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]:
            bound.update(bound.pop(key, {}))
        ids, cache, mask = bound.get("input_ids"), bound.get("past_key_values"), bound.get("attention_mask")
        past = cache.get_seq_length() if cache is not None and hasattr(cache, "get_seq_length") else 0
        prompt = getattr(stack, CHILD).weight
        k = prompt.shape[0]
        if ids is None:
            raise TechniqueError("prompt tuning needs input_ids: call the model with token ids, not inputs_embeds.")
        rows, width = ids.shape
        if isinstance(mask, dict) or (mask is not None and mask.dim() != 2):
            raise TechniqueError(
                "prompt tuning needs a two-dimensional attention mask; a static or compiled cache is not supported."
            )
        seen = past - k if past else 0  # the caller's positions before this call
        if mask is None:
            mask = torch.ones(rows, seen + width, dtype=torch.long, device=ids.device)
        at = (mask != 0).int().argmax(1) + (0 if self.causal else 1)
        at = at.clamp(max=mask.shape[1])
        full = _insert(mask, torch.ones(rows, k, dtype=mask.dtype, device=mask.device), at)
        if past == 0:
            embedded = self.backbone.embedding(ids)
            bound["inputs_embeds"] = _insert(embedded, prompt.to(embedded.dtype).expand(rows, -1, -1), at)
            bound["input_ids"] = None
            self.at, self.length = at, k
            types = bound.get("token_type_ids")
            if types is not None:
                bound["token_type_ids"] = _insert(types, types[:, :1].expand(rows, k), at)
            bound.pop("cache_position", None)
        else:
            self.at = None
        bound["attention_mask"] = full
        if "position_ids" in self.signature.parameters:
            bound["position_ids"] = self._positions(full)[:, -(width + (k if past == 0 else 0)) :]
        return (), bound

    def _positions(self, mask: torch.Tensor) -> torch.Tensor:
        counted = (mask.cumsum(1) - 1).clamp(min=0)
        config = self.backbone.model.config
        if getattr(config, "model_type", "") in OFFSET_POSITIONS:
            return torch.where(mask != 0, counted + config.pad_token_id + 1, config.pad_token_id)
        return counted

    def unweave(self, stack: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if self.at is None:
            return output
        at, k = self.at, self.length
        self.at = None
        if isinstance(output, tuple):
            return (_remove(output[0], at, k), *output[1:])
        output["last_hidden_state"] = _remove(output["last_hidden_state"], at, k)
        if output.get("hidden_states") is not None:
            output["hidden_states"] = tuple(_remove(states, at, k) for states in output["hidden_states"])
        return output


def _insert(table: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """[rows, T, ...] and [rows, k, ...] as [rows, T + k, ...], the new part of row i starting at at[i]."""
    k, width = new.shape[1], table.shape[1]
    place = torch.arange(width + k, device=table.device)[None, :]
    offset = place - at[:, None]
    source = torch.where(offset < 0, place, torch.where(offset < k, width + offset, place - k))
    return _pick(torch.cat([table, new], 1), source)


def _remove(table: torch.Tensor, at: torch.Tensor, k: int) -> torch.Tensor:
    """Undo `_insert`: [rows, T + k, ...] as [rows, T, ...]."""
    place = torch.arange(table.shape[1] - k, device=table.device)[None, :]
    return _pick(table, torch.where(place < at[:, None], place, place + k))


def _pick(table: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    if table.dim() == 2:
        return table.gather(1, source)
    return table.gather(1, source[:, :, None].expand(-1, -1, table.shape[2]))
