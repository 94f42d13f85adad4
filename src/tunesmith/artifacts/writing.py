r"""Text while it is written: pieces of whole characters, as soon as the model has decided on them.

    messages or a prompt --Writer.fit--> token ids that leave room for an answer --Writer.write--> "Xin", " ch", "ào", ...

`generate` runs in a thread of its own and hands tokens over; so whatever a technique hooks into the model, and whatever cache it
keeps, is used as it is when rows are predicted for. A byte of a character is held back until the others are there.

Example:
    >>> writer = Writer(tunesmith.load("runs/chat/artifact"))
    >>> ids, dropped = writer.fit([{"role": "user", "content": "Who are you?"}])
    >>> for piece in writer.write(ids, Sampling(temperature=0)):
    ...     print(piece, end="", flush=True)
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tunesmith.artifacts.detokenise import BROKEN, Detokeniser
from tunesmith.artifacts.use import Artifact
from tunesmith.errors import DataError, UserError
from tunesmith.tasks import _template as template

SHARE = 0.5  # of the context: more than that an answer does not claim


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Args:
        max_new_tokens: longest answer.
        temperature: 0 takes the likeliest token every time.
        top_p: the smallest set of tokens with this probability is drawn from.
        seed: the same seed and text give the same answer.

    Raises:
        UserError: a number makes no sense.
    """

    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = next((name for name, fine in (
            ("max-new-tokens must be at least 1", self.max_new_tokens >= 1), ("temperature must be 0 or more", self.temperature >= 0),
            ("top-p must be above 0 and at most 1", 0 < self.top_p <= 1), ("seed must be 0 or more", self.seed >= 0),
        ) if not fine), None)  # fmt: skip
        if wrong:
            raise UserError(f"{wrong}; got {getattr(self, wrong.split(' ')[0].replace('-', '_'))}.")


