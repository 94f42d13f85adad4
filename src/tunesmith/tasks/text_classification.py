"""Text classification: one label, several labels or a number for a text or a pair of texts.

The head is transformers' own sequence-classification head, so an exported model opens in
`pipeline("text-classification")`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch.nn import functional as F

from tunesmith.config import Options as BaseOptions
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError, called, unknown
from tunesmith.metrics.classification import MultiLabel, SingleLabel
from tunesmith.metrics.regression import Regression
from tunesmith.tasks._base import Answer, Batch, Features, Metric, Task, attention_mask, pad

MAX_LABELS = 10_000
MAX_LABEL = 1000  # characters
LARGEST = 1e18  # label of a regression, whose square an error must hold in 32 bits


class TextClassificationOptions(BaseOptions):
    """Options of text classification."""

    problem: Literal["auto", "single-label", "multi-label", "regression"] = Field(
        "auto",
        description="auto: lists are several labels, fractional numbers are regression, anything else is one label",
    )
    separator: str | None = Field(
        None, min_length=1, description="splits a text cell into several labels, for example |"
    )
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none", description="balanced: rows / (labels x rows of the label); or a weight per label"
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="probability from which a label of a multi-label row is predicted"
    )

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        if value in ("none", "balanced"):
            return value
        numbers = list(value.values()) if isinstance(value, dict) else []
        right = [
            isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each) and each >= 0
            for each in numbers
        ]
        if not all(right) or not any(numbers):
            raise ValueError(
                f"must be none, balanced, or a weight of at least 0 for each label such as {{spam: 5, ham: 1}}, got `{value}`"
            )
        return value


class TextClassification(Task):
    """Rows with `text` (and `text_pair`) and `label`."""

    Options = TextClassificationOptions
    required: ClassVar[tuple[str, ...]] = ("text", "label")
    optional: ClassVar[tuple[str, ...]] = ("text_pair",)
    inputs: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    targets: ClassVar[tuple[str, ...]] = ("label",)
    auto_class = "AutoModelForSequenceClassification"
    made_of_text = True
    code_version = 2
    reads: ClassVar[Literal["sequence", "tokens"]] = "sequence"

    def __init__(self, options: TextClassificationOptions) -> None:
        super().__init__(options)
        self.problem = options.problem
        self.labels: list[str] = []
        self.numeric = False  # labels were whole numbers in the data and are given back as such
        self.weights: list[float] | None = None

    @property
    def primary(self) -> str:
        """accuracy; f1_macro with several labels a row; pearson for regression."""
        return {"regression": "pearson", "multi-label": "f1_macro"}.get(self.problem, "accuracy")

    # ---- what the training rows say

    @property
    def num_labels(self) -> int | None:
        """Labels, where a row has one of them."""
        return None if self.problem in ("regression", "multi-label") else len(self.labels)

    def fit(self, train: Rows) -> None:
        """Learn the kind of problem, the labels and their weights."""
        self._refuse_nested(train)
        if not any(str(text).strip() for text in train.table["text"]):
            raise DataError(f"`{train.source}`: every text is empty; give rows with text.")
        if self.problem == "auto":
            self.problem = self._guess(train)
        values = [self._parse(value, train, i) for i, value in enumerate(train.table["label"])]
        if self.problem == "regression":
            if len(set(values)) < 2:
                raise DataError(
                    f"`{train.source}`: every label is {values[0]}; a regression needs rows with different numbers."
                )
            return
        flat = [label for row in values for label in row]
        self.numeric = all(isinstance(label, int) for label in flat)
        self.labels = [str(label) for label in (sorted(set(flat)) if self.numeric else sorted(set(map(str, flat))))]
        if len(self.labels) > MAX_LABELS:
            raise DataError(
                f"`{train.source}` has {len(self.labels)} different labels (at most {MAX_LABELS}); is `label` the right column? "
                "Map it with --columns label=NAME, or set text-classification.problem=regression."
            )
        longest = max(self.labels, key=len, default="")
        if len(longest) > MAX_LABEL:
            raise DataError(
                f"`{train.source}`: the label `{longest[:40]}...` has {len(longest):,} characters (at most {MAX_LABEL:,}); is `label` the "
                "right column? Map it with --columns label=NAME."
            )
        if len(self.labels) < 2:
            raise DataError(
                f"`{train.source}` has only one label (`{self.labels[0] if self.labels else 'none'}`); training needs rows of at least two."
            )
        self._weigh(flat, len(values))

    def extend(self, train: Rows) -> None:
        """Add labels behind the known ones."""
        if self.problem == "regression":
            super().extend(train)
        later = type(self)(self.options)
        later.problem = self.problem
        later.fit(train)
        self.labels += [label for label in later.labels if label not in self.labels]
        self.numeric = self.numeric and later.numeric
        if self.weights is not None or later.weights is not None:
            known = dict(zip(later.labels, later.weights or [], strict=False))
            self.weights = [*(self.weights or []), *([1.0] * len(self.labels))][: len(self.labels)]
            self.weights = [known.get(label, weight) for label, weight in zip(self.labels, self.weights, strict=True)]

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The text; a pair joined."""
        return " ".join(str(row[name]) for name in self.inputs if row.get(name))

    def row_of_text(self, text: str) -> dict[str, Any] | None:
        """A row of one text."""
        return {"text": text} if text.strip() else None

    def with_answer(self, row: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        """The predicted label."""
        return {**row, "label": answer.shown["prediction"]}

    def blank(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The label whose weight is nearest to 1, so that the row counts as one; 0 for a number."""
        if self.problem == "regression":
            return {**row, "label": 0.0}
        weights = self.weights or [1.0] * len(self.labels)
        label = self._label(min(range(len(weights)), key=lambda i: abs(weights[i] - 1)))
        return {**row, "label": [label] if self.problem == "multi-label" else label}

    def _refuse_nested(self, rows: Rows) -> None:
        for name in self.inputs:
            value = rows.table[0][name] if name in rows.table.column_names else None
            if isinstance(value, (list, dict)):
                raise DataError(
                    f"{rows.where(0)}: `{name}` is {called(value)}; it must be text. Map another with --columns {name}=NAME."
                )

    def _guess(self, train: Rows) -> Literal["single-label", "multi-label", "regression"]:
        values = train.table["label"]
        first = values[0]
        if isinstance(first, list) or self.options.separator:
            return "multi-label"
        if isinstance(first, float):
            return "regression" if any(v != int(v) for v in values if math.isfinite(v)) else "single-label"
        if isinstance(first, str):
            try:
                numbers = [float(v) for v in values]
            except ValueError:
                return "single-label"
            if any(v != int(v) for v in numbers if math.isfinite(v)):
                return "regression"  # a CSV of scores
            odd = next((i for i, v in enumerate(numbers) if not math.isfinite(v)), None)
            if odd is not None:
                raise DataError(
                    f"{train.where(odd)}: the label is `{values[odd]}` where others are numbers; fill it in or remove the row, or set "
                    "text-classification.problem=single-label if it is the name of a label."
                )
        return "single-label"

    def _parse(self, value: Any, rows: Rows | None, index: int) -> Any:
        """A label cell as a float (regression) or a list of labels; errors name the row."""

        def where() -> str:
            return rows.where(index) if rows is not None else f"row {index + 1}"

        if self.problem == "regression":
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number) or abs(number) > LARGEST:
                raise DataError(
                    f"{where()}: the label `{value}` is not a finite number that 32 bits hold, which regression needs; mend or remove the row."
                )
            return number
        if self.problem == "multi-label":
            if isinstance(value, str):
                value = value.split(self.options.separator or "|")
            if not isinstance(value, list):
                raise DataError(f"{where()}: the label must be a list of labels, got `{value}`.")
            odd = next((label for label in value if label is None or isinstance(label, (list, dict, float))), "")
            if odd != "" and not (isinstance(odd, float) and odd.is_integer()):
                raise DataError(
                    f"{where()}: a label in the list is {called(odd)} (`{odd}`); name each label by a text or a whole number."
                )
            named = [label.strip() if isinstance(label, str) else label for label in value]
            return [label for label in named if label != ""]
        if isinstance(value, list):
            raise DataError(f"{where()}: the label is a list; set text-classification.problem=multi-label.")
        if isinstance(value, bool):
            value = str(value).lower()
        if isinstance(value, float):
            if not math.isfinite(value):
                raise DataError(f"{where()}: the label is `{value}`; fill it in or remove the row.")
            value = int(value) if value == int(value) else value
        if isinstance(value, str) and not value.strip():
            raise DataError(f"{where()}: the label is empty; fill it in or remove the row.")
        if isinstance(value, str) and value.startswith('{"') and value.endswith("}"):
            raise DataError(f"{where()}: the label is an object (`{value[:60]}`); it must be a text or a number.")
        return [value]

    def _weigh(self, flat: list[Any], rows: int) -> None:
        chosen = self.options.class_weights
        if chosen == "none":
            return
        if chosen == "balanced":
            counts = dict.fromkeys(self.labels, 0)
            for label in flat:
                counts[str(label)] += 1
            self.weights = [rows / (len(self.labels) * counts[label]) for label in self.labels]
            return
        for label in chosen:
            if label not in self.labels:
                raise DataError("text-classification.class_weights: " + unknown("label", label, self.labels))
        self.weights = [float(chosen.get(label, 1.0)) for label in self.labels]

    def check(self, rows: Rows, role: str) -> None:
        """Refuse labels that the training rows do not have."""
        if "label" not in rows.table.column_names:
            return
        self._refuse_nested(rows)
        known = set(self.labels)
        for i, value in enumerate(rows.table["label"]):
            parsed = self._parse(value, rows, i)
            if self.problem == "regression":
                continue
            for label in parsed:
                if str(label) not in known:
                    raise DataError(
                        f"{rows.where(i)}: the label `{label}` of the {role} rows does not occur in the training rows "
                        f"(they have {', '.join(self.labels[:12])}{', ...' if len(self.labels) > 12 else ''}); add training rows or remove it."
                    )

    def state_dict(self) -> dict[str, Any]:
        """Problem, labels and weights."""
        return {"problem": self.problem, "labels": self.labels, "numeric": self.numeric, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore problem, labels and weights."""
        self.problem, self.labels = state["problem"], list(state["labels"])
        self.numeric, self.weights = bool(state["numeric"]), state["weights"]

    def config_overrides(self) -> dict[str, Any]:
        """Number and names of labels, and transformers' name of the problem."""
        if self.problem == "regression":
            return {"num_labels": 1, "id2label": {0: "score"}, "label2id": {"score": 0}, "problem_type": "regression"}
        kind = "multi_label_classification" if self.problem == "multi-label" else "single_label_classification"
        names = dict(enumerate(self.labels))
        return {
            "num_labels": len(names),
            "id2label": names,
            "label2id": {n: i for i, n in names.items()},
            "problem_type": kind,
        }

    # ---- rows to batches

    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """Token ids of the text (or pair), cut on the right; the label as an index, a 0/1 vector or a number."""
        texts = [row["text"] if isinstance(row["text"], str) else str(row["text"]) for row in rows]
        paired = any("text_pair" in row for row in rows)
        pairs = [str(row.get("text_pair") or "") for row in rows] if paired else None
        encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length, return_attention_mask=False,
            split_special_tokens=True,  # `</s>` in a text is text: a head that looks for the real one must not find it
        )  # fmt: skip
        for i, row in enumerate(rows):
            # A tokenizer that adds nothing makes an empty text an empty row, which no model can read.
            ids = encoded["input_ids"][i] or [tokenizer.pad_token_id]
            features: dict[str, Any] = {"input_ids": np.asarray(ids, np.int32)}
            if pairs is not None and "token_type_ids" in encoded:
                features["token_type_ids"] = np.asarray(encoded["token_type_ids"][i], np.int8)
            if "label" in row:
                features["labels"] = self.target(row["label"])
            yield [features]

    def target(self, value: Any) -> Any:
        """A checked label cell as an index, a 0/1 vector or a number."""
        if self.problem == "regression":
            return np.float32(value)
        parsed = self._parse(value, None, 0)
        index = {label: i for i, label in enumerate(self.labels)}
        if self.problem == "single-label":
            return np.int32(index[str(parsed[0])])
        target = np.zeros(len(index), np.float32)
        target[[index[str(label)] for label in parsed]] = 1
        return target

    def collate(self, features: Sequence[Features], pad_id: int, rng: np.random.Generator | None = None) -> Batch:
        """Pad to the longest feature of the batch."""
        batch = {"input_ids": pad(features, "input_ids", pad_id), "attention_mask": attention_mask(features)}
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = pad(features, "token_type_ids", 0)
        if "labels" in features[0]:
            values = np.stack([each["labels"] for each in features])
            batch["labels"] = torch.from_numpy(
                values.astype(np.int64 if self.problem == "single-label" else np.float32)
            )
        return batch

    # ---- loss, metrics, predictions

    def units(self, batch: Batch) -> float:
        """Rows, or the sum of their labels' weights."""
        labels = batch["labels"]
        if self.weights is None or self.problem != "single-label":
            return float(len(labels))
        return float(torch.tensor(self.weights)[labels.cpu()].sum())

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy, binary cross-entropy (mean over labels) or squared error, summed over rows."""
        logits, labels = outputs.logits.float(), batch["labels"]
        weight = torch.tensor(self.weights, device=logits.device) if self.weights else None
        if self.problem == "regression":
            return F.mse_loss(logits.squeeze(-1), labels, reduction="sum")
        if self.problem == "multi-label":
            each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight, reduction="none")
            return each.mean(-1).sum()
        return F.cross_entropy(logits, labels, weight=weight, reduction="sum")

    def distribution(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Over the labels; for several labels a row, yes or no for each; for regression the number itself, [B, 1]."""
        logits: torch.Tensor = outputs.logits
        if self.problem == "multi-label":
            return torch.stack([torch.zeros_like(logits), logits], -1).flatten(0, 1)
        return logits

    def sampled_loss(self, outputs: Any, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """For regression -log p of a number drawn with variance 1 around the prediction."""
        if self.problem != "regression":
            return super().sampled_loss(outputs, batch, generator)
        value = outputs.logits.float().squeeze(-1)
        drawn = value.detach() + torch.randn(value.shape, generator=generator).to(value.device)
        return (value - drawn).square().sum() / 2

    def read(
        self, model: Any, outputs: Any, batch: Batch, features: Sequence[Features], *, predicting: bool = False
    ) -> list[tuple[Any, np.ndarray[Any, Any]]]:
        """Label index and its probability; a 0/1 vector and probabilities; or the number."""
        logits = outputs.logits.float()
        if self.problem == "regression":
            numbers = logits.squeeze(-1).cpu().numpy()
            return list(zip(numbers, numbers, strict=True))
        if self.problem == "multi-label":
            probability = logits.sigmoid().cpu().numpy()
            return list(zip((probability >= self.options.threshold).astype(np.int64), probability, strict=True))
        score, index = logits.softmax(-1).max(-1)
        return list(zip(index.cpu().numpy(), score.cpu().numpy(), strict=True))

    def join(self, records: Sequence[tuple[Any, np.ndarray[Any, Any]]], row: Mapping[str, Any]) -> Answer:
        """Label names instead of indices; a row is one feature."""
        value, score = records[0]
        numbers = np.ravel(score).tolist()
        if self.problem == "regression":
            return Answer(value, {"prediction": float(value)}, numbers)
        if self.problem == "multi-label":
            chosen = [self._label(int(i)) for i in np.flatnonzero(value)]
            shown = {label: float(s) for label, s in zip(self.labels, score, strict=True)}
            return Answer(value, {"prediction": chosen, "score": shown}, numbers)
        return Answer(value, {"prediction": self._label(int(value)), "score": float(score)}, numbers)

    def _label(self, index: int) -> Any:
        return int(self.labels[index]) if self.numeric else self.labels[index]

    def truth(self, row: Mapping[str, Any]) -> Any:
        """The label cell as an index, a 0/1 vector or a number."""
        value = self.target(row["label"])
        return value.astype(np.int64) if self.problem == "multi-label" else value

    def metric(self) -> Metric:
        """A fresh accumulator."""
        kinds: dict[str, type[Any]] = {"regression": Regression, "multi-label": MultiLabel}
        return kinds.get(self.problem, SingleLabel)()
