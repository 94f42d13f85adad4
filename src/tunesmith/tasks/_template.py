r"""Conversations as token ids, with the positions that are learned, for any chat template.

The assistant's turns are found by rendering the conversation up to each of them, with and without the turn:

    render(messages[:i], add_generation_prompt=True)  ->  "...<|im_start|>assistant\n"
    render(messages[:i + 1])                          ->  "...<|im_start|>assistant\nHello.<|im_end|>\n"
                                                                                  ^^^^^^^^^^^^^^^^ learned

so that no generation marker in the template is needed, and the end-of-turn token is always a target. Where a template renders
earlier turns otherwise once later ones follow, each turn becomes a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from tunesmith.errors import DataError, ModelError, called
from tunesmith.tasks._words import is_broken

ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatbot": "assistant",
    "function_call": "assistant", "observation": "tool", "function_response": "tool", "function": "tool",
}  # fmt: skip
SPEAKERS = ("system", "user", "assistant", "tool", "developer")
# For models that bring no template: plain names, so that a base model understands them, and the end token after each answer.
PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}Assistant: {{ message['content'] }}{{ eos_token }}\n"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


@dataclass
class Piece:
    """One token sequence: ids, which of them are learned, and where the last learned turn begins."""

    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    last: int = 0

    def add(self, ids: Sequence[int], trained: bool) -> None:
        """Append ids."""
        self.ids += ids
        self.trained += [trained] * len(ids)


def normalise(messages: Any, where: str = "") -> list[dict[str, Any]]:
    """Messages in OpenAI's form (`role`, `content`, further keys kept), from that or from ShareGPT's (`from`, `value`).

    Raises:
        DataError: a message has no role or content.
    """
    where = f"{where}: " if where else ""
    if isinstance(messages, str):
        messages = unpacked(messages, f"{where}`messages`", "a list of messages")
    if not isinstance(messages, list):
        raise DataError(f"{where}`messages` is {called(messages)}; it must be a list of messages.")
    if not messages:
        raise DataError(f"{where}`messages` is empty and needs at least one message; fill it in or remove the row.")
    found = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise DataError(
                f"{where}message {number} is {called(message)}; it must be an object with `role` and `content`."
            )
        role = message.get("role") or message.get("from")
        content = message.get("content", message.get("value"))
        if not isinstance(role, str):
            what = (
                f"the role `{role}`"
                if role is not None
                else f"no `role` (it has {', '.join(map(str, message)) or 'nothing'})"
            )
            raise DataError(f"{where}message {number} has {what}; name who speaks: {', '.join(SPEAKERS)}.")
        role = role.strip()
        role = role.lower() if role.lower() in (*SPEAKERS, *ROLES) else role
        meant = [] if role in (*SPEAKERS, *ROLES) else get_close_matches(role.lower(), SPEAKERS, n=1, cutoff=0.8)
        if meant:
            raise DataError(f"{where}message {number} has the role `{role}`; did you mean `{meant[0]}`?")
        if content is None and not message.get("tool_calls"):
            raise DataError(f"{where}message {number} has no `content`; fill it in or remove the message.")
        if isinstance(content, list):
            content = _joined(content, f"{where}message {number}")
        if content is not None and not isinstance(content, str):
            raise DataError(f"{where}message {number}: `content` is {called(content)}; it must be text.")
        if not isinstance(message.get("tool_calls", []), (list, type(None))):
            raise DataError(
                f"{where}message {number}: `tool_calls` is {called(message['tool_calls'])}; it must be a list of objects."
            )
        rest = {k: v for k, v in message.items() if k not in ("role", "from", "content", "value") and v is not None}
        found.append({"role": ROLES.get(role, role), "content": content if content is not None else "", **rest})
    return found


def _joined(parts: Sequence[Any], where: str) -> str:
    """The text of a content in parts (`{"type": "text", "text": ...}`)."""
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            what = (
                f"a part of type `{part.get('type')}`"
                if isinstance(part, Mapping)
                else f"a part that is {called(part)}"
            )
            raise DataError(
                f'{where} holds {what}; only text is learned, so every part must be {{"type": "text", "text": ...}}.'
            )
    return "".join(part["text"] for part in parts)


def unpacked(text: str, what: str, form: str) -> Any:
    """The list or object that a cell holds as JSON text, or as Python programs write it.

    Raises:
        DataError: it holds none.
    """
    import ast
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return ast.literal_eval(text.strip())  # [{'role': 'user', ...
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise DataError(f"{what} is text that is not JSON ({reason}); give {form}.") from error


def is_conversation(text: str) -> bool:
    """Whether a text is a list of messages that was written as JSON."""
    import json

    if not text.startswith("[{"):
        return False
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return all(isinstance(each, Mapping) and {"role", "content"} <= set(each) for each in found)


def ensure_template(tokenizer: Any) -> None:
    """Give a tokenizer without a chat template a plain one, which is then saved with it."""
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Any, *, prompt: bool) -> str:
    """The conversation as text.

    Raises:
        DataError: the template refuses these roles.
    """
    from jinja2.exceptions import TemplateError, TemplateSyntaxError

    try:
        text = str(
            tokenizer.apply_chat_template(
                list(messages), tools=tools or None, tokenize=False, add_generation_prompt=prompt
            )
        )
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the model's chat template cannot be read (line {error.lineno}: {error.message}); mend chat_template in its folder."
        ) from error
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        roles = ", ".join(str(m["role"]) for m in messages)
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"the model's chat template refuses the roles {roles} ({reason}); put the messages in an order that it takes, or remove the row."
        ) from error
    if is_broken(text):
        raise DataError(
            "the conversation holds half a character (a lone surrogate such as \\ud83d); mend or remove the row."
        )
    return text


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of tokens that no text is made of; an unknown word is text, unless its token is also the one that ends a text (GPT-2)."""
    found = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return found - ({tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id})


