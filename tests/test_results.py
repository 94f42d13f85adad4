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


def test_every_task_has_a_result() -> None:
    from tunesmith import registry

    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    own = [name for name in registry.names("task") if not registry.load("task", name).wraps]
    missing = [name for name in own if f"| {name} |" not in text]
    assert not missing
