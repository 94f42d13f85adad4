"""Checks of conversations: who speaks when, and that the assistant says something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from tunesmith.doctor.case import Case, is_blank
from tunesmith.doctor.finding import Finding, counted
from tunesmith.errors import DataError
from tunesmith.tasks._template import unpacked

SPEAKERS = {
    "human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatbot": "assistant",
    "function_call": "assistant", "observation": "tool", "function_response": "tool", "function": "tool", "developer": "system",
}  # fmt: skip
ROLES = ("system", "user", "assistant", "tool")


def cuts(options: Any) -> bool:
    """Exchanges that are too long stop a run, unless they may be left out."""
    return getattr(options, "too_long", "error") == "drop"


def turns(value: Any) -> list[tuple[str, str, bool]] | None:
    """(role, content, calls a tool) of each message; None if the cell is no conversation."""
    if isinstance(value, str):
        try:
            value = unpacked(value, "", "")
        except DataError:
            return None
    if not isinstance(value, list) or not value:
        return None
    found = []
    for message in value:
        if not isinstance(message, Mapping):
            return None
        role, content = message.get("role") or message.get("from"), message.get("content", message.get("value"))
        calls = bool(message.get("tool_calls"))
        if not isinstance(role, str) or (content is None and not calls):
            return None
        role = role.strip().lower() if role.strip().lower() in (*SPEAKERS, *ROLES) else role.strip()
        found.append((SPEAKERS.get(role, role), _content(content), calls))
    return found


def _content(content: Any) -> str:
    if isinstance(content, list):  # parts of OpenAI's form
        return " ".join(str(part.get("text", "")) if isinstance(part, Mapping) else str(part) for part in content)
    return "" if content is None else str(content)


def texts(row: Mapping[str, Any]) -> list[str]:
    """What everybody says."""
    return [content for _, content, _ in turns(row.get("messages")) or []]


def conversation(case: Case) -> Iterator[Finding]:
    """Rows that are none, in which the assistant is silent, or in which the turns are odd."""
    for part in case.parts.values():
        found: dict[str, list[int]] = {code: [] for code in SAID}
        for i, value in enumerate(part.columns.get("messages", [])):
            if value is None:
                continue
            said = turns(value)
            if said is None:
                found["messages"].append(i)
                continue
            for code in _odd(said):
                found[code].append(i)
        for code, rows in found.items():
            if rows:
                level, what, remedy = SAID[code]
                yield part.finding(
                    "error" if level else "warning", code, rows, f"in {counted(len(rows))} {what}", remedy
                )


SAID = {
    "messages": (True, "`messages` is not a list of objects with `role` and `content`", "write it in that form (or ShareGPT's `from` and `value`)"),
    "assistant-silent": (True, "the assistant says nothing, so that nothing would be learned", "remove the rows, or check the names of the roles"),
    "unknown-role": (False, "a role is none of system, user, assistant, tool", "rename it"),
    "late-system": (False, "a system prompt comes after the start", "put it first"),
    "starts-with-assistant": (False, "the assistant speaks first", "begin with the user, or leave the greeting out"),
    "not-alternating": (False, "the same side speaks twice in a row", "join its turns into one"),
    "ends-with-user": (False, "the last turn is the user's, which nobody answers", "cut it off; nothing is learned from it"),
    "empty-turn": (False, "a turn is empty", "fill it in, or remove it with its answer"),
}  # fmt: skip


def _odd(said: list[tuple[str, str, bool]]) -> Iterator[str]:
    """Codes of what is odd in one conversation, each once."""
    roles = [role for role, _, _ in said if role != "system"]
    spoken = [role for role in roles if role != "tool"]
    if not any(role == "assistant" and (content.strip() or calls) for role, content, calls in said):
        yield "assistant-silent"
        return
    if set(roles) - set(ROLES):
        yield "unknown-role"
    if any(role == "system" for role, _, _ in said[1:]):
        yield "late-system"
    if spoken[:1] == ["assistant"]:
        yield "starts-with-assistant"
    # A tool's result stands between two turns of the assistant, which is how it should be.
    if any(one == other and one in ("user", "assistant") for one, other in pairwise(roles)):
        yield "not-alternating"
    if roles[-1:] == ["user"]:
        yield "ends-with-user"
    if any(is_blank(content) and not calls for _, content, calls in said):
        yield "empty-turn"


ROW_CHECKS = [conversation]
