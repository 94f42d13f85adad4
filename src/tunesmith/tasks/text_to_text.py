"""Text-to-text: classification, entities, questions or plain text as an instruction and what should be written, for any model that writes.

    instruction, blank line, what the task reads     ->     what the task would answer, in words
    Which of these fits the text: ...? A fine film.  ->     positive
    List the person, location in the text. ...       ->     person: Angela Merkel; location: Paris

All tasks of this form share one head, the language model's own output layer; the instruction tells them apart (Raffel et al. 2020,
section 2.4; Sanh et al. 2022). The wrapped task still owns the rows, their checks, the truth and the metrics: what is written is
turned back into its answers (`_wording`), for the first `generate_rows` rows of those that are measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from tunesmith import registry
from tunesmith.data.sources import Rows
from tunesmith.metrics.counts import Array, Drawn, share
from tunesmith.tasks._base import Answer, Batch, Features, Metric
from tunesmith.tasks._generation import GenerationOptions, plain_ids
from tunesmith.tasks._language import TokenMetric, TokenScore, token_scores
from tunesmith.tasks._wording import Wording, wording_of
from tunesmith.tasks.instruction import FrameOptions, Instruction

COLUMNS = (
    "required", "optional", "inputs", "groups", "targets", "structured", "synonyms", "stand_ins", "plain_text", "default_max_length",
)  # fmt: skip
WRITE = "Write a text."
READ: dict[str, tuple[str, ...]] = {
    "text-classification": ("problem", "separator"), "token-classification": ("scheme", "repair", "labels"),
    "question-answering": ("offsets",), "language-modeling": (),
}  # fmt: skip
"""Options of the wrapped tasks that are about rows; the others are about their heads."""


class TextToTextOptions(FrameOptions):
    """Options of text-to-text."""

    task: Literal["text-classification", "token-classification", "question-answering", "language-modeling"] = Field(
        "text-classification", description="what the rows are for"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="that task's own options")
    instruction: str | None = Field(None, description="what stands before every row (default: made of the labels)")
    words: dict[str, str] = Field(
        default_factory=dict, description="the word that stands for a label or type, where its name does not"
    )
    template: Literal["auto", "chat", "plain", "alpaca"] = Field("plain", description="frame of instruction and row")
    generate_rows: int = Field(256, ge=0, description="eval rows whose answer is written and scored; 0 turns it off")
    max_new_tokens: int = Field(64, ge=1, description="longest text that the model may write")

    @model_validator(mode="after")
    def _inner(self) -> TextToTextOptions:
        """The wrapped task's options are checked with ours."""
        try:
            registry.load("task", self.task).Options.model_validate(self.options)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{self.task}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        idle = next((name for name in self.options if name not in READ[self.task]), None)
        if idle is not None:
            allowed = ", ".join(READ[self.task]) or "none"
            raise ValueError(
                f"{self.task}.{idle} is about a head, which there is none of in words; leave it out ({allowed} have a meaning)"
            )
        return self


