"""Rows as vectors: what a head reads of a row before it decides anything.

    head reads one vector a row    that vector, the input of the head's first module                      [d]
    head reads every token, or     the mean over all real positions (padding left out, special tokens     [d]
    is the output layer            in) of the last hidden states of the stack that takes the tokens

Of a head whose first module is handed all positions the one is taken that it picks: the last real one where the module is linear
(decoders score every position and keep the last), the first one elsewhere (RoBERTa). A row in several windows is the mean over the
positions of all of them. The stack is the encoder of an encoder-decoder. A row of which nothing is read is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from tunesmith.cache.ragged import RaggedRows
from tunesmith.console import counted
from tunesmith.data.batching import by_length
from tunesmith.models.backbone import Backbone, is_linear
from tunesmith.tasks._base import Batch, Task, attention_mask, pad
from tunesmith.tasks._language import only_positions


def embed(
    backbone: Backbone,
    task: Task,
    encoded: RaggedRows,
    rows: int,
    *,
    batch_size: int,
    device: torch.device,
    pad_id: int,
    watch: Callable[[int], None] | None = None,
) -> np.ndarray[Any, Any]:
    """A vector for every row, [rows, d] in fp32.

    Args:
        backbone: of the model under the head.
        task: says what its head reads.
        encoded: features, with the row that each belongs to.
        rows: how many rows they are of.
        batch_size: features in a forward pass.
        device: where the model is.
        pad_id: token id of padding.
        watch: called with the number of features that are done, in place of a progress bar.
    """
    model = backbone.model
    sums: np.ndarray[Any, Any] = np.zeros((rows, backbone.hidden_size), np.float64)
    counts = np.zeros(rows, np.int64)
    training = model.training
    model.eval()
    with torch.no_grad(), counted("embed", len(encoded), watch) as advance:
        for indices in by_length(encoded.lengths, batch_size) if len(encoded) else []:
            features = [encoded[int(i)] for i in indices]
            if task.reads == "sequence":
                batch = {name: value.to(device) for name, value in task.collate(features, pad_id).items()}
                vectors = _read_by_head(backbone, task, batch).float().cpu().numpy()
                found = [(vector, 1) for vector in vectors]
            else:
                batch = {"input_ids": pad(features, "input_ids", pad_id), "attention_mask": attention_mask(features)}
                if "token_type_ids" in features[0]:
                    batch["token_type_ids"] = pad(features, "token_type_ids", 0)
                states = _last_states(backbone, task, {name: value.to(device) for name, value in batch.items()})
                summed = (states * batch["attention_mask"].to(device)[..., None]).sum(1).cpu().numpy()
                found = list(zip(summed, batch["attention_mask"].sum(1).tolist(), strict=True))
            for feature, (vector, count) in zip(features, found, strict=True):
                sums[int(feature["row"])] += vector
                counts[int(feature["row"])] += count
            advance(len(indices))
    model.train(training)
    vectors = sums / np.maximum(counts, 1)[:, None]
    return vectors.astype(np.float32)


def _read_by_head(backbone: Backbone, task: Task, batch: Batch) -> torch.Tensor:
    """The input of the head's first module, [B, d]."""
    names = backbone.head_names
    with _inputs_of(backbone, names) as seen:
        task.forward(backbone.model, batch)
    name, states = next(iter(seen.items()))
    if states.dim() == 2:
        return states
    rows = torch.arange(len(states), device=states.device)
    if not is_linear(backbone.model.get_submodule(name)):
        return states[:, 0]
    # As transformers finds it: the last token that is no padding.
    real = (batch["input_ids"] != backbone.model.config.get_text_config().pad_token_id).long()
    return states[rows, (real * torch.arange(real.shape[1], device=real.device)).argmax(1)]


@contextmanager
def _inputs_of(backbone: Backbone, names: tuple[str, ...]) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, the first argument of each module is kept, in the order in which they first run; of several calls the last."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any) -> None:
            seen[name] = args[0]

        return hook

    handles = [backbone.model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _last_states(backbone: Backbone, task: Task, batch: Batch) -> torch.Tensor:
    """What the token-taking stack puts out, [B, T, d] in fp32; an output layer over a vocabulary works at one position alone."""
    model, ids = backbone.model, batch["input_ids"]
    seen: list[torch.Tensor] = []

    def keep(stack: torch.nn.Module, args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output["last_hidden_state"]
        seen[:] = [states]

    inputs: dict[str, Any] = dict(batch)
    once: Any = nullcontext()
    if not task.owns_head:
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[:, 0] = True
        if backbone.kind == "encoder-decoder":
            inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=ids[:, :1])
            mask = mask[:, :1]
        if backbone.kind != "encoder":
            inputs["use_cache"] = False
        once = only_positions(model, mask)
    handle = backbone.stack.register_forward_hook(keep)
    try:
        with once:
            model(**inputs)
    finally:
        handle.remove()
    return seen[0].float()
