"""docs/forgetting.md: its commands and its Python run as they stand, on a few rows and a tiny model with a language-model head."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import transformers

from tunesmith.cli.main import run
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

PAGE = (Path(__file__).parent.parent / "docs" / "forgetting.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)
    return str(found)


@pytest.fixture
def model(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, first in (("reviews", 0), ("mails", 1)):
        rows = [f'"{row["text"]} {i + first}",{row["label"]}' for i, row in enumerate(toy_rows(40))]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    text = "\n\n".join(f"{row['text']} and {row['text']}" for row in toy_rows(24))
    (tmp_path / "articles.txt").write_text(text, encoding="utf-8")
    source = str(tiny_model("bert", models / "bert"))
    transformers.AutoModelForMaskedLM.from_pretrained(source).save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return "./model"


def test_the_page_runs(model: str, tmp_path: Path) -> None:
    for line in block("bash").splitlines():
        words = shlex.split(
            line.replace("asset:bert-tiny", model).replace("--retain default", "--retain articles.txt")
        )[1:]
        assert run([*words, *(["-q", "--max-steps", "2"] if words[0] == "train" else [])]) == 0, line
    found = {
        name: json.loads((tmp_path / "runs" / name / "result.json").read_text())["forgetting"]
        for name in ("first", "second")
    }
    assert found["first"]["kind"] == "general text" and found["second"]["kind"] == "text-classification"
    code = block("python").replace("asset:bert-tiny", model).replace('output="runs', 'max_steps=1, output="runs')
    exec(compile(code, "forgetting.md", "exec"), {})


def test_the_page_says_what_a_name_means() -> None:
    from tunesmith.data.passages import SIZE
    from tunesmith.options import DEFAULT_TEXT
    from tunesmith.retention import PASSAGES

    assert f"`{DEFAULT_TEXT}`" in PAGE and f"{SIZE:,} characters" in PAGE and f"takes {PASSAGES} of" in PAGE
