"""Every error a person can meet, and the exit code it ends with.

An error message is one sentence: what failed, where, what was got, what is allowed or nearest, what to do.
A `UserError` means that the input is wrong (exit 2, no traceback); any other `TunesmithError` is our own
failure or the machine's (exit 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LONGEST = 3000
"""Characters of a message: what it repeats of its input may be of any length."""


class TunesmithError(Exception):
    """Something failed that the caller's input did not cause; the command line exits with 1."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        cut = len(message) - LONGEST
        super().__init__(message if cut <= 0 else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}")


class UserError(TunesmithError):
    """The input is wrong and the message says what to change; the command line exits with 2."""

    exit_code = 2


class ConfigError(UserError):
    """One or more wrong settings, reported together.

    Args:
        problems: pairs of the setting's path (`training.warmup`) and what is wrong with it.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = list(problems)
        lines = [f"{path}: {message}" if path else message for path, message in self.problems]
        if len(lines) == 1:
            super().__init__(lines[0])
        else:
            super().__init__(f"{len(lines)} settings are wrong:\n" + "\n".join(f"  - {line}" for line in lines))


class DataError(UserError):
    """A file or a row cannot be used; the message names the file and the row."""


class ModelError(UserError):
    """A model folder, file or name cannot be used."""


class AssetError(UserError):
    """An asset is unknown, cannot be fetched or is damaged."""


class TechniqueError(UserError):
    """A technique cannot act on this model, with the reason and what to choose instead."""


class ArtifactError(UserError):
    """An artifact is missing, damaged or belongs to something else."""


class SaveError(TunesmithError):
    """Writing failed (disk full, no permission); nothing half-written is left behind."""


class VerificationError(TunesmithError):
    """A saved artifact does not score what was measured before it was saved."""


class MemoryShortage(TunesmithError):
    """The machine's memory does not suffice; the message says what would need less."""


class Interrupted(TunesmithError):
    """Stopped on request; the message says what is kept and how to go on."""

    exit_code = 130


def interrupt(number: int, frame: Any) -> None:
    """Handler of SIGTERM: the same as Ctrl-C."""
    raise KeyboardInterrupt


def called(value: object) -> str:
    """What a value is, in words for a person who did not write the program: "a number", "a list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for types, name in (((int, float), "a number"), (str, "text"), ((list, tuple), "a list"), (Mapping, "an object")):
        if isinstance(value, types):
            return name
    return f"a {type(value).__name__}"


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that `word` most likely meant, or None when nothing is close."""
    pool = list(options)
    plain = {option.lower().replace("_", "-"): option for option in pool}
    found = difflib.get_close_matches(word.lower().replace("_", "-"), list(plain), n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def shown(value: object, most: int = 200) -> str:
    """A value that was given, for a message: whole data sets may be given where a name belongs."""
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}…"


def unknown(kind: str, word: str, options: Iterable[str]) -> str:
    """One sentence for an unknown name: the nearest name if there is one, and all that are allowed."""
    pool = sorted(options)
    close = nearest(word, pool)
    hint = f"; did you mean `{close}`?" if close else "."
    listed = ", ".join(pool) if len(pool) <= 24 else ", ".join(pool[:24]) + ", ..."
    return f"unknown {kind} `{word}`{hint} Known: {listed}."
