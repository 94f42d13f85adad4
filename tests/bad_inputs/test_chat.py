"""Malformed inputs of chat."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from bad_inputs.world import Args, World, bad, case, refused, setting

TASK = "chat"
ASK, SAY = {"role": "user", "content": "was the film good"}, {"role": "assistant", "content": "i love it"}
GOOD = {"messages": [ASK, SAY]}


def talk(*messages: Any) -> list[Any]:
    """A good row, and a second with these messages."""
    return [GOOD, {"messages": list(messages)}]


def strict(world: Any) -> Any:
    """A model whose template wants user and assistant in turn."""
    template = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    )
    return world.broken(chat_template__jinja=template.encode())


CASES = [
    # ---- the list of messages
    bad("messages that are an object", [GOOD, {"messages": ASK}], "row 2", "`messages` is an object", "a list of messages"),
    bad("messages that are plain text", [{"messages": "hello there"}] * 2, "row 1", "`messages`", "not JSON", "give a list of messages"),
    bad("messages that are cut JSON", [GOOD, {"messages": '[{"role": "user", "content": "a"'}], "row 2", "not JSON"),
    bad("messages that are a number", [{"messages": 3}] * 2, "row 1", "`messages` is a number"),
    bad("messages that are texts", [{"messages": ["hi", "ho"]}] * 2, "row 1", "message 1 is text", "`role` and `content`"),
    bad("empty list", talk(), "row 2", "`messages` is empty", "remove the row"),
    bad("null messages", [GOOD, {"messages": None}], "row 2", "`messages` is null"),
    bad("messages under another name", [{"dialog": [ASK, SAY]}], "no column `messages`", "--columns messages=dialog"),
    bad("prompts and completions", [{"prompt": "a", "completion": "b"}], "no column `messages`", "`prompt`, `completion`"),
    # ---- roles
    bad("message without a role", talk({"content": "a"}, SAY), "row 2", "message 1 has no `role`", "it has content", "system, user, assistant"),
    bad("role that is null", talk({"role": None, "content": "a"}, SAY), "row 2", "message 1 has no `role`"),
    bad("role that is a number", talk({"role": 3, "content": "a"}, SAY), "row 2", "message 1", "role `3`", "name who speaks"),
    bad("misspelt assistant", talk(ASK, {"role": "asistant", "content": "b"}), "row 2", "message 2", "`asistant`", "did you mean `assistant`"),
    bad("misspelt user", talk({"role": "usr", "content": "a"}, SAY), "row 2", "message 1", "`usr`", "did you mean `user`"),
    bad("nobody known speaks", talk({"role": "Lan", "content": "a"}, {"role": "Minh", "content": "b"}), "row 2", "says nothing", "roles are Lan, Minh", "`assistant`"),
    bad("ShareGPT without from", [{"conversations": [{"value": "a"}, {"from": "gpt", "value": "b"}]}], "row 1", "message 1 has no `role`", "it has value"),
    bad("no answer", talk(ASK, ASK), "row 2", "the assistant says nothing", "remove the row"),
    bad("blank answer", talk(ASK, {**SAY, "content": " "}), "row 2", "the assistant says nothing"),
    bad("a greeting alone", talk(SAY), "row 2", "nobody but the assistant speaks", "begin with the user"),
    bad("a system prompt alone", talk({"role": "system", "content": "be kind"}), "row 2", "says nothing", "roles are system"),
    case("roles that the template refuses", lambda w: w.on("a.jsonl", talk(ASK, ASK, SAY), model=strict(w)),
         "a.jsonl, row 2", "refuses the roles user, user", "must alternate", "remove the row"),
    case("system prompt in the middle", lambda w: w.on("a.jsonl", talk(ASK, SAY, {"role": "system", "content": "x"}, SAY), model=strict(w)),
         "a.jsonl, row 2", "user, assistant, system"),
    case("template that cannot be read", lambda w: w.on("a.jsonl", talk(ASK, SAY), model=w.broken(chat_template__jinja=b"{% for m in messages %}{{ m")),
         "chat template", "line 1", "mend chat_template"),
    # ---- contents
    bad("null content", talk(ASK, {**SAY, "content": None}), "row 2", "message 2 has no `content`", "fill it in"),
    bad("ShareGPT without value", [{"conversations": [{"from": "human", "text": "a"}, {"from": "gpt", "value": "b"}]}], "row 1", "message 1 has no `content`"),
    bad("content that is a number", talk({**ASK, "content": 3}, SAY), "row 2", "message 1", "`content` is a number", "must be text"),
    bad("content that is an object", talk(ASK, {**SAY, "content": {"a": 1}}), "row 2", "message 2", "`content` is an object"),
    bad("content that is false", talk(ASK, {**SAY, "content": False}), "row 2", "`content` is true or false"),
    bad("content with a picture", talk({**ASK, "content": [{"type": "image", "url": "x"}]}, SAY), "row 2", "message 1", "type `image`", "only text is learned"),
    bad("content of bare texts", talk({**ASK, "content": ["a", "b"]}, SAY), "row 2", "message 1", "a part that is text"),
    bad("tool calls that are text", talk(ASK, {"role": "assistant", "tool_calls": "f()"}), "row 2", "message 2", "`tool_calls` is text"),
    bad("half a character", [GOOD, {"messages": json.dumps([{**ASK, "content": "\ud83d"}, SAY])}], "row 2", "half a character", "mend or remove"),
    bad("messages nested without end", [GOOD, {"messages": "[" * 100_000}], "row 2", "nested too deep", "a list of messages"),
    # ---- tools
    bad("tools that are no JSON", [{**GOOD, "tools": "get_weather("}] * 2, "row 1", "`tools`", "not JSON", "a list of objects"),
    bad("tools that are a number", [{**GOOD, "tools": 3}] * 2, "row 1", "`tools` is a number", "a list of objects"),
    bad("tools that are one object", [{**GOOD, "tools": {"type": "function"}}] * 2, "row 1", "`tools` is an object"),
    bad("tools that are names", [{**GOOD, "tools": ["search"]}] * 2, "row 1", "`tools` holds text", '"type": "function"'),
    # ---- lengths
    bad("an exchange that is too long", talk(ASK, SAY, {**ASK, "content": "film " * 100}, {**SAY, "content": "good " * 100}),
        "row 2", "exchange 2", "max_length=128", "too_long=drop"),
    bad("all exchanges too long, left out", [{"messages": [ASK, {**SAY, "content": "good " * 200}]}],
        "nothing of its rows", "max_length=128", "raise --max-length", flags=("--set", "chat.too_long=drop")),
    bad("all exchanges of eval too long, left out", talk(ASK, SAY), "eval.jsonl", "nothing of its rows", flags=("--set", "chat.too_long=drop"),
        eval=[{"messages": [ASK, {**SAY, "content": "good " * 200}]}]),
    bad("system prompt that is too long", talk(ASK, SAY), "row 1", "exchange 1", "max_length=128", flags=("--set", f"chat.system={'film ' * 200}")),
    bad("model that only reads", talk(ASK, SAY), "`bert` reads text and cannot write it", "chat", "asset:smollm2-135m", model="bert"),
    # ---- options
    setting("chat.system", "[a, b]", "valid string", "`['a', 'b']`"),
    setting("chat.too_long", "skip", "'error' or 'drop'", "`skip`"),
    setting("chat.train_on_al", "true", "did you mean `train_on_all`"),
    # ---- use
    case(
        "comparison of models that only read",
        lambda w: ["compare", "-q", "--task", TASK, "--model", w.model("bert"), "--train", w.good(), "--eval", w.good(), "--output", w.output],
        "`bert` reads text and cannot write it", "chat",
    ),
    case(
        "comparison on rows that are no conversations",
        lambda w: ["compare", "-q", "--task", TASK, "--model", w.model(), "--train", w.write("a.jsonl", talk()), "--eval", w.good(), "--output", w.output],
        "a.jsonl, row 2", "`messages` is empty",
    ),
    case("predict without messages", lambda w: w.predict("a.jsonl", [{"x": 1}]), "a.jsonl", "no column `messages`", "`x`"),
    case("predict on text", lambda w: w.predict("a.jsonl", [{"messages": "hello"}]), "a.jsonl, row 1", "not JSON", "a list of messages"),
    case("predict on what only the assistant says", lambda w: w.predict("a.jsonl", [{"messages": [SAY]}]), "a.jsonl, row 1", "nothing to answer", "begin with the user"),
    case("predict on tools that are no JSON", lambda w: w.predict("a.jsonl", [{**GOOD, "tools": "x("}]), "a.jsonl, row 1", "`tools`", "not JSON"),
    case("predict on a long question", lambda w: w.predict("a.jsonl", talk({**ASK, "content": "film " * 300})), "a.jsonl, row 2", "exchange 1", "max_length=128"),
    case("evaluate without an answer", lambda w: w.evaluate("a.jsonl", talk(ASK)), "a.jsonl, row 2", "the assistant says nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    refused(args, words, code, lines, world, cli, monkeypatch)
