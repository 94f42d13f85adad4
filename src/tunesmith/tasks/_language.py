"""What tasks with a language-model head share: logits at supervised positions only, their loss, streamed token scores.

The output layer over a large vocabulary is most of the arithmetic and memory of a small model, so hidden states are
selected before it: [B, T, d] -> [n, d] -> [n, V] with n supervised positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from tunesmith.metrics.counts import Array, Drawn, kept
from tunesmith.tasks._base import IGNORED, Batch
from tunesmith.tasks._chunked import BeforeHead, plain_head, states_at


@contextmanager
def only_positions(model: Any, mask: torch.Tensor) -> Iterator[None]:
    """Inside, the output layer sees the hidden states at `mask` [B, T] alone, so that logits are [n, V]."""
    head = model.get_output_embeddings()

    def select(module: Any, args: Any) -> tuple[torch.Tensor, ...]:
        return (args[0][mask], *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """Labels at the position that predicts them: [B, T] shifted left by one, the last position asked nothing."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _inputs(model: Any, inputs: Batch, labels: torch.Tensor, writes: bool, decoder: bool) -> dict[str, Any]:
    if decoder:
        inputs = {**inputs, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=labels)}
    return {**inputs, "use_cache": False} if writes else dict(inputs)


def supervised_states(
    model: Any, inputs: Batch, labels: torch.Tensor, *, writes: bool, decoder: bool
) -> BeforeHead | None:
    """What stands before the output layer in `supervised_forward`, which multiplies nothing; None where that layer is not a plain one."""
    head = plain_head(model)
    if head is None:
        return None
    mask = labels != IGNORED
    with states_at(head, mask) as seen:
        model(**_inputs(model, inputs, labels, writes, decoder))
    return BeforeHead(seen[-1], head, labels[mask])


def supervised_forward(model: Any, inputs: Batch, labels: torch.Tensor | None, *, writes: bool, decoder: bool) -> Any:
    """Outputs with logits [n, V] at the positions that have a label; None without labels.

    Args:
        model: with a language-model head.
        inputs: what it takes.
        labels: [B, T]; a decoder's are those of the next position already (`next_tokens`).
        writes: the model generates from left to right: no cache is kept, which would also undo the masks of packed documents.
        decoder: the labels are an encoder-decoder's output, so its decoder reads them shifted right.
    """
    if labels is None:
        return None
    with only_positions(model, labels != IGNORED):
        return model(**_inputs(model, inputs, labels, writes, decoder))


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over supervised tokens, in fp32."""
    return F.cross_entropy(logits.float(), labels[labels != IGNORED], reduction="sum")


@dataclass(frozen=True)
class TokenScore:
    """Sums over the supervised tokens of a feature or row: -log p in nats, tokens, tokens whose argmax is right."""

    nats: float = 0.0
    tokens: int = 0
    right: int = 0

    def __add__(self, other: TokenScore) -> TokenScore:
        return TokenScore(self.nats + other.nats, self.tokens + other.tokens, self.right + other.right)


def token_scores(outputs: Any, labels: torch.Tensor | None) -> list[TokenScore]:
    """The score of each feature of a batch."""
    if labels is None:
        return []
    mask = labels != IGNORED
    truth = labels[mask]
    logits = outputs.logits.float()
    nats = F.cross_entropy(logits, truth, reduction="none")
    right = logits.argmax(-1) == truth
    owner = mask.nonzero()[:, 0]
    count = mask.sum(1)
    size = len(labels)
    sums = torch.zeros(size, dtype=torch.float64).index_add_(0, owner.cpu(), nats.double().cpu())
    hits = torch.zeros(size, dtype=torch.float64).index_add_(0, owner.cpu(), right.double().cpu())
    return [
        TokenScore(float(n), int(c), int(h))
        for n, c, h in zip(sums.tolist(), count.tolist(), hits.tolist(), strict=True)
    ]


MOST_NATS = 700.0  # a token: the perplexity is bounded, because JSON has no infinity


class TokenMetric:
    """perplexity = exp(mean -log p), token_accuracy = share of tokens whose argmax is right."""

    def __init__(self) -> None:
        self.total = TokenScore()

    def update(self, predicted: TokenScore, true: Any) -> None:
        """Add one row."""
        self.total += predicted

    def compute(self) -> dict[str, float]:
        """The metrics over everything added."""
        tokens = max(self.total.tokens, 1)
        return {
            "perplexity": perplexity(self.total.nats / tokens),
            "token_accuracy": self.total.right / tokens,
        }

    def counts(self, predicted: TokenScore, true: Any) -> dict[str, float]:
        """Nats, tokens and right tokens."""
        return kept((name, getattr(predicted, name)) for name in ("nats", "tokens", "right"))

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows."""
        tokens = np.maximum(drawn["tokens"], 1)
        return {
            "perplexity": np.exp(np.minimum(drawn["nats"] / tokens, MOST_NATS)),
            "token_accuracy": drawn["right"] / tokens,
        }


def perplexity(nats: float) -> float:
    """Exp of the mean -log p a token; bounded, because JSON has no infinity."""
    return math.exp(min(nats, MOST_NATS))


def refuse_encoders(config: Any, task: str) -> str:
    """The transformers class for a task that writes text.

    Raises:
        ModelError: the model only reads.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    from tunesmith.errors import ModelError

    refuse_bidirectional(config)
    if getattr(config, "is_encoder_decoder", False):
        return "AutoModelForSeq2SeqLM"
    reads_both_ways = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or reads_both_ways:
        raise ModelError(
            f"`{config.model_type}` reads text and cannot write it, which {task} needs; use a decoder (GPT-2, Llama, Qwen, Gemma, "
            "asset:smollm2-135m) or an encoder-decoder (T5, BART)."
        )
    return "AutoModelForCausalLM"


def refuse_bidirectional(config: Any) -> None:
    """A recurrent model of ours that reads both ways has no next token left to predict.

    Raises:
        ModelError: the model is one.
    """
    from tunesmith.errors import ModelError

    if getattr(config, "bidirectional", False):
        raise ModelError("a bidirectional model sees the token that it should predict; set new.bidirectional=false.")
