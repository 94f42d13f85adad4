"""Instruction: a prompt and the completion that should follow, in the model's chat template where it has one.

Rows have `prompt` and `completion` (TRL's form), or `instruction`, `input` and `output` (Alpaca's), and may have `system`. Only
the completion is learned, with the token that ends it, unless `train_on_prompt` is set. What is too long loses text from the end of
its input, then of its prompt, never its frame, and a completion is never cut without an error or a wish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from tunesmith.data.sources import Rows
from tunesmith.errors import DataError, called
from tunesmith.tasks import _template as template
from tunesmith.tasks._base import Answer
from tunesmith.tasks._generation import GenerationOptions, GenerationTask, plain_ids, without_end

# Taori et al. 2023, the form that Alpaca's rows were made for.
ALPACA = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n{input}### Response:\n"
)
MESSAGES = "holds chat messages; put prompt and completion into one list under `messages`, and use --task chat."
WITH_INPUT = ", paired with an input that provides further context"


class FrameOptions(GenerationOptions):
    """Options of a prompt in its frame and the completion behind it."""

    template: Literal["auto", "chat", "plain", "alpaca"] = Field(
        "auto",
        description="frame of the prompt; auto: the chat template if there is one, else alpaca for rows of that form, else none",
    )
    train_on_prompt: bool = Field(False, description="learn the prompt too, not the completion alone")
    long_completion: Literal["error", "cut"] = Field(
        "error", description="what to do with a completion beyond max_length"
    )


class InstructionOptions(FrameOptions):
    """Options of instruction tuning."""

    best_by: Literal["perplexity", "token_accuracy", "exact_match", "rougeL", "chrf"] = Field(
        "perplexity",
        description="the metric that results are compared by; the last three score what the model writes itself",
    )


class Instruction(GenerationTask):
    """Rows with `prompt` and `completion`, or Alpaca's `instruction`, `input`, `output`."""

    Options: ClassVar[type[GenerationOptions]] = InstructionOptions
    required: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    optional: ClassVar[tuple[str, ...]] = ("input", "system")
    inputs: ClassVar[tuple[str, ...]] = ("prompt", "input")
    targets: ClassVar[tuple[str, ...]] = ("completion",)
    synonyms: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prompt": ("instruction", "question"),
        "completion": ("output", "response", "answer"),
    }
    default_max_length = 512
    code_version = 3

    def __init__(self, options: FrameOptions) -> None:
        super().__init__(options)
        self.has_input = False

    @property
    def primary(self) -> str:
        """Perplexity, or what was chosen; perplexity where that needs texts and none is written."""
        written = self.options.best_by not in ("perplexity", "token_accuracy")
        return "perplexity" if written and not self.options.generate_rows else str(self.options.best_by)

    def fit(self, train: Rows) -> None:
        """See whether rows come with an input of their own."""
        self.has_input = "input" in train.table.column_names
        self.check(train, "train")

    def check(self, rows: Rows, role: str) -> None:
        """Refuse rows whose prompt or completion is not text, or empty, and whose input or system prompt is there and not text."""
        for name in self.optional:
            for i, value in enumerate(rows.table[name] if name in rows.table.column_names else ()):
                if value is not None and not isinstance(value, str):
                    raise DataError(
                        f"{rows.where(i)}: `{name}` is {called(value)}; it must be text, or null where there is none."
                    )
        for name in ("prompt", "completion"):
            if name not in rows.table.column_names:
                continue
            for i, value in enumerate(rows.table[name]):
                if not isinstance(value, str):
                    raise DataError(f"{rows.where(i)}: `{name}` is {called(value)}; it must be text.")
                if template.is_conversation(value):
                    raise DataError(f"{rows.where(i)}: `{name}` {MESSAGES}")
                if not value.strip():
                    what = (
                        "nothing would be learned from it"
                        if name == "completion"
                        else "the model would have nothing to answer"
                    )
                    raise DataError(f"{rows.where(i)}: the {name} is empty, so {what}; fill it in or remove the row.")

    def state_dict(self) -> dict[str, Any]:
        """Whether rows have an input."""
        return {"has_input": self.has_input}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.has_input = bool(state["has_input"])

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        """Choose the frame, and the token that ends an answer in it."""
        super().bind(model, tokenizer, kind)
        chosen = self.options.template
        if chosen == "auto":
            chosen = (
                "chat" if tokenizer.chat_template and kind == "decoder" else "alpaca" if self.has_input else "plain"
            )
        if chosen == "chat":
            template.ensure_template(tokenizer)
            end = template.end_of_turn(tokenizer)
            self.stops = list(dict.fromkeys([*([end] if end is not None else []), *self.stops]))
        self.frame = chosen

    def encoding_key(self) -> dict[str, Any]:
        """The frame and the end token."""
        return {**super().encoding_key(), "frame": self.frame}

    def with_answer(self, row: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        """The written completion."""
        return {**row, "completion": str(answer.shown["prediction"])}

    # ---- rows to features

    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """Prompt ids in their frame, then the completion's ids and the end token."""
        frames: dict[str, int] = {}  # tokens of the frame by system prompt
        for row in rows:
            if template.is_conversation(str(row["prompt"])):
                raise DataError(f"`prompt` {MESSAGES}")
            target = None
            if "completion" in row:
                target = [*plain_ids(row["completion"], tokenizer), *self.stops[:1]]
                system = str(row.get("system") or "")
                if system not in frames:
                    frames[system] = len(self.framed(row, "", "", tokenizer))
                target = self.fitting(target, max_length, frames[system])
            room = max_length if self.kind == "encoder-decoder" else max_length - len(target or ())
            prompt = self.prompt_ids(row, tokenizer, room)
            trained = (
                [True] * (len(prompt) + len(target)) if target is not None and self.options.train_on_prompt else None
            )
            yield [self.feature(prompt, target, trained)]

    def fitting(self, target: list[int], max_length: int, frame: int) -> list[int]:
        """A completion that leaves room for its prompt, cut if that was asked for.

        A decoder has one sequence for both. A completion that leaves the frame, and an eighth of max_length in all, stays whole; of a longer one so much is
        kept that a quarter is the prompt's, and an eighth beside the frame.

        Raises:
            DataError: it is too long and may not be cut.
        """
        kept = max_length
        if self.kind != "encoder-decoder" and max_length - len(target) < max(max_length // 8, frame):
            kept -= max(max_length // 4, frame + max_length // 8)
        if len(target) <= kept or kept < 2:  # where there is no room for any, it is the frame that is told of
            return target
        if self.options.long_completion == "error":
            raise DataError(
                f"a completion has {len(target)} tokens where max_length={max_length} leaves {kept}; raise --max-length, shorten the "
                "row, or set instruction.long_completion=cut."
            )
        return [*target[: kept - 1], *self.stops[:1]]

    def prompt_ids(self, row: Mapping[str, Any], tokenizer: Any, room: int) -> list[int]:
        """The framed prompt; its input, then the prompt itself, loses text from the end until it fits.

        Raises:
            DataError: the frame alone does not fit.
        """
        texts = {"prompt": str(row["prompt"]), "input": str(row.get("input") or "")}
        ids = self.framed(row, **texts, tokenizer=tokenizer)
        # The input is material and often long (an article); without the prompt nobody would know what to do with it.
        for name in ("input", "prompt"):
            while len(ids) > room and texts[name]:
                words = plain_ids(texts[name], tokenizer)
                keep = max(0, len(words) - (len(ids) - room))
                # A character that is cut in two decodes to a mark that may take more tokens than were cut.
                texts[name] = tokenizer.decode(words[:keep], skip_special_tokens=True).rstrip("\ufffd") if keep else ""
                ids = self.framed(row, **texts, tokenizer=tokenizer)
        if len(ids) > room:
            shorter = "shorten `system`" if row.get("system") else "set instruction.template=plain"
            raise DataError(
                f"the frame of a prompt alone has {len(ids)} tokens where max_length leaves {max(0, room)} beside the completion; "
                f"raise --max-length, or {shorter}."
            )
        return ids

    def framed(self, row: Mapping[str, Any], prompt: str, input: str, tokenizer: Any) -> list[int]:
        """Ids of a prompt in its frame."""
        text, extra = prompt, input
        if self.frame == "chat":
            user = f"{text}\n\n{extra}" if extra.strip() else text
            messages = [{"role": "user", "content": user}]
            if row.get("system"):
                messages.insert(0, {"role": "system", "content": str(row["system"])})
            return plain_ids(template.render(tokenizer, messages, None, prompt=True), tokenizer)
        if self.frame == "alpaca":
            more = f"### Input:\n{extra}\n\n" if extra.strip() else ""
            text = ALPACA.format(prompt=text, input=more, more=WITH_INPUT if more else "")
        elif extra.strip():
            text = f"{text}\n\n{extra}"
        if row.get("system"):
            text = f"{row['system']}\n\n{text}"
        ids = list(tokenizer(text)["input_ids"])
        return ids if self.kind == "encoder-decoder" else without_end(ids, tokenizer)

    def truth(self, row: Mapping[str, Any]) -> str:
        """The completion."""
        return str(row["completion"])
