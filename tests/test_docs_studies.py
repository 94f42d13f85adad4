"""docs/studies.md: its commands run, and the keys that it lists are those of a study."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith.cli.main import run
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

PAGE = (Path(__file__).parent.parent / "docs" / "studies.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M) for line in block.splitlines()]


def test_every_command_is_run() -> None:
    assert [re.search(r"--(grid|budget|jobs)", line)[1] for line in COMMANDS] == ["grid", "budget", "jobs"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda line: re.search(r"--(grid|budget|jobs)", line)[1])
def test_commands_run(command: str, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{row['text']} {number},{row['label']}" for number, row in enumerate(toy_rows(40))]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(re.sub(r"asset:\S+", str(tiny_model("bert", models / "bert")), command))[1:]
    # Fewer runs than the page has: two values, one seed, two techniques.
    for long, short in (
        ("lora.rank=1,4,16", "lora.rank=1,4"),
        ("0,1,2", "0"),
        ("0,1", "0"),
        ("full,lora,bitfit", "full,bitfit"),
    ):
        words = [short if word == long else word for word in words]
    assert run([*words, "-q", "--max-steps", "2", "--baselines", "none"]) == 0
    results = json.loads((tmp_path / words[words.index("--output") + 1] / "results.json").read_text())
    assert {each["status"] for each in results["runs"]} == {"finished"}
    if "--grid" in words:
        listed = set(
            re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")))
        )
        assert listed == set(results["studies"][0])
        (row,) = [line for line in PAGE.splitlines() if line.startswith("| `points`")]
        assert set(re.findall(r"`(\w+)`", row)) - {"points"} == set(results["studies"][0]["points"][0]) - {"value"}
