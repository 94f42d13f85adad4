"""What people see of long work where no terminal shows a bar."""

from __future__ import annotations

import pytest

from tunesmith import console


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