class Writer:
    """An artifact that talks, answers prompts or goes on with a text.

    Attributes:
        reads: "turns" (a conversation), "prompt" (the last message alone: its frame was made for single prompts) or "text".

    Raises:
        UserError: the artifact does none of these.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.reads = _reads(artifact)

    @property
    def system(self) -> str | None:
        """The system prompt that the artifact was trained with."""
        return getattr(self.artifact.task.options, "system", None) if self.reads == "turns" else None

    def fit(self, messages: Sequence[Mapping[str, Any]], max_new_tokens: int = 256) -> tuple[list[int], int]:
        """Token ids of what is to be answered, and how many of the oldest messages were left out (of a text: cut) so that an answer fits.

        Args:
            messages: `role` and `content`; the last one is the user's. Of a plain language model the contents are lines of one text.
            max_new_tokens: room to leave, where that is less than half of the context.

        Raises:
            DataError: the last message alone leaves no room.
        """
        start = 1 if messages and messages[0]["role"] == "system" and self.reads != "text" else 0
        system, turns = list(messages[:start]), list(messages[start:])
        if not turns:
            raise DataError("there is no message to answer.")
        room = self._room(max_new_tokens)
        first = 0 if self.reads != "prompt" else len(turns) - 1
        ids = self._ids([*system, *turns[first:]])
        while room is not None and len(ids) > room:
            later = [i for i in range(first + 1, len(turns)) if turns[i]["role"] == "user"]
            if self.reads == "text":
                cut = len(ids) - room + 1  # what is left begins with the start token, and goes on here
                whole = (i for i in range(len(turns)) if len(self._ids(turns[:i])) >= cut)
                return [*ids[:1], *ids[cut:]], next(whole, len(turns))
            if not later:
                raise DataError(
                    f"the message has {len(ids):,} tokens with its frame, and the model reads {room:,} beside an answer; shorten it"
                    f"{' or the system prompt' if system else ''}."
                )
            first = later[0]
            ids = self._ids([*system, *turns[first:]])
        return ids, first if self.reads == "turns" else 0

    def write(self, ids: Sequence[int], sampling: Sampling | None = None) -> Writing:
        """What the model writes behind token ids, piece by piece."""
        return Writing(self.artifact, list(ids), sampling or Sampling(), strip=self.reads != "text")

    def _room(self, max_new_tokens: int) -> int | None:
        """Tokens that the model reads beside an answer; None where nothing bounds them."""
        positions = self.artifact.task.positions
        if positions is None or self.artifact.task.kind == "encoder-decoder":
            return positions
        return positions - min(max_new_tokens, int(positions * SHARE))

    def _ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """As the task renders them for a row to predict for."""
        task, tokenizer = self.artifact.task, self.artifact.tokenizer
        if self.reads == "turns":
            end = task.stops[0] if task.stops else None
            return template.asked_ids(tokenizer, messages, end=end)
        if self.reads == "prompt":
            row = {"system": messages[0]["content"]} if messages[0]["role"] == "system" else {}
            found: list[int] = task.framed(row, prompt=str(messages[-1]["content"]), input="", tokenizer=tokenizer)
            return found
        starts = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id)
        start = [next((token for token in starts if token is not None), tokenizer.pad_token_id)]
        text = text_of(messages)
        return [*start, *tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]]


def text_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """One text of what was typed and written: the model goes on in the same line, the user begins a new one."""
    text = ""
    for message in messages:
        text += ("\n" if message["role"] == "user" and text else "") + str(message["content"])
    return text


def _reads(artifact: Artifact) -> Literal["turns", "prompt", "text"]:
    task, folder = artifact.task, artifact.opened.folder
    if task.name == "chat":
        return "turns"
    if task.name == "instruction":
        return "turns" if task.frame == "chat" else "prompt"
    if task.name == "language-modeling" and task.objective == "causal":
        return "text"
    what = "a masked language model, which fills gaps" if task.name == "language-modeling" else f"made for {task.name}"
    raise UserError(
        f"`{folder}` is {what} and holds no conversation; use `tunesmith predict {folder} --data rows.jsonl --output predictions.jsonl`."
    )


class Writing:
    """A text in the making: iterate over its pieces, once; leaving early stops the model.

    Attributes:
        text: what has come so far.
        tokens: how many that took, the one that ends it included.
        ended: "stop" (the model ended it), "length" (no room is left, or `max_new_tokens`), or "stopped" (nobody wanted more).
    """

    def __init__(self, artifact: Artifact, ids: list[int], sampling: Sampling, *, strip: bool) -> None:
        self.artifact, self.ids, self.sampling, self.strip = artifact, ids, sampling, strip
        self.text, self.tokens = "", 0
        self.ended: Literal["stop", "length", "stopped"] = "stopped"

    def __iter__(self) -> Iterator[str]:
        tokens: queue.SimpleQueue[Any] = queue.SimpleQueue()
        enough = threading.Event()
        thread = threading.Thread(target=self._generate, args=(tokens, enough), daemon=True)
        pieces, last = Pieces(self.artifact.tokenizer, strip=self.strip), None
        thread.start()
        try:
            while (token := tokens.get()) is not None:
                if isinstance(token, BaseException):
                    raise token
                self.tokens, last = self.tokens + 1, token
                piece = pieces.add(token)
                if piece:
                    self.text += piece
                    yield piece
            self.ended = "stop" if last in self.stops else "length"
            piece = pieces.rest()
            if piece:
                self.text += piece
                yield piece
        finally:
            enough.set()
            thread.join()

    @property
    def stops(self) -> list[int]:
        """Tokens that end a text."""
        task, end = self.artifact.task, self.artifact.tokenizer.eos_token_id
        return list(getattr(task, "stops", [end] if end is not None else []))

    def _generate(self, tokens: queue.SimpleQueue[Any], enough: threading.Event) -> None:
        """In the thread: tokens one by one, an error if there is one, None at the end."""
        device = self.artifact.device
        ids = torch.tensor([self.ids], device=device)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(self.sampling.seed)
                self.artifact.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=self._settings(),
                    streamer=_Hand(tokens),
                    stopping_criteria=[lambda ids, scores, **_: torch.full((len(ids),), enough.is_set(), device=ids.device)],
                )  # fmt: skip
        except BaseException as error:
            tokens.put(error)
        tokens.put(None)

    def _settings(self) -> Any:
        """What was asked for, on top of what the task writes with; nothing of the checkpoint's own habits."""
        from transformers import GenerationConfig

        task, tokenizer, wanted = self.artifact.task, self.artifact.tokenizer, self.sampling
        room = None if task.positions is None else task.positions
        if room is not None and task.kind != "encoder-decoder":
            room -= len(self.ids)
        if hasattr(task, "generation"):
            settings = task.generation(self.artifact.model, room)
        else:
            settings = GenerationConfig(
                eos_token_id=self.stops or None, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
                repetition_penalty=1.0, no_repeat_ngram_size=0,
            )  # fmt: skip
        settings.max_new_tokens = max(1, min(wanted.max_new_tokens, wanted.max_new_tokens if room is None else room))
        settings.num_beams, settings.do_sample = 1, wanted.temperature > 0
        settings.temperature = wanted.temperature if settings.do_sample else None
        settings.top_p, settings.top_k = (wanted.top_p, 0) if settings.do_sample else (None, None)
        return settings


class _Hand:
    """Hands tokens from `generate` over; what it is given first is the prompt."""

    def __init__(self, tokens: queue.SimpleQueue[Any]) -> None:
        self.tokens, self.begun = tokens, False

    def put(self, value: torch.Tensor) -> None:
        """The prompt, then one token at a time."""
        if self.begun:
            for token in value.flatten().tolist():
                self.tokens.put(token)
        self.begun = True

    def end(self) -> None:
        """The thread says that itself."""


class Pieces:
    """Tokens to text, piece by piece: whole characters only, and together what the tokens are decoded to at once.

    Args:
        tokenizer: the model's.
        strip: leave out white space before the text and behind it.
    """

    def __init__(self, tokenizer: Any, *, strip: bool = False) -> None:
        self.detokeniser, self.strip = Detokeniser(tokenizer), strip
        self.begun, self.blank = False, ""  # white space that something must follow

    def add(self, token: int) -> str:
        """The text that is certain now and was not before; often none."""
        return self._stripped(self.detokeniser.add(token))

    def rest(self) -> str:
        """What is left at the end; half a character is not text."""
        return self._stripped(self.detokeniser.finish().rstrip(BROKEN))

    def _stripped(self, text: str) -> str:
        if not self.strip:
            return text
        text = self.blank + text if self.begun else text.lstrip()
        kept = text.rstrip()
        self.blank = text[len(kept) :]
        self.begun = self.begun or bool(kept)
        return kept
