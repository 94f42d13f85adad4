"""Names become code by file name: `lora` is `techniques/lora.py`, and adding a file is all it takes.

Listing reads folders and docstrings only, so that `tunesmith list techniques` imports nothing heavy. A file
holds exactly one public class of its family; files whose name starts with `_` are not entries.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, unknown

FAMILIES = {
    "task": "tasks",
    "technique": "techniques",
    "objective": "objectives",
    "strategy": "continual",
    "baseline": "baselines",
}

ALIASES = {"strategy": {"si": "synaptic-intelligence", "er": "experience-replay"}}


@dataclass(frozen=True)
class Entry:
    """One registered name: its family, the word people type and where it lives."""

    kind: str
    name: str
    module: str
    path: Path

    @property
    def summary(self) -> str:
        """First line of the file's docstring, read without importing it."""
        return (ast.get_docstring(ast.parse(self.path.read_text(encoding="utf-8"))) or "").split("\n", 1)[0]


@cache
def entries(kind: str) -> dict[str, Entry]:
    """All entries of a family by name, without importing any of them."""
    package = f"tunesmith.{FAMILIES[kind]}"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return {}
    found = {}
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).glob("*.py")):
            if not path.stem.startswith("_"):
                name = path.stem.replace("_", "-")
                found[name] = Entry(kind, name, f"{package}.{path.stem}", path)
    return found


def names(kind: str) -> list[str]:
    """Names of a family in alphabetical order."""
    return sorted(entries(kind))


def split_name(name: str) -> tuple[str, str | None]:
    """`peft:LOHA` is entry `peft` with variant `LOHA`; a plain name has no variant."""
    base, _, variant = str(name).strip().partition(":")
    return base.lower().replace("_", "-"), variant or None


def resolve(kind: str, name: str) -> Entry:
    """The entry for a name or alias.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    base, _ = split_name(name)
    base = ALIASES.get(kind, {}).get(base, base)
    known = entries(kind)
    if base not in known:
        raise ConfigError([("", unknown(kind, name, known))])
    return known[base]


def load(kind: str, name: str) -> type[Any]:
    """Import the entry's file and return its class."""
    entry = resolve(kind, name)
    module = importlib.import_module(entry.module)
    found = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__ and getattr(member, "family", None) == kind
    ]
    if len(found) != 1:
        raise TypeError(f"{entry.path.name} must define exactly one {kind} class, found {len(found)}")
    return found[0]


def families_of(section: str) -> list[Entry]:
    """Entries (of any family) that own the configuration section with this name."""
    base = section.lower().replace("_", "-")
    return [known[base] for kind in FAMILIES if base in (known := entries(kind))]
