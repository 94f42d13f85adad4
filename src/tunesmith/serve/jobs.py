"""Work beside writing, as generators: the engine takes one step of one of them a turn, so that nobody who writes waits for long."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from tunesmith.models.backbone import Backbone
from tunesmith.serve.catalogue import TOKENISING, Served, describe
from tunesmith.serve.prompts import check_ids
from tunesmith.serve.refusals import Refused
from tunesmith.tasks._base import attention_mask, pad

EMBEDDED = 8  # texts in a pass
PREDICTED = 16  # rows in a step
WRITTEN = 2  # rows in a step, where the answer is written token by token


def embed(
    bank: Any, served: Served, inputs: Sequence[str] | Sequence[Sequence[int]]
) -> Generator[None, None, tuple[list[list[float]], int]]:
    """The mean of the last hidden states of each text's tokens, and how many tokens there were.

    Raises:
        Refused: a text has no tokens, or more than the model reads.
    """
    with TOKENISING:
        rows = [list(served.tokenizer(i)["input_ids"]) if isinstance(i, str) else list(i) for i in inputs]
    for ids in rows:
        check_ids(served, ids, "input")
        if served.room is not None and len(ids) > served.room:
            raise Refused(
                400,
                f"an input has {len(ids)} tokens, and `{served.id}` reads {served.room}; shorten it.",
                "input",
                "context_length_exceeded",
            )
    together = bank.writes and (served.adapter is None or bank.mixes(served.adapter))
    alone = bank.base.donor if served.adapter is None else bank.select(served.adapter)
    model = bank.model if together else alone.model
    stack = Backbone(model, owns_head=False).stack
    found: list[list[float]] = [[]] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), EMBEDDED):
        places = order[start : start + EMBEDDED]
        features = [{"input_ids": rows[i]} for i in places]
        padded = pad(features, "input_ids", served.tokenizer.pad_token_id or 0).to(model.device)
        mask = attention_mask(features).to(model.device)
        with torch.inference_mode(), bank.rows([served.adapter] * len(places)) if together else nullcontext():
            states = stack(input_ids=padded, attention_mask=mask).last_hidden_state.float()
            weights = mask[:, :, None].float()
            means = torch.where(weights > 0, states, 0.0).sum(1) / weights.sum(1)
        for i, mean in zip(places, means.tolist(), strict=True):
            found[i] = mean
        yield
    return found, sum(map(len, rows))


def predict(
    bank: Any, served: Served, rows: Sequence[Mapping[str, Any]], head: str | None
) -> Generator[None, None, list[dict[str, Any]]]:
    """Each row with its prediction, as `tunesmith predict` gives it."""
    artifact = bank.select(served.adapter)
    first = next(iter(artifact.opened.readings))
    size = PREDICTED if served.task.owns_head else WRITTEN
    found: list[dict[str, Any]] = []
    for start in range(0, len(rows), size):
        artifact.choose(head or first)
        try:
            with TOKENISING, torch.no_grad():
                found += artifact.predict(rows[start : start + size], source="rows", first=start)
        finally:
            artifact.choose(first)  # what others write with between two steps
        yield
    return found


def load(bank: Any, name: str, folder: Path) -> Generator[None, None, Served]:
    """Add an adapter to the bank; where it cannot be described it does not stay there."""
    yield
    bank.add(name, folder)
    try:
        return describe(bank, name, name)
    except BaseException:
        bank.remove(name)
        raise
