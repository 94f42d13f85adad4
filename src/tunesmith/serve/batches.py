"""Rows that a model continues by one token at a time; a row may join or leave between any two steps.

`Together` runs its rows in one forward pass over a slotted cache. `Apart` gives every row a pass and a cache of its own, which is
right for whatever keeps something else than keys and values (recurrent layers, encoder-decoders).

    prefill(names, prompts) -> logits of the next token [n, V]      the new rows stand behind those that are there
    step(tokens)            -> logits of the next token [rows, V]   one token for each row
    drop(row)                                                       the last row takes its place
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tunesmith.serve.slots import SlotCache

Within = Callable[[Sequence[str | None]], AbstractContextManager[None]]
"""What a forward pass runs in, given the adapter of each of its rows."""


class Batch(Protocol):
    """What the engine needs of a batch."""

    names: list[str | None]
    """The adapter of each row."""
    intact: bool
    """Whether the rows that stand in it can go on: a prefill that fails before its rows join leaves them as they were."""

    def prefill(self, names: Sequence[str | None], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read prompts into new rows."""

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append a token to every row."""

    def drop(self, row: int) -> None:
        """Remove a row."""


def runs_together(model: Any) -> bool:
    """Whether all that a model keeps of a text is one key and one value a layer and token."""
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder or getattr(model, "_is_stateful", False):
        return False
    kinds = set(getattr(config, "layer_types", None) or ())
    shared = getattr(config, "num_kv_shared_layers", 0) or getattr(config, "kv_sharing_modes", None)
    return kinds <= {"full_attention", "sliding_attention"} and not shared


def batch_of(model: Any, within: Within) -> Batch:
    """The kind of batch that a model can stand in."""
    return Together(model, within) if runs_together(model) else Apart(model, within)


class Together:
    """One forward pass for all rows."""

    def __init__(self, model: Any, within: Within) -> None:
        self.model, self.within = model, within
        self.names: list[str | None] = []
        self.lengths: list[int] = []  # tokens that each row was given
        self.cache = SlotCache()
        self.intact = True
        self.extra = 0  # columns of the cache that are no such tokens: a soft prompt
        self.takes = _parameters(model)

    def prefill(self, names: Sequence[str | None], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read prompts, padded on the left, into a cache of their own, and take that over."""
        from transformers import DynamicCache

        lengths, device = [len(prompt) for prompt in prompts], self.model.device
        width = max(lengths)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[width - len(prompt) :] = torch.tensor(prompt)
        cache = DynamicCache()  # without the configuration: a sliding layer keeps all keys too
        mask = _right(lengths, width, device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(list(names), ids.to(device), mask, positions, cache)
        self.extra = cache.get_seq_length() - width
        self.intact = False
        self.cache.admit(cache, [length + self.extra for length in lengths])
        self.intact = True
        self.names += names
        self.lengths += lengths
        return logits

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """One column more."""
        device = self.model.device
        self.cache.reserve()
        ids, lengths = torch.tensor([tokens, self.lengths], device=device)
        width = self.cache.width - self.extra + 1
        mask = _right([length + 1 for length in self.lengths], width, device)
        logits = self._forward(self.names, ids[:, None], mask, lengths[:, None], self.cache)
        self.cache.advance()
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def drop(self, row: int) -> None:
        """Remove a row."""
        self.cache.drop(row)
        self.names[row], self.lengths[row] = self.names[-1], self.lengths[-1]
        self.names.pop()
        self.lengths.pop()

    def _forward(
        self, names: list[str | None], ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache, "use_cache": True}
        if "position_ids" in self.takes:
            inputs["position_ids"] = positions
        if "logits_to_keep" in self.takes:
            inputs["logits_to_keep"] = 1
        with self.within(names):
            logits: torch.Tensor = self.model(**inputs).logits[:, -1]
        return logits


@dataclass
class _Row:
    """What a row of `Apart` goes on from."""

    state: Any
    mask: torch.Tensor
    encoded: Any = None


class Apart:
    """A forward pass for each row, with whatever the model keeps of it."""

    def __init__(self, model: Any, within: Within) -> None:
        self.model, self.within = model, within
        self.names: list[str | None] = []
        self.rows: list[_Row] = []
        self.intact = True
        self.takes = _parameters(model)

    def prefill(self, names: Sequence[str | None], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read each prompt; an encoder-decoder encodes it and starts to write."""
        found = []
        for name, prompt in zip(names, prompts, strict=True):
            ids = torch.tensor([list(prompt)], device=self.model.device)
            mask = torch.ones_like(ids)
            with self.within([name]):
                if self.model.config.is_encoder_decoder:
                    encoded = self.model.get_encoder()(input_ids=ids, attention_mask=mask)
                    row = _Row(None, mask, encoded)
                    ids = torch.full((1, 1), self._first(), device=ids.device)
                else:
                    row = _Row(None, mask[:, :0])
                found.append(self._forward(row, ids))
            self.rows.append(row)
            self.names.append(name)
        return torch.cat(found)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """A pass for each row."""
        found = []
        for name, row, token in zip(self.names, self.rows, tokens, strict=True):
            with self.within([name]):
                found.append(self._forward(row, torch.tensor([[token]], device=self.model.device)))
        return torch.cat(found)

    def drop(self, row: int) -> None:
        """Remove a row."""
        self.names[row], self.rows[row] = self.names[-1], self.rows[-1]
        self.names.pop()
        self.rows.pop()

    def _first(self) -> int:
        """The token that an encoder-decoder starts from."""
        chosen = self.model.generation_config.decoder_start_token_id
        chosen = chosen if chosen is not None else getattr(self.model.config, "decoder_start_token_id", None)
        return int(chosen if chosen is not None else self.model.generation_config.bos_token_id)

    def _forward(self, row: _Row, ids: torch.Tensor) -> torch.Tensor:
        if row.encoded is not None:
            inputs = {"decoder_input_ids": ids, "encoder_outputs": row.encoded}
        else:
            row.mask = torch.cat([row.mask, torch.ones_like(ids)], 1)
            inputs = {"input_ids": ids}
        if "logits_to_keep" in self.takes:
            inputs["logits_to_keep"] = 1
        output = self.model(**inputs, attention_mask=row.mask, past_key_values=row.state, use_cache=True)
        row.state = output.past_key_values
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def _right(lengths: Sequence[int], width: int, device: torch.device) -> torch.Tensor:
    """1 at the last `lengths[i]` columns of row i, [rows, width]."""
    first = width - torch.tensor(lengths, device=device)
    return (torch.arange(width, device=device)[None] >= first[:, None]).long()


def _parameters(model: Any) -> frozenset[str]:
    """What a model's forward takes by name."""
    return frozenset(inspect.signature(type(model).forward).parameters)
