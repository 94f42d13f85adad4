"""Language modelling on plain text, code or any other text: causal for decoders, masked for encoders.

causal   the next token at every position; a document is cut into windows that share one token, so that each token is predicted
         once and bits_per_byte is exact:  -sum log2 p(token | window before it) / bytes of the text
masked   Devlin et al. 2019, section 3.1: 15 % of the tokens, of which 80 % become [MASK], 10 % a random token, 10 % stay;
         drawn anew in every step of training, fixed per row when measured; whole words on request

Short documents share a training sequence (`packing`) without seeing each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from tunesmith.config import Options as BaseOptions
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError, ModelError, called
from tunesmith.metrics.counts import Array, Drawn
from tunesmith.tasks._base import IGNORED, Answer, Batch, Features, Metric, Task, attention_mask, pad
from tunesmith.tasks._chunked import BeforeHead
from tunesmith.tasks._language import (
    TokenMetric,
    TokenScore,
    next_tokens,
    refuse_bidirectional,
    supervised_forward,
    supervised_states,
    token_loss,
    token_scores,
)


class LanguageModelingOptions(BaseOptions):
    """Options of language modelling."""

    objective: Literal["auto", "causal", "masked"] = Field(
        "auto", description="auto: masked for models that read in both directions (BERT), causal for the others"
    )
    mask_probability: float = Field(0.15, gt=0, lt=1, description="share of tokens that masked modelling asks for")
    whole_word: bool = Field(False, description="mask all pieces of a word or none")
    packing: bool = Field(True, description="fill a training sequence with several short documents (causal only)")


class LanguageMetric(TokenMetric):
    """Token scores, and bits per byte where every token was predicted."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal, self.bytes = causal, 0

    def update(self, predicted: TokenScore, true: Any) -> None:
        """Add one document and the bytes of its text."""
        super().update(predicted, true)
        self.bytes += int(true)

    def compute(self) -> dict[str, float]:
        """The metrics over everything added."""
        found = super().compute()
        if self.causal:
            found["bits_per_byte"] = self.total.nats / math.log(2) / max(self.bytes, 1)
        return found

    def counts(self, predicted: TokenScore, true: Any) -> dict[str, float]:
        """Those of tokens, and bytes where every token was predicted."""
        return {**super().counts(predicted, true), **({"bytes": int(true)} if self.causal else {})}

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows."""
        found = super().from_counts(drawn)
        if "bytes" in drawn:
            found["bits_per_byte"] = drawn["nats"] / math.log(2) / np.maximum(drawn["bytes"], 1)
        return found


class LanguageModeling(Task):
    """Rows with `text`."""

    Options = LanguageModelingOptions
    required: ClassVar[tuple[str, ...]] = ("text",)
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    targets: ClassVar[tuple[str, ...]] = ()
    synonyms: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("content", "code", "document")}
    plain_text: ClassVar[Literal["lines", "conll"] | None] = "lines"
    reads: ClassVar[Literal["sequence", "tokens"]] = "tokens"
    aligned_by: ClassVar[Literal["row", "word", "character", "text"]] = "text"
    owns_head: ClassVar[bool] = False
    default_max_length = 512

    def __init__(self, options: LanguageModelingOptions) -> None:
        super().__init__(options)
        self.objective = options.objective

    @property
    def primary(self) -> str:
        """Bits per byte of causal models, perplexity of masked tokens."""
        return "perplexity" if self.objective == "masked" else "bits_per_byte"

    def fit(self, train: Rows) -> None:
        """Nothing is learned from the rows; those that cannot be used are refused."""
        self.check(train, "train")

    def blank(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The text is all there is."""
        return dict(row)

    def check(self, rows: Rows, role: str) -> None:
        """Refuse rows whose text is not text, and rows that all are empty."""
        for i, value in enumerate(rows.table["text"]):
            if not isinstance(value, str):
                raise DataError(f"{rows.where(i)}: `text` is {called(value)}; it must be text.")
        if not any(text.strip() for text in rows.table["text"]):
            raise DataError(f"`{rows.source}`: every text is empty; give {role} rows with text.")

    def state_dict(self) -> dict[str, Any]:
        """Causal or masked."""
        return {"objective": self.objective}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.objective = state["objective"]

    # ---- the model

    def model_class(self, config: Any) -> str:
        """Masked for models that were trained so, causal for the others."""
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

        refuse_bidirectional(config)
        masked, causal = type(config) in MODEL_FOR_MASKED_LM_MAPPING, type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        if self.objective == "auto":
            self.objective = "masked" if masked and not getattr(config, "is_decoder", False) else "causal"
        possible = masked if self.objective == "masked" else causal and not getattr(config, "is_encoder_decoder", False)
        if possible and self.objective == "causal" and masked and not getattr(config, "is_decoder", False):
            raise ModelError(
                f"`{config.model_type}` reads in both directions, so it would see each token that it is asked to predict; set "
                "language-modeling.objective=masked, or choose a decoder (GPT-2, Llama, Qwen, Gemma)."
            )
        if not possible:
            raise ModelError(
                f"`{config.model_type}` has no {self.objective} language-model head in transformers; "
                + (
                    "an encoder-decoder learns from pairs: use the task summarization or instruction."
                    if getattr(config, "is_encoder_decoder", False)
                    else "set language-modeling.objective=auto or choose another model."
                )
            )
        return "AutoModelForMaskedLM" if self.objective == "masked" else "AutoModelForCausalLM"

    def config_overrides(self) -> dict[str, Any]:
        """The head is the checkpoint's own."""
        return {}

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        """Know the tokens around a document; masking needs a mask token."""
        super().bind(model, tokenizer, kind)
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        if self.objective == "masked" and tokenizer.mask_token_id is None:
            raise ModelError("the model's tokenizer has no mask token, which masked language modelling needs.")

    def encoding_key(self) -> dict[str, Any]:
        """Causal or masked rows differ."""
        return {"objective": self.objective}

    @property
    def redraws(self) -> bool:
        """Masks are drawn anew in every step."""
        return self.objective == "masked"

    @property
    def packs(self) -> bool:
        """Whether short documents may share a training sequence."""
        return bool(self.options.packing) and self.objective == "causal"

    # ---- rows to batches

    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """Windows of each document; causal windows overlap by one token, which is context in the later one."""
        start = next(
            (t for t in (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id) if t is not None), None
        )
        end = next((t for t in (tokenizer.eos_token_id, tokenizer.sep_token_id) if t is not None), None)
        texts = [str(row["text"]) for row in rows]
        encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True) if texts else {"input_ids": []}
        for number, ids in enumerate(encoded["input_ids"]):
            if self.objective == "masked":
                starts = self._word_starts(encoded, number, ids, tokenizer)
                size = max_length - 2
                yield [
                    {
                        "input_ids": np.asarray(tokenizer.build_inputs_with_special_tokens(ids[i : i + size]) if start is None else
                                                [start, *ids[i : i + size], end], np.int32),
                        "labels": np.asarray([IGNORED, *ids[i : i + size], IGNORED], np.int32),
                        "starts": np.asarray([0, *starts[i : i + size], 0], np.int8),
                    }
                    for i in range(0, max(len(ids), 1), size)
                ]  # fmt: skip
                continue
            ids = [*([] if start is None else [start]), *ids, *([] if end is None else [end])]
            yield [
                {"input_ids": np.asarray(part, np.int32), "labels": np.asarray([IGNORED, *part[1:]], np.int32)}
                for part in (ids[i : i + max_length] for i in range(0, max(len(ids) - 1, 1), max_length - 1))
            ]

    def _word_starts(self, encoded: Any, number: int, ids: list[int], tokenizer: Any) -> list[int]:
        """1 where a word begins; without a fast tokenizer, where a piece does not continue one."""
        if getattr(tokenizer, "is_fast", False):
            words = encoded.word_ids(number)
            return [int(i == 0 or word is None or word != words[i - 1]) for i, word in enumerate(words)]
        return [int(not piece.startswith("##")) for piece in tokenizer.convert_ids_to_tokens(ids)]

    def pack(self, features: Sequence[Features]) -> dict[str, Any]:
        """Several documents in one sequence: positions start again at each, which is what keeps them apart."""
        return {
            "input_ids": np.concatenate([f["input_ids"] for f in features]),
            "labels": np.concatenate([f["labels"] for f in features]),
            "position_ids": np.concatenate([np.arange(len(f["input_ids"])) for f in features]),
            "row": features[0]["row"],
        }

    def collate(self, features: Sequence[Features], pad_id: int, rng: np.random.Generator | None = None) -> Batch:
        """Pad on the right, and shift or mask."""
        batch = {"input_ids": pad(features, "input_ids", pad_id)}
        labels = pad(features, "labels", IGNORED)
        if "position_ids" in features[0]:
            batch["position_ids"] = pad(
                features, "position_ids", 0
            )  # padding is a document of its own, which nobody reads
        else:
            batch["attention_mask"] = attention_mask(features)
        if self.objective == "masked":
            self._mask(batch, labels, features, rng)
        batch["labels"] = labels if self.objective == "masked" else next_tokens(labels)
        return batch

    def _mask(
        self, batch: Batch, labels: torch.Tensor, features: Sequence[Features], rng: np.random.Generator | None
    ) -> None:
        """Choose what is asked, and hide it; in place."""
        for place, feature in enumerate(features):
            # Measured rows are masked the same way every time, whatever batch they stand in.
            length = len(feature["input_ids"])
            own = rng if rng is not None else np.random.default_rng([int(feature["row"]), length])
            candidates = np.flatnonzero(np.asarray(feature["labels"]) != IGNORED)
            if not len(candidates):
                continue
            starts = (
                np.asarray(feature["starts"])[candidates].astype(bool)
                if self.options.whole_word
                else np.ones(len(candidates), bool)
            )
            word = np.cumsum(starts) - starts[0]
            chosen_words = own.random(word[-1] + 1) < self.options.mask_probability
            if not chosen_words.any():
                chosen_words[own.integers(len(chosen_words))] = True  # every feature asks something
            chosen = candidates[chosen_words[word]]
            fate = own.random(len(chosen))
            ids = batch["input_ids"][place].numpy()
            ids[chosen[fate < 0.8]] = self.tokenizer.mask_token_id
            swapped = chosen[(fate >= 0.8) & (fate < 0.9)]
            ids[swapped] = own.integers(0, self.vocabulary, len(swapped))
            kept = np.full(labels.shape[1], IGNORED, np.int64)
            kept[chosen] = np.asarray(feature["labels"])[chosen]
            labels[place] = torch.from_numpy(kept)

    def units(self, batch: Batch) -> float:
        """Predicted tokens."""
        return float((batch["labels"] != IGNORED).sum())

    # ---- loss, metrics, predictions

    def forward(self, model: Any, batch: Batch) -> Any:
        """Logits at predicted positions."""
        return supervised_forward(
            model, self.model_inputs(batch), batch["labels"], writes=self.objective == "causal", decoder=False
        )

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy summed over predicted tokens."""
        return token_loss(outputs.logits, batch["labels"])

    def before_head(self, model: Any, batch: Batch) -> BeforeHead | None:
        """States at supervised positions."""
        writes, decoder = self.objective == "causal", False
        return supervised_states(model, self.model_inputs(batch), batch["labels"], writes=writes, decoder=decoder)

    def distribution(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Over the vocabulary, at every supervised token."""
        logits: torch.Tensor = outputs.logits
        return logits

    def read(
        self, model: Any, outputs: Any, batch: Batch, features: Sequence[Features], *, predicting: bool = False
    ) -> list[TokenScore]:
        """The score of each window."""
        return token_scores(outputs, batch["labels"])

    def join(self, records: Sequence[TokenScore], row: Mapping[str, Any]) -> Answer:
        """The document's loss a token, and its bits per byte."""
        total = sum(records, TokenScore())
        mean = total.nats / max(total.tokens, 1)
        shown = {"prediction": round(mean, 6), "score": -mean}
        return Answer(total, shown, [mean])

    def truth(self, row: Mapping[str, Any]) -> int:
        """Bytes of the text."""
        return len(str(row["text"]).encode())

    def metric(self) -> Metric:
        """A fresh accumulator."""
        return LanguageMetric(self.objective == "causal")
