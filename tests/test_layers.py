"""Import rules that the linter cannot say: nobody names a technique, task, objective, strategy or baseline in code."""

from __future__ import annotations

import ast
from pathlib import Path

import tunesmith
from tunesmith.registry import FAMILIES

SOURCE = Path(tunesmith.__file__).parent


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_only_the_registry_reaches_entries() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        family = path.relative_to(SOURCE).parts[0]
        for name in imported(path):
            for package in FAMILIES.values():
                prefix = f"tunesmith.{package}."
                if name.startswith(prefix) and not name.removeprefix(prefix).startswith("_") and family != package:
                    wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong, wrong


def test_files_stay_readable() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 420, f"{path} has {text.count(chr(10))} lines"
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert path.stem not in ("utils", "helpers", "misc", "common")
