"""docs/plan.md: its commands run, and give what it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from command_line import Cli
from tunesmith.plan.prediction import PARTS
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

PAGE = (Path(__file__).parent.parent / "docs" / "plan.md").read_text(encoding="utf-8")


def test_commands_run(cli: Cli, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{row['text']} {number},{row['label']}" for number, row in enumerate(toy_rows(24))]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = str(tiny_model("bert", models / "bert"))
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M) for line in block.splitlines()]
    assert len(lines) == 5
    said = [cli(*shlex.split(re.sub(r"asset:\S+", model, line))[1:]) for line in lines]
    assert [each.code for each in said] == [0] * len(lines), "".join(each.err for each in said)
    first, second, advised, *_ = said
    for name in ("full", "lora", "feature-based"):
        assert re.search(rf"^{name} .* yes +\d+ *$", first.out, re.M), first.out
    (found,) = json.loads(second.out)["techniques"]
    assert found["status"] == "planned" and found["fits"] is True
    assert set(found["memory"]) == set(PARTS) and all(f"`{part}`" in PAGE for part in PARTS)
    assert "behind the best" in advised.out and "technique:" in advised.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reviews.csv", "run.yaml", "runs"]


def test_the_tables_name_what_there_is() -> None:
    """Rules and needs are those of the program."""
    from tunesmith.plan.advice import NEEDS, RULES

    named = set(re.findall(r"`([a-z]+)`", "".join(re.findall(r"^\| (`[^|]*)\|", PAGE, re.M))))
    assert set(NEEDS) == set(RULES) <= named
