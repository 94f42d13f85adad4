"""What tasks with a prompt and a target text share: summarization, instruction, chat.

    decoder           input_ids = prompt + target        labels = target, nothing asked of the prompt
    encoder-decoder   input_ids = prompt                 labels = target

Prompt and target are tokenised apart, so that no token straddles the border, and the end token is always a target.
Evaluation scores the target (`loss`, `perplexity`, `token_accuracy`) for every row, and lets the model write its own answer for
the first `generate_rows` rows (rouge1, rouge2, rougeL, chrf, exact_match).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from tunesmith.config import Options as BaseOptions
from tunesmith.metrics.counts import Array, Drawn
from tunesmith.metrics.text import TextOverlap
from tunesmith.tasks._base import IGNORED, Answer, Batch, Features, Metric, Task, attention_mask, pad
from tunesmith.tasks._chunked import BeforeHead
from tunesmith.tasks._language import (
    TokenMetric,
    TokenScore,
    next_tokens,
    refuse_encoders,
    supervised_forward,
    supervised_states,
    token_loss,
    token_scores,
)


class GenerationOptions(BaseOptions):
    """Options of writing text."""

    max_new_tokens: int = Field(128, ge=1, description="longest text that the model may write")
    generate_rows: int = Field(64, ge=0, description="eval rows whose answer is written and scored; 0 turns it off")
    beams: int = Field(1, ge=1, description="beams of the search; 1 is greedy")
    sample: bool = Field(False, description="draw tokens instead of taking the likeliest")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    top_p: float = Field(1.0, gt=0, le=1, description="of sampling: the smallest set of tokens with this probability")
    top_k: int = Field(0, ge=0, description="of sampling: only the k likeliest tokens; 0 for all")
    no_repeat: int = Field(0, ge=0, description="no phrase of this many tokens is written twice; 0 for no limit")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 makes tokens that were written less likely")


class GenerationMetric:
    """Token scores of all rows, and overlap of the written texts."""

    def __init__(self) -> None:
        self.tokens, self.overlap = TokenMetric(), TextOverlap()

    def update(self, predicted: tuple[TokenScore, str | None], true: str) -> None:
        """Add one row."""
        score, text = predicted
        self.tokens.update(score, true)
        if text is not None:
            self.overlap.update(text, true)

    def compute(self) -> dict[str, float]:
        """The metrics over everything added."""
        return {**self.tokens.compute(), **self.overlap.compute()}

    def counts(self, predicted: tuple[TokenScore, str | None], true: str) -> dict[str, float]:
        """Those of tokens, and of the text where one was written."""
        score, text = predicted
        return {**self.tokens.counts(score, true), **({} if text is None else self.overlap.counts(text, true))}

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows."""
        return {**self.tokens.from_counts(drawn), **self.overlap.from_counts(drawn)}


