r"""A conversation in a terminal, or over a pipe: answers on stdout, everything else on stderr.

    line  /NAME ...   a command of `COMMANDS`
          //...       a message that begins with a slash
          ...\        the message goes on in the next line
          ...         a message

In a terminal a mistake is named and the conversation goes on, and Ctrl-C stops the answer; a script ends at its first mistake.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tunesmith import durable
from tunesmith.artifacts.writing import Sampling, Writer
from tunesmith.console import CONTROLS, people, say, verbosity
from tunesmith.errors import DataError, SaveError, UserError, nearest
from tunesmith.seeding import derive

PROMPT, MORE = "> ", ". "


class Voices(Protocol):
    """Artifacts by name (`artifacts.switch.AdapterBank`)."""

    @property
    def names(self) -> list[str]:
        """All of them."""

    def select(self, name: str) -> Any:
        """One of them."""


class Conversation:
    """Who is asked, what was said, and the commands that change either.

    Args:
        voices: whom one can talk to.
        name: who answers first.
        sampling: how answers are drawn.
        system: a system prompt, in place of the artifact's own.
        interactive: somebody sits before it.
        as_json: an answer is one JSON object a line.
        head: of artifacts with several heads.
    """

    def __init__(
        self, voices: Voices, name: str, sampling: Sampling, *, system: str | None = None, interactive: bool = False, as_json: bool = False,
        head: str | None = None,
    ) -> None:  # fmt: skip
        self.voices, self.sampling, self.interactive, self.as_json, self.head = (
            voices,
            sampling,
            interactive,
            as_json,
            head,
        )
        self.messages: list[dict[str, str]] = []
        self.drawn = 0  # answers so far: each is drawn with a seed of its own
        self.unread = 0  # oldest messages that the context has no room for
        self.saved: dict[Path, str] = {}  # what `/save` wrote last, and where
        self.name, self.writer = name, self._writer(name)
        self.system = self.writer.system
        if system is not None:
            self._set_system(system)

    def _writer(self, name: str) -> Writer:
        artifact = self.voices.select(name)
        return Writer(artifact.choose(self.head) if self.head else artifact)

    def take(self, line: str) -> bool:
        """Obey a line; False where it ends the conversation."""
        if not line.startswith("/") or line.startswith("//"):
            self.answer(line[1:] if line.startswith("//") else line)
            return True
        word, _, rest = line.partition(" ")
        if word == "/exit":
            return False
        if word not in COMMANDS:
            close = nearest(word, COMMANDS)
            hint = f"did you mean `{close}`?" if close else "/help lists them."
            raise UserError(f"there is no command `{word}` (a text that begins with / is sent with //); {hint}")
        COMMANDS[word][0](self, rest.strip())
        return True

    # ---- answers

    def answer(self, text: str) -> None:
        """Let the model answer, token by token."""
        with suppress(UnicodeEncodeError):
            text.encode()
            self._answer([*self.messages, {"role": "user", "content": text}])
            return
        raise DataError("the message is not UTF-8 text; send it as UTF-8.")

    def _answer(self, messages: list[dict[str, str]]) -> None:
        system = [{"role": "system", "content": self.system}] if self.system else []
        ids, dropped = self.writer.fit([*system, *messages], self.sampling.max_new_tokens)
        if dropped > self.unread:
            what = (
                f"the oldest {dropped} of {len(messages) - 1} turns are"
                if self.writer.reads == "turns"
                else "the beginning is"
            )
            say(f"the context is full: {what} not read any more (/save still writes all of it).")
        self.unread = dropped
        sampling = replace(self.sampling, seed=derive(self.sampling.seed, "chat", self.drawn))
        self.drawn += 1
        writing = self.writer.write(ids, sampling)
        try:
            with closing(iter(writing)) as pieces:  # type: ignore[type-var]
                for piece in pieces:
                    self._print("" if self.as_json else piece)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
        if self.as_json:
            said = {"answer": writing.text, "adapter": self.name, "tokens": writing.tokens, "ended": writing.ended}
            self._print(json.dumps(said, ensure_ascii=False))
        self._print("\n")
        if self.interactive and writing.ended != "stop":
            why = "stopped" if writing.ended == "stopped" else f"it ends here after {writing.tokens} tokens"
            say(f"({why})")
        if writing.ended == "stopped" and not writing.text:
            return  # nothing was answered: nothing was said
        self.messages = [*messages, {"role": "assistant", "content": writing.text}]

    def _print(self, text: str) -> None:
        sys.stdout.write(text.translate(CONTROLS))  # a model may write anything
        sys.stdout.flush()

    # ---- commands

    def help(self, rest: str) -> None:
        """This list."""
        width = max(len(f"{word} {of}") for word, (_, of) in COMMANDS.items())
        for word, (method, of) in COMMANDS.items():
            say(f"  {f'{word} {of}':<{width}}  {(method.__doc__ or '').strip()}")
        say("  A line that ends with \\ goes on in the next one; Ctrl-C stops an answer, Ctrl-D leaves.")

    def adapter(self, rest: str) -> None:
        """Let another artifact answer from now on; without a name: list them."""
        if not rest:
            for name in self.voices.names:
                say(f"{'*' if name == self.name else ' '} {name}")
            return
        own = self.system == self.writer.system
        self.name, self.writer = rest, self._writer(rest)
        self.system = self.writer.system if own or self.writer.reads == "text" else self.system
        self.unread = 0
        say(f"{rest} answers now{_what(self.writer)}.")

    def set_system(self, rest: str) -> None:
        """Set the system prompt (- for none); without a text: show it."""
        if not rest:
            say(f"system: {self.system}" if self.system else "there is no system prompt; set one with /system TEXT.")
            return
        self._set_system(None if rest == "-" else rest)
        say(
            "the system prompt holds from the next answer on." if self.system else "there is no system prompt any more."
        )

    def _set_system(self, text: str | None) -> None:
        if text and self.writer.reads == "text":
            raise UserError(
                f"`{self.name}` is a plain language model, which has no system prompt; begin the text with it instead."
            )
        self.system = text

    def save(self, rest: str) -> None:
        """Add the conversation to a JSONL file, as `tunesmith train --task chat` reads it."""
        if not rest:
            raise UserError("/save needs a file: /save talks.jsonl.")
        if not self.messages:
            raise UserError("nothing was said yet, so there is nothing to save.")
        path = Path(rest).expanduser()
        system = [{"role": "system", "content": self.system}] if self.system else []
        line = json.dumps({"messages": [*system, *self.messages]}, ensure_ascii=False) + "\n"
        try:
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            before = before.removesuffix(self.saved.get(path.absolute(), ""))  # this conversation, as far as it was
            before += "\n" if before and not before.endswith("\n") else ""
            path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SaveError(f"cannot write `{path}`: {reason}; give another file.") from error
        durable.write(path, before + line, "give another file")
        self.saved[path.absolute()] = line
        count = (before + line).count("\n")
        say(f"{len(self.messages)} turns saved; {path} holds {count} conversation{'s' if count > 1 else ''}.")

    def reset(self, rest: str) -> None:
        """Forget what was said; the system prompt stays."""
        self.messages, self.unread, self.saved = [], 0, {}
        say("what was said is forgotten.")

    def undo(self, rest: str) -> None:
        """Take the last message and its answer back."""
        if not self.messages:
            raise UserError("nothing was said yet, so there is nothing to take back.")
        say(f"taken back: {self.messages[-2]['content'].splitlines()[0][:60]}")
        self.messages, self.unread = self.messages[:-2], 0

    def leave(self, rest: str) -> None:
        """Leave, as the end of the input does."""


COMMANDS: dict[str, tuple[Callable[[Conversation, str], None], str]] = {
    "/help": (Conversation.help, ""),
    "/adapter": (Conversation.adapter, "NAME"),
    "/system": (Conversation.set_system, "TEXT"),
    "/save": (Conversation.save, "FILE"),
    "/reset": (Conversation.reset, ""),
    "/undo": (Conversation.undo, ""),
    "/exit": (Conversation.leave, ""),
}


def _what(writer: Writer) -> str:
    """What a person should know of an artifact before talking to it."""
    notes: dict[str, str] = {
        "turns": "", "prompt": "; it answers single prompts and does not read earlier turns",
        "text": "; it goes on with your text, a new line for each of yours",
    }  # fmt: skip
    return notes[writer.reads]


def lines(interactive: bool) -> Iterator[str]:
    """What is typed, or comes through the pipe; lines that end with a backslash are joined, blank ones skipped."""
    parts: list[str] = []
    while True:
        try:
            line = input(MORE if parts else PROMPT) if interactive else _next_line()
        except EOFError:
            if interactive:
                print(file=sys.stderr)
            if parts:
                yield "\n".join(parts)
            return
        except KeyboardInterrupt:
            if not interactive:
                raise
            parts = []
            print("\n(/exit or Ctrl-D leaves)", file=sys.stderr)
            continue
        if line.endswith("\\"):
            parts.append(line[:-1])
            continue
        text, parts = "\n".join([*parts, line]), []
        if text.strip():
            yield text


def _next_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def talk(conversation: Conversation, title: str) -> None:
    """Take lines until there are no more.

    Args:
        conversation: what takes them.
        title: what a person is told first.

    Raises:
        UserError: a line of a script is wrong.
    """
    interactive = conversation.interactive
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401  (line editing and history in `input`)
        say(f"{title}{_what(conversation.writer)}. /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.")
    for line in lines(interactive):
        try:
            if not conversation.take(line):
                return
        except (UserError, SaveError) as error:
            if not interactive:
                raise
            people().print(f"error: {error}", markup=False)
        except KeyboardInterrupt:  # between two tokens, or before the first
            if not interactive:
                raise
            if verbosity() >= 0:
                print("(stopped)", file=sys.stderr)


def named_adapters(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=ARTIFACT` words as a mapping.

    Raises:
        UserError: one is none, or a name stands twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals or not name.strip() or not folder.strip():
            raise UserError(f"--adapter takes NAME=ARTIFACT such as formal=runs/formal/artifact, got `{pair}`.")
        if name.strip() in found:
            raise UserError(f"--adapter names `{name.strip()}` twice; give each artifact a name of its own.")
        found[name.strip()] = folder.strip()
    return found
