"""Chat: conversations of several turns, in which the assistant's turns are learned.

Rows have `messages` in OpenAI's form (`role`, `content`, tool calls) or `conversations` in ShareGPT's (`from`, `value`), and may
have `tools`. Each answer is learned with its end-of-turn token, for any chat template (`_template`). A conversation that is
too long is cut between exchanges into several sequences, each under the same system prompt; no turn is ever cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from tunesmith.data.sources import Rows
from tunesmith.errors import DataError, called
from tunesmith.tasks import _template as template
from tunesmith.tasks._base import Answer
from tunesmith.tasks._generation import GenerationOptions, GenerationTask, plain_ids
from tunesmith.tasks._template import Piece


class ChatOptions(GenerationOptions):
    """Options of chat."""

    system: str | None = Field(None, description="system prompt for conversations that bring none")
    train_on_all: bool = Field(False, description="learn every turn, not the assistant's alone")
    too_long: Literal["error", "drop"] = Field(
        "error", description="an exchange longer than max_length stops the run, or is left out"
    )


class Chat(GenerationTask):
    """Rows with `messages`."""

    Options = ChatOptions
    required: ClassVar[tuple[str, ...]] = ("messages",)
    optional: ClassVar[tuple[str, ...]] = ("tools",)
    inputs: ClassVar[tuple[str, ...]] = ("messages",)
    targets: ClassVar[tuple[str, ...]] = ()
    structured: ClassVar[tuple[str, ...]] = ("messages", "tools")
    synonyms: ClassVar[Mapping[str, tuple[str, ...]]] = {"messages": ("conversations", "conversation")}
    default_max_length = 1024
    code_version = 2

    def fit(self, train: Rows) -> None:
        """Refuse training rows in which nothing can be learned."""
        self.check(train, "train")

    def check(self, rows: Rows, role: str) -> None:
        """Refuse rows that are no conversations, and those in which the assistant says nothing."""
        for i, messages in enumerate(rows.table["messages"]):
            found = template.normalise(messages, rows.where(i))
            said = [m["role"] == "assistant" and bool(str(m["content"]).strip() or m.get("tool_calls")) for m in found]
            if not any(said):
                roles = ", ".join(dict.fromkeys(str(m["role"]) for m in found))
                raise DataError(
                    f"{rows.where(i)}: the assistant says nothing (the roles are {roles}), so nothing would be learned; remove the row, or "
                    "name the assistant's role `assistant`."
                )
        for i, tools in enumerate(rows.table["tools"] if "tools" in rows.table.column_names else ()):
            parse_tools(tools, f"{rows.where(i)}: ")

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        """See to it that there is a template, and find its end-of-turn token."""
        super().bind(model, tokenizer, kind)
        template.ensure_template(tokenizer)
        end = template.end_of_turn(tokenizer)
        self.stops = list(dict.fromkeys([*([end] if end is not None else []), *self.stops]))

    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """One or several sequences of each conversation."""
        for row in rows:
            messages = template.normalise(row["messages"])
            if self.options.system and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": self.options.system}, *messages]
            tools = parse_tools(row.get("tools"))
            pieces = list(self.windows(messages, tools, tokenizer, max_length))
            if not all(piece.ids for piece in pieces):
                raise DataError("nobody but the assistant speaks, so there is nothing to answer; begin with the user.")
            yield [self.as_feature(piece) for piece in pieces]

    def question_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The conversation up to the assistant's last turn."""
        messages = template.normalise(row["messages"])
        last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=len(messages))
        return {**row, "messages": messages[:last] if last else messages}

    def with_answer(self, row: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        """The conversation and the written turn."""
        said = {"role": "assistant", "content": str(answer.shown["prediction"])}
        return {**row, "messages": [*template.normalise(row["messages"]), said]}

    def pieces(self, messages: Sequence[Mapping[str, Any]], tools: Any, tokenizer: Any) -> list[Piece]:
        """Token sequences of messages; an encoder-decoder has one an answer."""
        end = self.stops[0] if self.stops else None
        return template.conversation(tokenizer, messages, tools, end=end, everything=self.options.train_on_all)

    def windows(self, messages: list[dict[str, Any]], tools: Any, tokenizer: Any, max_length: int) -> Iterator[Piece]:
        """Token sequences of the conversation, or of parts of whole exchanges that fit, each behind the system prompt."""
        start = 1 if messages[0]["role"] == "system" else 0
        system, exchanges = messages[:start], split_exchanges(messages[start:])

        def part(first: int, end: int) -> list[Piece]:
            return self.pieces([*system, *(m for e in exchanges[first:end] for m in e)], tools, tokenizer)

        def longest(pieces: Sequence[Piece]) -> int:
            return max(len(piece.ids) for piece in pieces)

        # Rendering a part costs the square of its length: how many exchanges fit is guessed from their texts, then mended.
        said = [" ".join(str(m["content"]) for m in e).encode("utf-8", "replace").decode() for e in exchanges]
        sizes = [len(plain_ids(text, tokenizer)) for text in said]
        one = longest(part(0, 1)) - sum(sizes[:1])
        marks = longest(part(0, 2)) - sum(sizes[:2]) - one if len(exchanges) > 1 else 0
        first = 0
        while first < len(exchanges) or not exchanges:
            end, room = first + 1, max_length - one - sum(sizes[first : first + 1])
            while end < len(exchanges) and sizes[end] + marks <= room:
                room, end = room - sizes[end] - marks, end + 1
            found = part(first, end)
            while end > first + 1 and longest(found) > max_length:
                end -= 1
                found = part(first, end)
            while end < len(exchanges) and longest(longer := part(first, end + 1)) <= max_length:
                found, end = longer, end + 1
            if longest(found) <= max_length:
                yield from found
            elif self.options.too_long == "error":
                raise DataError(
                    f"exchange {first + 1} alone has more than max_length={max_length} tokens, and turns are never cut; raise "
                    "--max-length, or leave such exchanges out with --set chat.too_long=drop."
                )
            if not exchanges:
                return
            first = end

    def as_feature(self, piece: Piece) -> dict[str, Any]:
        """A decoder learns all answers of a piece; an encoder-decoder the last, from everything before it."""
        if self.kind == "encoder-decoder":
            return self.feature(piece.ids[: piece.last], piece.ids[piece.last :])
        feature = self.feature(piece.ids, [], piece.trained)
        return {**feature, "prompt": feature["prompt"] * 0 + piece.last}

    def truth(self, row: Mapping[str, Any]) -> str:
        """The last answer."""
        messages = template.normalise(row["messages"])
        return next((str(m["content"]) for m in reversed(messages) if m["role"] == "assistant"), "")


def split_exchanges(messages: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Messages in groups that each begin with the user (tool calls and results stay with their answer)."""
    found: list[list[dict[str, Any]]] = []
    for message in messages:
        if not found or (message["role"] == "user" and found[-1][-1]["role"] != "user"):
            found.append([])
        found[-1].append(message)
    return found


def parse_tools(value: Any, where: str = "") -> Any:
    """Tool definitions as the template takes them; JSON text is read.

    Raises:
        DataError: they are no list of objects.
    """
    form = 'a list of objects, each a tool (`{"type": "function", "function": {...}}`)'
    if isinstance(value, str):
        value = template.unpacked(value, f"{where}`tools`", form) if value.strip() else None
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise DataError(f"{where}`tools` is {called(value)}; it must be {form}.")
    odd = next((each for each in value if not isinstance(each, Mapping)), None)
    if odd is not None or None in value:
        raise DataError(f"{where}`tools` holds {called(odd)}; it must be {form}.")
    return value
