"""Question answering: the part of a text that answers a question, or that there is none.

    [CLS] question [SEP] the tokens of the context [SEP]
      |                       |---- answer ----|
     null                   start             end          two logits a token

Every window of a long context is one training example: the head says where the answer starts and where it ends, and points
to the null position, the first token of the sequence, where there is no answer (Devlin et al. 2019, sections 4.2 and 4.3).
Start and end are chosen among the context's tokens and the null position alone, in training as in use:

    loss = -(log p_start(s) + log p_end(e)) / 2 a window        score of a span = p_start(s) p_end(e)

The windows' best spans compete for the row. Where training rows are unanswerable, a row gets no answer when the null position
of every window beats its best span by more than a threshold, which is chosen on validation rows.

A decoder reads from left to right, so the question stands first, and its null position is the last one, an end token: the
first has seen nothing and could only be a constant. (On rows that a word after the answer makes unanswerable a tiny GPT-2 and a
tiny Llama reached an F1 of 0.46 to 0.52 with the first position and 0.89 to 0.95 with the last.) The decoder of T5 and BART
sees the whole input from every position, so theirs is the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from tunesmith.config import Options as BaseOptions
from tunesmith.console import say, warn
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError, called
from tunesmith.metrics.squad import Squad, best_threshold, scores
from tunesmith.tasks import _windows
from tunesmith.tasks._answers import Gold, parse, place, short
from tunesmith.tasks._base import Answer, Batch, Features, Metric, Task, attention_mask, pad

CONTEXT_SHARE = 0.25  # of a window, the least that a question must leave to the context


class QuestionAnsweringOptions(BaseOptions):
    """Options of question answering."""

    stride: int = Field(128, ge=0, description="tokens that neighbouring windows share (at most half of a window)")
    max_answer: int | None = Field(
        None,
        ge=1,
        description="longest answer in tokens; default: as many characters as the longest training answer has",
    )
    n_best: int = Field(10, ge=1, description="spans kept of every window and shown of every row")
    null_threshold: float | None = Field(
        None,
        description="a row is unanswerable when the null position beats its best span by more (in nats); default: chosen on validation rows",
    )
    missed_weight: float = Field(
        1.0,
        gt=0,
        description="in training, weight of a window that does not hold its row's answer; below 1 where contexts make many windows",
    )
    offsets: Literal["check", "mend"] = Field(
        "check", description="an answer that is not at its answer_start: an error, or taken from the nearest place"
    )
    long_question: Literal["error", "cut"] = Field(
        "error", description="a question that leaves less than a quarter of max_length to the context: an error, or cut"
    )


class Window(NamedTuple):
    """What is kept of one window: log p of the null position, and the best spans as (log p, first, last character + 1)."""

    null: float
    spans: list[tuple[float, int, int]]


class QuestionAnswering(Task):
    """Rows with `question`, `context` and `answers`."""

    Options = QuestionAnsweringOptions
    code_version = 2
    required: ClassVar[tuple[str, ...]] = ("question", "context", "answers")
    optional: ClassVar[tuple[str, ...]] = ("id", "answer_start", "is_impossible")
    inputs: ClassVar[tuple[str, ...]] = ("question", "context")
    groups: ClassVar[tuple[str, ...]] = ("context",)
    targets: ClassVar[tuple[str, ...]] = ("answers", "answer_start", "is_impossible")
    structured: ClassVar[tuple[str, ...]] = ("answers",)
    synonyms: ClassVar[Mapping[str, tuple[str, ...]]] = {"answers": ("answer",), "context": ("passage",)}
    auto_class = "AutoModelForQuestionAnswering"
    reads: ClassVar[Literal["sequence", "tokens"]] = "tokens"
    aligned_by: ClassVar[Literal["row", "word", "character", "text"]] = "character"
    default_max_length = 384

    null_last = False
    """Whether the null position is the last one instead of the first."""

    def __init__(self, options: QuestionAnsweringOptions) -> None:
        super().__init__(options)
        self.unanswerable = False
        self.longest = 0  # characters of the longest training answer
        self.threshold = options.null_threshold or 0.0

    @property
    def primary(self) -> str:
        """F1 of the answers' words."""
        return "f1"

    # ---- what the training rows say

    def fit(self, train: Rows) -> None:
        """Learn whether questions may be unanswerable and how long answers are."""
        found = self._golds(train)
        self.unanswerable = not all(found)
        self.longest = max((len(gold.text) for golds in found for gold in golds), default=0)
        if not self.longest:
            raise DataError(
                f"`{train.source}` has no row with an answer; extractive training needs some that have one."
            )

    def check(self, rows: Rows, role: str) -> None:
        """Refuse answers that do not stand where they say."""
        if "answers" in rows.table.column_names:
            self._golds(rows)

    def _golds(self, rows: Rows) -> list[list[Gold]]:
        found = []
        for i, row in enumerate(rows.table):
            try:
                golds = self.golds(row)
            except DataError as error:
                raise DataError(f"{rows.where(i)}: {error}") from error
            if not row["question"].strip():
                raise DataError(f"{rows.where(i)}: the question is empty; fill it in or remove the row.")
            found.append(golds)
        return found

    def golds(self, row: Mapping[str, Any]) -> list[Gold]:
        """The accepted answers of a row and where they stand; none if it is unanswerable.

        Raises:
            DataError: question or context is not text, or an answer does not stand where it says.
        """
        for name in self.inputs:
            if not isinstance(row[name], str):
                raise DataError(f"`{name}` is {called(row[name])}; it must be text.")
        found = parse(row["answers"], row.get("answer_start"))
        if found and row.get("is_impossible") in (True, 1, "true", "True", "TRUE", "1"):
            raise DataError(
                f"is_impossible is true and there is the answer `{short(found[0][0])}`; empty `answers`, or set is_impossible to false."
            )
        return place(found, row["context"], self.options.offsets == "mend")

    def blank(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """No answer."""
        return {**row, "answers": {"text": [], "answer_start": []}}

    def chooses(self, train: Rows) -> bool:
        """The threshold, where there are unanswerable rows and it was not given."""
        if self.options.null_threshold is not None or "answers" not in train.table.column_names:
            return False
        starts = train.table["answer_start"] if "answer_start" in train.table.column_names else [None] * len(train)
        for i, (value, start) in enumerate(zip(train.table["answers"], starts, strict=True)):
            try:
                if not parse(value, start):
                    return True
            except DataError as error:
                raise DataError(f"{train.where(i)}: {error}") from error
        return False

    def tune(self, answers: Sequence[Answer], rows: Any) -> None:
        """Take the threshold with the highest F1 on the validation rows."""
        margins, answered, empty = [], [], []
        for answer, row in zip(answers, rows, strict=True):
            spans, true = answer.shown["spans"], self.truth(row)
            margins.append(answer.numbers[1])
            answered.append(scores(spans[0]["text"] if spans else "", true)[1])
            empty.append(scores("", true)[1])
        self.threshold = best_threshold(margins, answered, empty)
        say(
            f"A row is called unanswerable beyond a margin of {self.threshold:.2f} nats, the best of {len(margins)} validation rows."
        )

    def state_dict(self) -> dict[str, Any]:
        """Whether there are unanswerable rows, the longest answer, the threshold."""
        return {"unanswerable": self.unanswerable, "longest": self.longest, "threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.unanswerable, self.longest = bool(state["unanswerable"]), int(state["longest"])
        self.threshold = float(state["threshold"])

    def config_overrides(self) -> dict[str, Any]:
        """Two logits a token."""
        return {"num_labels": 2}

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        """Choose the null position by what positions see."""
        super().bind(model, tokenizer, kind)
        self.null_last = kind == "decoder"

    def encoding_key(self) -> dict[str, Any]:
        """Where the null position is."""
        return {"null_last": self.null_last}

    def null(self, length: int) -> int:
        """The null position of a sequence."""
        return length - 1 if self.null_last else 0

    # ---- rows to batches

    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """The windows of each row; the question stands whole in every one of them."""
        frame = _windows.frame_of(tokenizer, closed=self.null_last)
        contexts = dict.fromkeys(str(row["context"]) for row in rows)
        read = dict(zip(contexts, _windows.pieces(list(contexts), tokenizer), strict=True))
        questions = _windows.pieces([str(row["question"]).strip() for row in rows], tokenizer)
        cut = 0
        for row, (whole, _) in zip(rows, questions, strict=True):
            question = self._fit(whole, frame.size, max_length)
            cut += len(question) < len(whole)
            ids, spans = read[str(row["context"])]
            characters = np.asarray(spans, np.int32).reshape(-1, 2)
            targets = None
            if "answers" in row:
                found = (_windows.locate(gold.span, characters) for gold in self.golds(row))
                targets = [place for place in found if place is not None]
            room = max_length - frame.size - len(question)
            yield [
                self._window(frame, question, ids[at : at + room], characters[at : at + room], at, targets)
                for at in _windows.starts(len(ids), room, self.options.stride)
            ]
        if cut:
            warn(f"{cut} questions are cut: max_length={max_length} holds no more beside the context.")

    def _fit(self, question: list[int], around: int, max_length: int) -> list[int]:
        most = max_length - around - max(1, math.ceil(max_length * CONTEXT_SHARE))
        if len(question) <= most:
            return question
        if self.options.long_question == "cut" and most >= 0:
            return question[:most]
        raise DataError(
            f"the question has {len(question)} tokens, which leaves less than a quarter of max_length={max_length} to the context; "
            "raise --max-length, shorten the question, or cut such questions with --set question-answering.long_question=cut."
        )

    def _window(
        self,
        frame: _windows.Frame,
        question: list[int],
        ids: list[int],
        characters: np.ndarray[Any, Any],
        at: int,
        targets: Sequence[tuple[int, int]] | None,
    ) -> dict[str, Any]:
        lead = len(frame.before) + len(question) + len(frame.between)
        table = np.full((lead + len(ids) + len(frame.after), 2), -1, np.int32)
        table[lead : lead + len(ids)] = characters
        joined = frame.join(question, ids)
        feature: dict[str, Any] = {
            "input_ids": np.asarray(joined, np.int32),
            "begins": table[:, 0],
            "ends": table[:, 1],
        }
        segments = frame.segment_ids(len(question), len(ids))
        if segments is not None:
            feature["token_type_ids"] = np.asarray(segments, np.int8)
        if targets is not None:
            inside = ((s - at, e - at) for s, e in targets if at <= s and e < at + len(ids))
            nothing = self.null(len(joined)) - lead
            start, end = next(inside, (nothing, nothing))
            feature["labels"] = np.asarray([lead + start, lead + end], np.int32)
            feature["missed"] = np.int8(bool(targets) and start == nothing)
        return feature

    def collate(self, features: Sequence[Features], pad_id: int, rng: np.random.Generator | None = None) -> Batch:
        """Pad on the right; `candidates` are the positions where an answer may start or end, and null."""
        batch = {"input_ids": pad(features, "input_ids", pad_id), "attention_mask": attention_mask(features)}
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = pad(features, "token_type_ids", 0)
        batch["candidates"] = pad(features, "begins", -1) >= 0
        for i, feature in enumerate(features):
            batch["candidates"][i, self.null(len(feature["input_ids"]))] = True
        if "labels" in features[0]:
            batch["labels"] = torch.from_numpy(np.stack([each["labels"] for each in features]).astype(np.int64))
            if rng is not None and self.options.missed_weight != 1:
                missed = torch.tensor([bool(each["missed"]) for each in features])
                batch["weights"] = torch.where(missed, self.options.missed_weight, 1.0)
        return batch

    def model_inputs(self, batch: Batch) -> Batch:
        """Token ids, mask and segments."""
        return {name: value for name, value in batch.items() if name not in ("labels", "candidates", "weights")}

    # ---- loss, metrics, predictions

    def forward(self, model: Any, batch: Batch) -> Any:
        """Outputs whose `logits` are those of start and end, [B, T, 2]."""
        outputs = super().forward(model, batch)
        outputs.logits = torch.stack([outputs.start_logits, outputs.end_logits], -1)
        return outputs

    def units(self, batch: Batch) -> float:
        """Windows, those that miss their answer by their weight."""
        return float(batch["weights"].sum()) if "weights" in batch else float(len(batch["labels"]))

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Mean of the cross-entropies of start and end, summed over windows by their weight."""
        each = F.nll_loss(log_probabilities(outputs, batch), batch["labels"], reduction="none").mean(1)
        return (each * batch["weights"]).sum() if "weights" in batch else each.sum()

    def distribution(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Over the positions of a window, for the start and the end of the answer, [2 B, T]."""
        return log_probabilities(outputs, batch).transpose(1, 2).flatten(0, 1)

    def read(
        self, model: Any, outputs: Any, batch: Batch, features: Sequence[Features], *, predicting: bool = False
    ) -> list[Window]:
        """The null position and the best spans of each window."""
        table = log_probabilities(outputs, batch).cpu().numpy()
        return [
            Window(
                float(each[self.null(len(feature["begins"]))].sum()),
                self._best(each[: len(feature["begins"])], feature),
            )
            for each, feature in zip(table, features, strict=True)
        ]

    def _best(self, table: np.ndarray[Any, Any], feature: Features) -> list[tuple[float, int, int]]:
        """The n best spans among all pairs of a start and an end, [T, 2] log-probabilities."""
        real = np.flatnonzero(feature["begins"] >= 0)
        if not len(real):
            return []
        begins, ends = np.asarray(feature["begins"])[real], np.asarray(feature["ends"])[real]
        total = table[real, 0][:, None] + table[real, 1][None, :]
        if self.options.max_answer is None:
            fits = ends[None, :] - begins[:, None] <= self.longest
        else:
            fits = real[None, :] - real[:, None] < self.options.max_answer
        same = np.eye(len(real), dtype=bool)  # a single token is never too long
        allowed = same | (fits & (real[None, :] >= real[:, None]))
        ranked = np.where(allowed, total, -np.inf).ravel()
        count = min(self.options.n_best, int(allowed.sum()))
        best = np.argpartition(-ranked, count - 1)[:count]
        return [
            (float(ranked[i]), int(begins[i // len(real)]), int(ends[i % len(real)]))
            for i in best[np.argsort(-ranked[best], kind="stable")]
        ]

    def join(self, records: Sequence[Window], row: Mapping[str, Any]) -> Answer:
        """The best span of all windows, or none."""
        spans: dict[tuple[int, int], float] = {}
        for window in records:
            for score, begin, end in window.spans:
                spans[begin, end] = max(score, spans.get((begin, end), -math.inf))
        ranked = sorted(spans.items(), key=lambda item: (-item[1], item[0]))[: self.options.n_best]
        context = str(row["context"])
        shown = [
            {"text": context[begin:end], "start": begin, "end": end, "score": math.exp(score)}
            for (begin, end), score in ranked
        ]
        null = min((window.null for window in records), default=0.0)
        if not ranked:
            return Answer("", {"prediction": "", "score": math.exp(null), "spans": []}, [0.0, 0.0])
        best = ranked[0][1]
        numbers = [best, null - best]
        if self.unanswerable and null - best > self.threshold:
            return Answer("", {"prediction": "", "score": math.exp(null), "spans": shown}, numbers)
        text = shown[0]["text"]
        return Answer(text, {"prediction": text, "score": shown[0]["score"], "spans": shown}, numbers)

    def truth(self, row: Mapping[str, Any]) -> list[str]:
        """The accepted texts."""
        return [text for text, _ in parse(row["answers"], row.get("answer_start"))]

    def metric(self) -> Metric:
        """A fresh accumulator."""
        return Squad()

    # ---- for whoever checks a data set before training

    def misplaced(self, rows: Rows) -> list[tuple[int, str]]:
        """(row index, what is wrong) of every row whose answers do not stand where they say."""
        found = []
        for i, row in enumerate(rows.table):
            try:
                self.golds(row)
            except DataError as error:
                found.append((i, str(error)))
        return found

    def outside(self, rows: Rows, tokenizer: Any, max_length: int) -> list[int]:
        """Indices of the rows that have an answer, none of which stands whole in any window: they would teach that there is none."""
        records = rows.table.to_list()
        encoded = self.encode(records, tokenizer, max_length)
        return [
            i
            for i, (row, features) in enumerate(zip(records, encoded, strict=True))
            if self.truth(row) and not any(f["begins"][f["labels"][0]] >= 0 for f in features)
        ]


def log_probabilities(outputs: Any, batch: Batch) -> torch.Tensor:
    """Log-probabilities of start and end over the candidate positions of each window, [B, T, 2], -inf elsewhere, in fp32."""
    logits = outputs.logits.float().masked_fill(~batch["candidates"][..., None], -math.inf)
    return logits.log_softmax(1)
