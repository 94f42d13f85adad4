"""Prompts as token ids, in the frame that an adapter was trained with, and whether an answer fits behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.errors import DataError
from tunesmith.serve.catalogue import TOKENISING, Served
from tunesmith.serve.refusals import Refused
from tunesmith.tasks import _template as template
from tunesmith.tasks._generation import without_end


def chat_ids(served: Served, messages: Sequence[dict[str, Any]]) -> list[int]:
    """A conversation through the tokenizer's chat template (an adapter's own), or one instruction in the adapter's own frame.

    Raises:
        Refused: the messages are wrong, or the template refuses them.
    """
    try:
        found = template.normalise(list(messages))
        with TOKENISING:
            if served.frame != "chat":
                return _framed(served, found)
            system = getattr(served.task.options, "system", None)
            if system and found[0]["role"] != "system":
                found = [{"role": "system", "content": system}, *found]
            stops = getattr(served.task, "stops", [])
            return template.asked_ids(served.tokenizer, found, end=stops[0] if stops else None)
    except DataError as error:
        reason = (
            str(error)
            .replace(", or remove the row", "")
            .replace(" or remove the row", "")
            .replace(" or remove the message", "")
        )
        raise Refused(400, reason, "messages", "invalid_value") from error


def _framed(served: Served, messages: Sequence[dict[str, Any]]) -> list[int]:
    """The ids of one instruction, as the adapter's training rows had it."""
    if served.frame == served.task.name:
        raise Refused(
            400,
            f"`{served.id}` was trained on rows of {served.task.name}, not on messages; send rows to /v1/predict.",
            "model",
            "invalid_value",
        )
    system = [m["content"] for m in messages if m["role"] in ("system", "developer")]
    asked = [m["content"] for m in messages if m["role"] == "user"]
    if len(asked) != 1 or len(system) > 1 or len(asked) + len(system) != len(messages):
        raise Refused(
            400, f"`{served.id}` was trained on single instructions (frame `{served.frame}`); send one user message, with a system message at most.",
            "messages", "invalid_value",
        )  # fmt: skip
    row = {"system": system[0]} if system else {}
    ids = served.task.framed(row, prompt=asked[0], input="", tokenizer=served.tokenizer)
    return list(ids)


def text_ids(served: Served, prompt: str | Sequence[int]) -> list[int]:
    """A prompt of /v1/completions: text as the tokenizer begins one, or ids as they are.

    Raises:
        Refused: it holds nothing, or an id that the model does not know.
    """
    if isinstance(prompt, str):
        with TOKENISING:
            ids = without_end(served.tokenizer(prompt)["input_ids"], served.tokenizer)
    else:
        ids = list(prompt)
    return check_ids(served, ids, "prompt")


def check_ids(served: Served, ids: list[int], param: str) -> list[int]:
    """Token ids that the model knows.

    Raises:
        Refused: there are none, or one is beyond its vocabulary.
    """
    if not ids:
        raise Refused(400, f"`{param}` has no tokens; send at least one.", param, "invalid_value")
    wrong = next((token for token in ids if not 0 <= token < served.vocabulary), None)
    if wrong is not None:
        raise Refused(
            400, f"`{param}` holds the token id {wrong}, and `{served.id}` knows ids from 0 to {served.vocabulary - 1}.", param, "invalid_value",
        )  # fmt: skip
    return ids


def room_for(served: Served, prompt_tokens: int, asked: int | None, most: int) -> int:
    """How many tokens may be written.

    Args:
        served: who writes.
        prompt_tokens: tokens of the prompt.
        asked: what the client wants; None for as many as there may be.
        most: the server's limit.

    Raises:
        Refused: the limit or the model's context is too small.
    """
    if asked is not None and asked > most:
        raise Refused(
            400,
            f"{asked} tokens are beyond this server's limit of {most}; ask for {most} or fewer.",
            "max_tokens",
            "invalid_value",
        )
    # An encoder-decoder writes into a sequence of its own.
    encoder_decoder = getattr(served.task, "kind", "decoder") == "encoder-decoder"
    left = most if served.room is None else served.room - (0 if encoder_decoder else prompt_tokens)
    if left < 1 or (asked is not None and asked > left) or (served.room is not None and prompt_tokens > served.room):
        wanted = f" and {asked} are to be written" if asked is not None else ""
        raise Refused(
            400, f"the prompt has {prompt_tokens} tokens{wanted}, and `{served.id}` holds {served.room} in all; shorten one of them.",
            "messages", "context_length_exceeded",
        )  # fmt: skip
    return min(asked if asked is not None else most, left, most)
