"""Summarization: a long text and its short form, with an encoder-decoder or a decoder.

An encoder-decoder reads the document (behind `prefix`, as T5 was trained with "summarize: ") and writes the summary. A decoder
reads it in its chat template, or followed by `TL;DR:` (Radford et al. 2019, section 3.6). A document that is too long loses
its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from tunesmith.data.sources import Rows
from tunesmith.errors import ConfigError, DataError, called
from tunesmith.tasks import _template as template
from tunesmith.tasks._base import Answer
from tunesmith.tasks._generation import GenerationOptions, GenerationTask, plain_ids, without_end

REQUEST = "Summarize the following text.\n\n"
LEAST = 4  # tokens of a document that are worth reading
CUE = "\n\nTL;DR: "


class SummarizationOptions(GenerationOptions):
    """Options of summarization."""

    prefix: str | None = Field(
        None, description='put before the document (default: "summarize: " for T5, else nothing)'
    )
    max_summary: int = Field(128, ge=4, description="tokens that a training summary is cut to")
    best_by: Literal["rougeL", "rouge1", "rouge2", "chrf"] = Field(
        "rougeL", description="the metric that results are compared by; chrf needs no words, for scripts without spaces"
    )


class Summarization(GenerationTask):
    """Rows with `document` and `summary`."""

    Options = SummarizationOptions
    required: ClassVar[tuple[str, ...]] = ("document", "summary")
    inputs: ClassVar[tuple[str, ...]] = ("document",)
    targets: ClassVar[tuple[str, ...]] = ("summary",)
    synonyms: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "document": ("article", "text", "dialogue"),
        "summary": ("highlights", "abstract"),
    }
    default_max_length = 512
    code_version = 2

    @property
    def primary(self) -> str:
        """ROUGE-L, or what was chosen; perplexity when nothing is written."""
        return str(self.options.best_by) if self.options.generate_rows else "perplexity"

    def fit(self, train: Rows) -> None:
        """Nothing is learned from the rows; those that cannot be used are refused."""
        self.check(train, "train")

    def check(self, rows: Rows, role: str) -> None:
        """Refuse rows whose document or summary is not text, or empty."""
        for name in self.required:
            if name not in rows.table.column_names:
                continue
            for i, value in enumerate(rows.table[name]):
                if not isinstance(value, str):
                    raise DataError(f"{rows.where(i)}: `{name}` is {called(value)}; it must be text.")
                if not value.strip():
                    raise DataError(f"{rows.where(i)}: the {name} is empty; fill it in or remove the row.")

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        """Choose prefix and frame by the model."""
        super().bind(model, tokenizer, kind)
        given = self.options.prefix
        family = getattr(model.config, "model_type", "")
        self.prefix = given if given is not None else "summarize: " if family in ("t5", "mt5", "umt5") else ""
        self.frame = "chat" if tokenizer.chat_template and kind == "decoder" and given is None else "plain"
        if self.frame == "chat":
            end = template.end_of_turn(tokenizer)
            self.stops = list(dict.fromkeys([*([end] if end is not None else []), *self.stops]))

    def with_answer(self, row: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        """The written summary."""
        return {**row, "summary": str(answer.shown["prediction"])}

    def encoding_key(self) -> dict[str, Any]:
        """Prefix, frame and end token."""
        return {**super().encoding_key(), "prefix": self.prefix, "frame": self.frame}

    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """The framed document, then the summary's ids and the end token."""
        # A decoder keeps room for the summary in one sequence: at most a quarter of it, so that documents are not crowded out.
        limit = self.options.max_summary
        limit = limit if self.kind == "encoder-decoder" else min(limit, max(8, max_length // 4))
        before, after = self.around(tokenizer)
        room = max_length - len(before) - len(after) - (0 if self.kind == "encoder-decoder" else limit)
        if room < LEAST:
            beside = len(before) + len(after)
            raise ConfigError([(
                "max_length", f"of {max_length} tokens, {beside} go to what stands around a document"
                f"{'' if self.kind == 'encoder-decoder' else f' and {limit} to the summary'}, which leaves {max(room, 0)} to the document "
                f"itself (at least {LEAST}); raise --max-length{', or shorten summarization.prefix' if self.prefix else ''}.",
            )])  # fmt: skip
        for row in rows:
            document = plain_ids(str(row["document"]), tokenizer)[:room]
            target = None
            if "summary" in row:
                target = [*plain_ids(row["summary"], tokenizer)[: limit - 1], *self.stops[:1]]
            yield [self.feature([*before, *document, *after], target)]

    def around(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """Ids before and after the document, the same for every row."""
        if self.frame == "chat":
            mark = "\u2063document\u2063"
            text = template.render(tokenizer, [{"role": "user", "content": f"{REQUEST}{mark}"}], None, prompt=True)
            before, _, after = text.partition(mark)
            return plain_ids(before, tokenizer), plain_ids(after, tokenizer)
        if self.kind == "encoder-decoder":
            whole = list(tokenizer(self.prefix)["input_ids"])
            start = without_end(whole, tokenizer)
            return start, whole[len(start) :]
        return without_end(list(tokenizer(self.prefix)["input_ids"]), tokenizer), plain_ids(CUE, tokenizer)

    def truth(self, row: Mapping[str, Any]) -> str:
        """The summary."""
        return str(row["summary"])
