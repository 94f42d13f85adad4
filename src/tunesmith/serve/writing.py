"""One request that a model writes for: what was asked, and how tokens become the pieces that a client sees."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.artifacts.detokenise import Detokeniser
from tunesmith.serve.sampling import Chosen, Sampler, Sampling
from tunesmith.serve.text import StopStrings

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """What is to be written.

    Attributes:
        adapter: which one writes; None for the base model.
        prompt: ids that the model reads.
        max_tokens: most tokens that are written.
        tokenizer: of the adapter.
        sampling: how tokens are chosen.
        stops: strings that end the text and are not shown.
        ends: tokens that end the text.
    """

    adapter: str | None
    prompt: Sequence[int]
    max_tokens: int
    tokenizer: Any
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: what it adds.
        tokens: the tokens that this text is of, where log-probabilities were asked for.
        finish: why the text ends here; None while it goes on.
        written: tokens written so far, the ending one included.
        error: what went wrong, in place of a finish.
    """

    text: str = ""
    tokens: Sequence[Chosen] = ()
    finish: Finish | None = None
    written: int = 0
    error: Exception | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.finish is not None or self.error is not None


class Writer:
    """Turns the chosen tokens of one request into pieces."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.sampler = Sampler(request.sampling)
        self.written = 0
        self._detokeniser = Detokeniser(request.tokenizer, request.prompt)
        self._guard = StopStrings(request.stops)
        self._decoded = self._shown = 0  # characters
        self._waiting: deque[tuple[int, Chosen]] = deque()  # tokens whose text was not shown yet, by where it begins

    def add(self, chosen: Chosen) -> Piece | None:
        """The piece that a token completes, if any."""
        self.written += 1
        ended = chosen.token in self.request.ends
        finish: Finish | None = "stop" if ended else "length" if self.written >= self.request.max_tokens else None
        text = ""
        if not ended:
            self._waiting.append((self._decoded, chosen))
            text = self._detokeniser.add(chosen.token)
            self._decoded += len(text)
            text = self._guard.add(text)
        if finish and not self._guard.stopped:
            text += self._guard.add(self._detokeniser.finish())
        if finish and not self._guard.stopped:
            text += self._guard.finish()
        self._shown += len(text)
        if self._guard.stopped:
            finish = "stop"
        tokens = self._release(everything=finish is not None and not self._guard.stopped)
        if not (text or tokens or finish):
            return None
        return Piece(text, tokens, finish, self.written)

    def _release(self, everything: bool) -> list[Chosen]:
        """Tokens whose text is shown by now; those of a stop string never are."""
        found = []
        while self._waiting and (everything or self._waiting[0][0] < self._shown):
            found.append(self._waiting.popleft()[1])
        return found if self.request.sampling.logprobs is not None else []