def split_end(ids: list[int], special: Collection[int]) -> tuple[list[int], list[int]]:
    """A turn's ids up to and with its end-of-turn token, and what the template puts behind it."""
    at = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] in special), None)
    return (ids, []) if at is None else (ids[: at + 1], ids[at + 1 :])


def common_start(one: str, other: str) -> str:
    """The longest text that both begin with."""
    if other.startswith(one):
        return one
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that the template closes an assistant's turn with, if it is a single one."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        before = render(tokenizer, messages[:1], None, prompt=True)
        whole = render(tokenizer, messages, None, prompt=False)
    except DataError:
        return None
    start = len(common_start(before, whole))
    ids = tokenizer(whole[start:], add_special_tokens=False)["input_ids"]
    special = special_ids(tokenizer)
    body, _ = split_end(list(ids), special)
    return int(body[-1]) if body and body[-1] in special else None


def conversation(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Any = None,
    *,
    end: int | None,
    everything: bool = False,
) -> list[Piece]:
    """Token sequences of a conversation, one, or one an answer where the template rewrites earlier turns.

    Args:
        tokenizer: with a chat template.
        messages: in OpenAI's form.
        tools: passed to the template.
        end: put behind an answer that the template does not close with a token.
        everything: learn the whole text, not the assistant's turns alone.
    """

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    special = special_ids(tokenizer)
    done, current, found = "", Piece(), []
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or i == 0:  # a greeting answers nothing: it is context
            continue
        before = render(tokenizer, messages[:i], tools, prompt=True)
        upto = render(tokenizer, messages[: i + 1], tools, prompt=False)
        # Some templates open the answer with more than history shows of it (a thinking mark): what both share is context.
        shared = common_start(before, upto)
        if not shared.startswith(done) or (current.ids and len(shared) < len(done)):
            found.append(current)
            done, current = "", Piece()
        current.add(ids_of(shared[len(done) :]), everything)
        current.last = len(current.ids)
        body, rest = split_end(ids_of(upto[len(shared) :]), special)
        if end is not None and (not body or body[-1] not in special):
            body = [*body, end]
        current.add(body, True)
        current.add(rest, everything)
        done = upto
    if messages[-1]["role"] != "assistant":
        whole = render(tokenizer, messages, tools, prompt=True)
        if not whole.startswith(done):
            found.append(current)
            done, current = "", Piece()
        current.add(ids_of(whole[len(done) :]), everything)
        current.last = len(current.ids)
    return [*found, current]


def asked_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, end: int | None) -> list[int]:
    """Token ids that the next answer is written behind: the turns as they were learned, and the opening of an answer.

    Args:
        tokenizer: with a chat template.
        messages: in OpenAI's form; behind an answer another one is opened.
        end: as of `conversation`.
    """
    if messages[-1]["role"] == "assistant":
        return list(tokenizer(render(tokenizer, messages, None, prompt=True), add_special_tokens=False)["input_ids"])
    return conversation(tokenizer, messages, None, end=end)[-1].ids
