"""Conversations between two people, as chat: whoever speaks first is the user, the other the assistant.

What one person writes in several messages before the other answers is one turn, joined by newlines. A closing turn of
the user is cut off, because nobody answered it and so it teaches nothing; a conversation with no answer at all is
dropped (in almost half of the corpus the partner never came).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.assets.archive import zip_bytes
from tunesmith.assets.rows import Dropped, Row

_MEMBER = "chitchat_dataset/dataset.json"


def conversations(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """One row a conversation with `messages`, alternating user and assistant and ending with the assistant."""
    for number, conversation in json.loads(zip_bytes(archives[0], _MEMBER)).items():
        messages = _turns(conversation["messages"])
        if messages and messages[-1]["role"] == "user":
            messages.pop()
        yield {"messages": messages, "id": number} if messages else Dropped("nobody answered")


def _turns(groups: list[list[dict]]) -> list[dict[str, str]]:
    turns: list[tuple[str, list[str]]] = []
    for message in (message for group in groups for message in group):
        text = (message["text"] or "").strip()
        if not text:
            continue
        if turns and turns[-1][0] == message["sender"]:
            turns[-1][1].append(text)
        else:
            turns.append((message["sender"], [text]))
    return [
        {"role": "user" if sender == turns[0][0] else "assistant", "content": "\n".join(texts)}
        for sender, texts in turns
    ]