class TextToTextMetric:
    """The wrapped task's metrics over the rows that were answered, `readable` among them, and perplexity over all."""

    def __init__(self, inner: Metric | None) -> None:
        self.inner, self.tokens = inner, TokenMetric()
        self.answered = self.readable = 0

    def update(self, predicted: tuple[TokenScore, Any, bool | None], true: Any) -> None:
        """Add one row."""
        score, value, readable = predicted
        self.tokens.update(score, true)
        if readable is not None and self.inner is not None:
            self.answered, self.readable = self.answered + 1, self.readable + readable
            self.inner.update(value, true)

    def compute(self) -> dict[str, float]:
        """The metrics over everything added."""
        found = {"perplexity": self.tokens.compute()["perplexity"]}
        if self.inner is not None and self.answered:
            found = {**self.inner.compute(), "readable": self.readable / self.answered, **found}
        return found

    def counts(self, predicted: tuple[TokenScore, Any, bool | None], true: Any) -> dict[str, float]:
        """Those of tokens, and of the wrapped task where the row was answered."""
        score, value, readable = predicted
        found = self.tokens.counts(score, true)
        if readable is not None and self.inner is not None:
            inner: Any = self.inner
            found |= {"answered": 1, **({"readable": 1} if readable else {}), **inner.counts(value, true)}
        return found

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows."""
        found = {"perplexity": self.tokens.from_counts(drawn)["perplexity"]}
        if self.inner is not None and "answered" in drawn:
            inner: Any = self.inner
            found = {**inner.from_counts(drawn), "readable": share(drawn["readable"], drawn["answered"]), **found}
        return found


class TextToText(Instruction):
    """Rows of another task, asked and answered in words."""

    Options: ClassVar[type[GenerationOptions]] = TextToTextOptions
    wraps: ClassVar[bool] = True
    learns_labels: ClassVar[bool] = True
    code_version = 1

    def __init__(self, options: TextToTextOptions) -> None:
        super().__init__(options)
        cls = registry.load("task", options.task)
        chosen = {"objective": "causal"} if options.task == "language-modeling" else {}
        self.inner = cls(cls.Options.model_validate({**options.options, **chosen}))
        self.wording: Wording | None = None
        for name in COLUMNS:
            setattr(self, name, getattr(self.inner, name))

    @property
    def num_labels(self) -> int | None:
        """The wrapped task's."""
        return self.inner.num_labels

    @property
    def primary(self) -> str:
        """The wrapped task's, where rows are answered."""
        written = self.options.generate_rows or self.inner.name == "language-modeling"
        return str(self.inner.primary) if written else "perplexity"

    # ---- what the training rows say

    def fit(self, train: Rows) -> None:
        """The wrapped task learns its labels; each gets its word."""
        self.inner.fit(train)
        self.wording = wording_of(self.inner, self.options.words)

    def extend(self, train: Rows) -> None:
        """Further labels are further words."""
        self.inner.extend(train)
        self.wording = wording_of(self.inner, self.options.words)

    def check(self, rows: Rows, role: str) -> None:
        """The wrapped task's own checks."""
        self.inner.check(rows, role)

    def state_dict(self) -> dict[str, Any]:
        """What the wrapped task learned."""
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.inner.load_state_dict(state["inner"])
        self.wording = wording_of(self.inner, self.options.words)

    # ---- rows to features

    @property
    def instruction(self) -> str:
        """What stands before every row."""
        return str(self.options.instruction or (self.wording.instruction if self.wording else WRITE))

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        """Every row comes with an input of its own."""
        self.has_input = True
        super().bind(model, tokenizer, kind)

    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """Instruction and row in their frame, then the answer in words; a text in windows, each behind the instruction."""
        for row in rows:
            if self.wording is None:
                yield self._text(str(row["text"]), tokenizer, max_length)
                continue
            framed = {"prompt": self.instruction, "input": self.wording.material(row)}
            if self.inner.targets[0] in row:
                framed["completion"] = self.wording.target(row)
            yield from super().encode([framed], tokenizer, max_length)

    def _text(self, text: str, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
        """The windows of a text; the last one ends with the end token."""
        row = {"prompt": self.instruction, "input": ""}
        prompt = self.prompt_ids(row, tokenizer, max_length // 2)
        ids = [*plain_ids(text, tokenizer), *self.stops[:1]]
        room = max_length - (0 if self.kind == "encoder-decoder" else len(prompt))
        return [self.feature(prompt, ids[i : i + room]) for i in range(0, max(len(ids), 1), room)]

    # ---- metrics, predictions

    def read(
        self, model: Any, outputs: Any, batch: Batch, features: Sequence[Features], *, predicting: bool = False
    ) -> list[tuple[TokenScore | None, str | None]]:
        """Scores of the target, and what the model writes; of a text only its scores."""
        if self.wording is not None:
            return super().read(model, outputs, batch, features, predicting=predicting)
        scores: Sequence[TokenScore | None] = token_scores(outputs, batch.get("labels")) or [None] * len(features)
        return [(score, None) for score in scores]

    def join(self, records: Sequence[tuple[TokenScore | None, str | None]], row: Mapping[str, Any]) -> Answer:
        """What was written as the wrapped task's answer."""
        plainly = super().join(records, row)
        score, text = plainly.value
        if self.wording is None:
            answer: Answer = self.inner.join([score], row)
            return Answer((score, score, True), answer.shown, answer.numbers)
        if text is None:
            return Answer((score, None, None), plainly.shown, plainly.numbers)
        value, readable = self.wording.value(text, row)
        shown = {**plainly.shown, **self.wording.shown(value, row), "written": text}
        return Answer((score, value, readable), shown, plainly.numbers)

    def truth(self, row: Mapping[str, Any]) -> Any:
        """The wrapped task's."""
        return self.inner.truth(row)

    def metric(self) -> Metric:
        """A fresh accumulator."""
        return TextToTextMetric(self.inner.metric())
