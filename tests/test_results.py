"""docs/results.md says what the committed results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("script", "page"), [("summary", "results"), ("questions", "questions")])
def test_a_page_is_fresh(script: str, page: str) -> None:
    spec = importlib.util.spec_from_file_location(script, ROOT / "benchmarks" / f"{script}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert written == module.page(), f"docs/{page}.md is stale: python benchmarks/{script}.py > docs/{page}.md"


def test_every_technique_is_suited_for_something() -> None:
    from tunesmith import registry

    source = (ROOT / "benchmarks" / "questions.py").read_text(encoding="utf-8")
    assert all(f'"{name}": (' in source for name in registry.names("technique") if name != "peft")


def test_every_task_has_a_result() -> None:
    from tunesmith import registry

    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    own = [name for name in registry.names("task") if not registry.load("task", name).wraps]
    missing = [name for name in own if f"| {name} |" not in text]
    assert not missing
