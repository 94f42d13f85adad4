"""The answers of the OpenAI wire format, from pieces of text."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.serve.sampling import Chosen
from tunesmith.serve.text import token_text
from tunesmith.serve.writing import Piece

DONE = b"data: [DONE]\n\n"


def dumps(content: Any) -> bytes:
    """JSON as it goes over the wire."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace")


def event(content: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dumps(content) + b"\n\n"


@dataclass
class Choice:
    """What was written for one choice so far."""

    text: str = ""
    tokens: list[Chosen] = field(default_factory=list)
    finish: str | None = None
    written: int = 0

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish, self.written = piece.finish, piece.written


class Shape:
    """How chat answers look; `Completion` differs.

    Args:
        model: as the client called it.
        tokenizer: of the tokens that are reported.
        reported: alternatives beside each token; None for no log-probabilities.
    """

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, tokenizer: Any, reported: int | None) -> None:
        self.head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self.tokenizer, self.reported = tokenizer, reported

    def answer(self, choices: Sequence[Choice], usage: dict[str, int]) -> dict[str, Any]:
        """The whole answer."""
        listed = [self._choice(i, choice) for i, choice in enumerate(choices)]
        return {**self.head, "object": self.whole, "choices": listed, "usage": usage}

    def opening(self, index: int) -> dict[str, Any] | None:
        """The first event of a choice."""
        return self._event(index, {"delta": {"role": "assistant", "content": ""}}, None)

    def event(self, index: int, piece: Piece, characters: int) -> dict[str, Any]:
        """The event of a piece.

        Args:
            index: of the choice.
            piece: what was written.
            characters: how many were written before it.
        """
        content = {"delta": {"content": piece.text} if piece.text else {}, "logprobs": self.logprobs(piece.tokens, 0)}
        return self._event(index, content, piece.finish)

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last event, where usage was asked for."""
        return {**self.head, "object": self.part, "choices": [], "usage": usage}

    def _event(self, index: int, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": index, **content, "finish_reason": finish}
        return {**self.head, "object": self.part, "choices": [choice]}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        logprobs = self.logprobs(choice.tokens, 0)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}

    def logprobs(self, tokens: Sequence[Chosen], characters: int) -> dict[str, Any] | None:
        """Log-probabilities of tokens."""
        if self.reported is None:
            return None
        content = []
        for chosen in tokens:
            top = [self._entry(token, value) for token, value in chosen.top]
            content.append({**self._entry(chosen.token, chosen.logprob or 0.0), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = token_text(self.tokenizer, token)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": raw}  # JSON has no -inf


class Completion(Shape):
    """How text completions look."""

    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def opening(self, index: int) -> dict[str, Any] | None:
        """There is none."""
        return None

    def event(self, index: int, piece: Piece, characters: int) -> dict[str, Any]:
        """The event of a piece."""
        content = {"text": piece.text, "logprobs": self.logprobs(piece.tokens, characters)}
        return self._event(index, content, piece.finish)

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        logprobs = self.logprobs(choice.tokens, 0)
        return {"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish}

    def logprobs(self, tokens: Sequence[Chosen], characters: int) -> dict[str, Any] | None:
        """Log-probabilities of tokens, in columns."""
        if self.reported is None:
            return None
        entries = [self._entry(chosen.token, chosen.logprob or 0.0) for chosen in tokens]
        offsets = []
        for entry in entries:
            offsets.append(characters)
            characters += len(entry["token"])
        top = [{text["token"]: text["logprob"] for text in (self._entry(*each) for each in c.top)} for c in tokens]
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": top if self.reported else None,
            "text_offset": offsets,
        }


def usage_of(prompt_tokens: int, written: int) -> dict[str, int]:
    """What a request cost."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": written, "total_tokens": prompt_tokens + written}
