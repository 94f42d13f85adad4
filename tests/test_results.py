"""docs/results.md says what the committed results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_of_results_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("summary", ROOT / "benchmarks" / "summary.py")
    assert spec is not None and spec.loader is not None
    summary = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(summary)
    written = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert written == summary.page(), "docs/results.md is stale: python benchmarks/summary.py > docs/results.md"


def test_the_page_of_questions_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("questions", ROOT / "benchmarks" / "questions.py")
    assert spec is not None and spec.loader is not None
    questions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(questions)
    written = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    assert written == questions.page(), "docs/questions.md is stale: python benchmarks/questions.py > docs/questions.md"


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
