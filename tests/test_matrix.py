"""Every technique on every task and architecture, against the committed table: a cell that changed makes it stale."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tunesmith.testing.matrix import ARCHITECTURES, TECHNIQUES, column, tasks

DOCUMENT = Path(__file__).parent.parent / "docs" / "matrix.md"
AGAIN = "regenerate it: python -m tunesmith.testing.matrix > docs/matrix.md"


def written() -> dict[tuple[str, str, str], str]:
    """(task, architecture, technique) -> cell of the committed table, reasons written out."""
    text = DOCUMENT.read_text(encoding="utf-8")
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", text, re.M))
    found: dict[tuple[str, str, str], str] = {}
    task, kinds = "", []
    for line in text.splitlines():
        if line.startswith("## "):
            task = line.removeprefix("## ")
        elif line.startswith("| | "):
            kinds = [cell.strip() for cell in line.strip("|").split("|")][1:]
        elif line.startswith("| "):
            label, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            for kind, cell in zip(kinds, cells, strict=True):
                number = re.fullmatch(r"refused \((\d+)\)", cell)
                found[task, kind, label] = f"refused: {reasons[number[1]]}" if number else cell
    return found


TABLE = written()


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("task", tasks())
def test_the_table_says_what_is(task: str, kind: str, models: Path) -> None:
    torch.set_num_threads(1)
    found = column(task, kind, models)
    failing = {label: cell for label, cell in found.items() if cell.startswith("FAIL")}
    assert not failing, failing
    for label, cell in found.items():
        assert TABLE.get((task, kind, label)) == cell, f"docs/matrix.md is stale at {task}, {kind}, {label}; {AGAIN}"


def test_the_table_is_whole() -> None:
    """All pairs are there, none fails, and at least 500 cells work."""
    assert {(t, k) for t, k, _ in TABLE} == {(t, k) for t in tasks() for k in ARCHITECTURES}, AGAIN
    assert {label for _, _, label in TABLE} == {label for label, _, _ in TECHNIQUES}, AGAIN
    assert sum(cell == "ok" for cell in TABLE.values()) >= 500
    assert not [key for key, cell in TABLE.items() if not cell.startswith(("ok", "refused: "))]