class GenerationTask(Task):
    """A prompt and the text that should follow."""

    reads: ClassVar[Literal["sequence", "tokens"]] = "tokens"
    aligned_by: ClassVar[Literal["row", "word", "character", "text"]] = "text"
    owns_head: ClassVar[bool] = False
    verify_rows: ClassVar[int] = 16
    stops: list[int]
    """Tokens that end a text, the one that training rows end with first."""

    @property
    def primary(self) -> str:
        """Perplexity of the target text."""
        return "perplexity"

    def model_class(self, config: Any) -> str:
        """A decoder or an encoder-decoder with its language-model head."""
        return refuse_encoders(config, self.name)

    def config_overrides(self) -> dict[str, Any]:
        """The head is the checkpoint's own."""
        return {}

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        """Find the tokens that end a text."""
        super().bind(model, tokenizer, kind)
        named = getattr(model.generation_config, "eos_token_id", None)
        listed = named if isinstance(named, list) else [named]
        own = [tokenizer.eos_token_id, *listed]
        self.stops = list(dict.fromkeys(token for token in own if token is not None))

    def encoding_key(self) -> dict[str, Any]:
        """Prompt and target stand in one sequence or two."""
        return {"kind": self.kind, "stops": self.stops}

    # ---- rows to batches

    def feature(
        self, prompt: Sequence[int], target: Sequence[int] | None, trained: Sequence[bool] | None = None
    ) -> dict[str, Any]:
        """One feature of a prompt and its target.

        Args:
            prompt: ids that the model reads.
            target: ids that follow, end token included; None for a row to predict for.
            trained: for each position of prompt + target, whether it is learned (default: the target).
        """
        start = np.int32(len(prompt))
        if self.kind == "encoder-decoder":
            feature = {"input_ids": np.asarray(prompt, np.int32), "prompt": start}
            if target is not None:
                feature["labels"] = np.asarray(target, np.int32)
            return feature
        ids = np.asarray([*prompt, *(target or ())], np.int32)
        feature = {"input_ids": ids, "prompt": start}
        if target is not None:
            mask = np.asarray(trained if trained is not None else [False] * len(prompt) + [True] * len(target))
            feature["labels"] = np.where(mask, ids, IGNORED).astype(np.int32)
        return feature

    def collate(self, features: Sequence[Features], pad_id: int, rng: np.random.Generator | None = None) -> Batch:
        """Pad on the right; a decoder's labels are moved to the position that predicts them."""
        batch = {"input_ids": pad(features, "input_ids", pad_id), "attention_mask": attention_mask(features)}
        if "labels" in features[0]:
            labels = pad(features, "labels", IGNORED)
            batch["labels"] = labels if self.kind == "encoder-decoder" else next_tokens(labels)
        return batch

    def units(self, batch: Batch) -> float:
        """Supervised tokens."""
        return float((batch["labels"] != IGNORED).sum())

    # ---- loss, metrics, predictions

    def forward(self, model: Any, batch: Batch) -> Any:
        """Logits at supervised positions; nothing for rows to predict for."""
        return supervised_forward(
            model, self.model_inputs(batch), batch.get("labels"), writes=True, decoder=self.kind == "encoder-decoder"
        )

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy summed over supervised tokens."""
        return token_loss(outputs.logits, batch["labels"])

    def before_head(self, model: Any, batch: Batch) -> BeforeHead | None:
        """States at supervised positions."""
        writes, decoder = True, self.kind == "encoder-decoder"
        return supervised_states(model, self.model_inputs(batch), batch["labels"], writes=writes, decoder=decoder)

    def distribution(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Over the vocabulary, at every supervised token."""
        logits: torch.Tensor = outputs.logits
        return logits

    def read(
        self, model: Any, outputs: Any, batch: Batch, features: Sequence[Features], *, predicting: bool = False
    ) -> list[tuple[TokenScore | None, str | None]]:
        """Scores of the target, and the text that the model writes itself."""
        scores: Sequence[TokenScore | None] = token_scores(outputs, batch.get("labels")) or [None] * len(features)
        asked = [i for i, f in enumerate(features) if predicting or int(f["row"]) < self.options.generate_rows]
        texts: list[str | None] = [None] * len(features)
        for place, text in zip(asked, self.write(model, [features[i] for i in asked]), strict=True):
            texts[place] = text
        return list(zip(scores, texts, strict=True))

    def write(self, model: Any, features: Sequence[Features]) -> list[str]:
        """What the model writes after each prompt."""
        if not features:
            return []
        prompts = [{"input_ids": f["input_ids"][: int(f["prompt"])]} for f in features]
        left, device, pad_id = self.kind == "decoder", next(model.parameters()).device, self.tokenizer.pad_token_id
        ids = pad(prompts, "input_ids", pad_id, left=left).to(device)
        mask = attention_mask(prompts, left=left).to(device)
        room = self.positions - ids.shape[1] if left and self.positions else self.positions
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=self.generation(model, room))
        if left:
            written = written[:, ids.shape[1] :]
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in written.tolist()]

    def generation(self, model: Any, room: int | None) -> Any:
        """The options as transformers' generation configuration, and nothing of the checkpoint's sampling habits.

        Args:
            model: for the token that its decoder starts from.
            room: tokens that it can still hold; one is chosen even behind the last of them.
        """
        from transformers import GenerationConfig

        o = self.options
        sampling = {"temperature": o.temperature, "top_p": o.top_p, "top_k": o.top_k} if o.sample else {}
        start = getattr(model.generation_config, "decoder_start_token_id", None)
        most = o.max_new_tokens if room is None else max(1, min(o.max_new_tokens, room))
        return GenerationConfig(
            max_new_tokens=most, num_beams=o.beams, do_sample=o.sample, **sampling, no_repeat_ngram_size=o.no_repeat,
            repetition_penalty=o.repetition_penalty, eos_token_id=self.stops or None, pad_token_id=self.tokenizer.pad_token_id,
            decoder_start_token_id=start if start is not None else getattr(model.config, "decoder_start_token_id", None),
            bos_token_id=self.tokenizer.bos_token_id,
        )  # fmt: skip

    def join(self, records: Sequence[tuple[TokenScore | None, str | None]], row: Mapping[str, Any]) -> Answer:
        """The last feature's text (a chat's last answer), the scores of all."""
        total = sum((score for score, _ in records if score is not None), TokenScore())
        text = next((t for _, t in reversed(records) if t is not None), None)
        mean = total.nats / total.tokens if total.tokens else None
        shown = {"prediction": text} if mean is None else {"prediction": text, "score": -mean}
        return Answer((total, text), shown, [] if mean is None else [mean])

    def metric(self) -> Metric:
        """A fresh accumulator."""
        return GenerationMetric()

    @abstractmethod
    def truth(self, row: Mapping[str, Any]) -> str:
        """The text that should have been written."""


def without_end(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """Token ids of a prompt without the end or separator token that some tokenizers close every text with."""
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id}
    found = list(ids)
    while found and found[-1] in ends:
        found.pop()
    return found


def plain_ids(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a text that nothing is added to; marks that the tokenizer knows inside it count as such."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
