"""docs/comparing.md: its commands run as they stand on a few rows, and what it says of results.json is there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith.cli.main import run
from tunesmith.compare import bootstrap, search
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")


def test_commands_run(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For two steps, with two seeds of three and two rates of five."""
    monkeypatch.setattr(search, "FACTORS", (1.0, 3.0))
    monkeypatch.setattr(search, "KEPT", (1,))
    monkeypatch.chdir(tmp_path)
    rows = [f'"{row["text"]} {i}",{row["label"]}' for i, row in enumerate(toy_rows(60))]
    Path("reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    model = str(tiny_model("bert", models / "bert"))
    for line in re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M)[0].splitlines():
        words = shlex.split(line.replace("asset:bert-tiny", model).replace("0,1,2", "0,1"))[1:]
        capsys.readouterr()
        assert (
            run([*words, *(["-q", "--max-steps", "2", "--batch-size", "8"] if words[0] == "compare" else [])]) == 0
        ), line
        if words[0] == "show":
            assert "to the best" in " ".join(capsys.readouterr().out.split())
    results = json.loads(Path("runs/compared/results.json").read_text())
    judged = [row["against_best"] for row in results["rows"] if row["against_best"]]
    keys = re.findall(r"`against_best\.(\w+)`", PAGE)
    assert len(judged) == 3 and all(set(keys) == set(each) for each in judged)
    assert {each["name"] for each in results["protocol"]["self_tests"]} <= set(
        re.findall(r"^\| ([a-z ]+) \|", PAGE, re.M)
    )
    assert results["search"] == [] and "examples" in results
    (found,) = json.loads(Path("runs/searched/results.json").read_text())["search"]
    for key in ("default", "rates", "chosen", "runs", "tokens", "seconds"):
        assert key in found and f"`{key}`" in PAGE
    assert (tmp_path / "runs" / "searched" / "search" / "lora").is_dir()


def test_the_page_says_what_the_code_does() -> None:
    assert f"{bootstrap.RESAMPLES:,} times" in PAGE
    *first, last = (f"{factor:g}" for factor in search.FACTORS)
    assert f"{', '.join(first)} and {last} times its default" in PAGE
    assert f"at most {search.MOST_ROWS:,};" in PAGE and f"{search.LEAST_STEPS} and 50 steps" in PAGE
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
