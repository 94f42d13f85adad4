"""Threads spin shortly beside other processes, and as ever on an idle machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.cli.threads import spin_briefly_beside_others


@pytest.mark.parametrize(
    ("running", "cores", "expected"),
    [(1, 2, None), (2, 2, "1000"), (3, 2, "1000"), (4, 8, None), (5, 8, "1000")],
    ids=["alone", "half", "all", "a few of eight", "half of eight"],
)
def test_others_have_half_of_the_cores(tmp_path: Path, running: int, cores: int, expected: str | None) -> None:
    load = tmp_path / "loadavg"
    load.write_text(f"0.10 0.20 0.30 {running}/200 4242\n", encoding="ascii")
    environment: dict[str, str] = {}
    spin_briefly_beside_others(environment, load, cores)
    assert environment.get("GOMP_SPINCOUNT") == expected


def test_the_command_line_looks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.cli import main as command_line

    looked: list[bool] = []
    monkeypatch.setattr(command_line.signal, "signal", lambda *_: None)
    monkeypatch.setattr(command_line, "spin_briefly_beside_others", lambda: looked.append(True))
    monkeypatch.setattr(command_line, "run", lambda args: 0 if looked else 1)
    with pytest.raises(SystemExit) as ended:
        command_line.main([])
    assert ended.value.code == 0


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_chose_stays(tmp_path: Path, name: str) -> None:
    load = tmp_path / "loadavg"
    load.write_text("9.10 9.20 9.30 9/200 4242\n", encoding="ascii")
    environment = {name: "chosen"}
    spin_briefly_beside_others(environment, load, 2)
    assert environment == {name: "chosen"}


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    spin_briefly_beside_others(environment, tmp_path / "none", 2)
    assert environment == {}
