"""What people see of long work where no terminal shows a bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith import console
from tunesmith.errors import TunesmithError


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    monkeypatch.setattr(console, "PROGRESS_SECONDS", 0.0)
    console.people.cache_clear()  # the console of an earlier test writes to that test's stream
    return capfd


def test_a_log_gets_lines(written: pytest.CaptureFixture[str]) -> None:
    console.set_verbosity(0)
    with console.progress() as bar:
        task = bar.add_task("before", total=4000)
        bar.advance(task, 1500)
        bar.update(task, completed=3000, info="loss 1.5")
    assert written.readouterr().err.splitlines() == ["before: 1,500 of 4,000", "before: 3,000 of 4,000  loss 1.5"]


def test_quiet_means_quiet(written: pytest.CaptureFixture[str]) -> None:
    console.set_verbosity(-1)
    try:
        with console.progress() as bar:
            bar.advance(bar.add_task("before", total=4), 2)
    finally:
        console.set_verbosity(0)
    assert written.readouterr().err == ""


def test_short_work_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    console.people.cache_clear()
    with console.progress() as bar:
        bar.advance(bar.add_task("before", total=4), 2)
    assert capfd.readouterr().err == ""


def test_control_characters_are_shown_and_not_obeyed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, cli: Any
) -> None:
    """A file's name or a cell may hold what clears a terminal, sets its title, or turns the direction of writing."""
    evil = "a\x1b[2J\x1b]0;title\x07b\rc\x9bd\u202egnp.exe"
    console.say(evil)
    console.warn(evil)
    shown = capsys.readouterr().err
    assert "\\x1b[2J\\x1b]0;title\\x07b\\x0dc\\x9bd\\u202egnp.exe" in shown
    assert not set(shown) & set("\x1b\x07\r\x9b\u202e")
    assert console.visible("Tiếng Việt\n\tđẹp 👍🏽 عربي") == "Tiếng Việt\n\tđẹp 👍🏽 عربي"
    answer = cli("train", "--model", "m", "--train", tmp_path / "\x1b[31mred.csv")
    assert answer.code == 2 and "\\x1b[31mred.csv" in answer.err and "\x1b" not in answer.err


def test_a_message_that_repeats_its_input_is_cut() -> None:
    error = TunesmithError("begin " + "x" * 100_000 + " end")
    assert len(str(error)) < 3100 and str(error).startswith("begin ") and str(error).endswith(" end")
    assert str(TunesmithError("short")) == "short"
