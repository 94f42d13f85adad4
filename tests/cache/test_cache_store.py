"""Entries are made once, by one process, and seen only when complete."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith.cache import store
from tunesmith.errors import DataError, SaveError


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left(root: Path) -> list[str]:
    """Everything in the cache but lock files."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if not p.name.endswith(".lock"))


PARTS: dict[str, Any] = {"rows": "abc", "max_length": 128, "options": {"a": 1, "b": [1, 2]}}


@pytest.mark.parametrize(
    "change",
    [
        {"rows": "abd"},
        {"max_length": 129},
        {"max_length": "128"},
        {"options": {"a": 1, "b": [2, 1]}},
        {"options": {"a": 2, "b": [1, 2]}},
        {"further": None},
    ],
)
def test_a_key_changes_with_every_part(change: dict[str, Any]) -> None:
    assert store.key_of(**PARTS) != store.key_of(**{**PARTS, **change})


def test_a_key_does_not_depend_on_the_order_of_the_parts() -> None:
    turned = {"options": {"b": [1, 2], "a": 1}, "max_length": 128, "rows": "abc"}
    assert store.key_of(**PARTS) == store.key_of(**turned)


def test_a_key_changes_with_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.key_of(**PARTS)
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert store.key_of(**PARTS) != before


def test_a_file_s_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 17)  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert store.file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_an_entry_is_made_once(root: Path) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "a").write_text("x")

    first = store.folder("kind", "key", make)
    assert store.folder("kind", "key", make) == first == root / "kind" / "key"
    assert (first / "a").read_text() == "x"
    assert len(calls) == 1
    assert calls[0] != first, "an entry may not be filled where it can be seen"


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (DataError("row 3 is wrong"), DataError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), SaveError),
    ],
)
def test_a_failing_make_leaves_nothing(error: BaseException, seen: type[BaseException], root: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(seen):
        store.folder("kind", "key", make)
    assert left(root) == ["kind"]

    def mended(folder: Path) -> None:
        (folder / "whole").write_text("x")

    assert [p.name for p in store.folder("kind", "key", mended).iterdir()] == ["whole"]


def test_a_full_disk_says_where_and_what_to_do() -> None:
    def make(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(SaveError) as error:
        store.folder("kind", "key", make)
    assert all(word in str(error.value) for word in ("No space left", "kind/key", "TUNESMITH_CACHE"))
    assert error.value.exit_code == 1


def test_a_cache_that_cannot_be_made_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "file"))
    with pytest.raises(SaveError, match="TUNESMITH_CACHE"):
        store.folder("kind", "key", lambda folder: None)


RACE = """
import sys
from pathlib import Path
from tunesmith.cache import store

mine, other = Path(sys.argv[1]), Path(sys.argv[2])
mine.write_text("ready")
while not other.exists():  # both start together
    pass

def make(folder):
    with open(sys.argv[3], "a") as log:
        log.write("made\\n")
    for i in range(200):  # long enough that the other arrives
        (folder / str(i)).write_text(str(i) * 1000)

entry = store.folder("kind", "key", make)
print(len(list(entry.iterdir())))
"""


def test_two_processes_make_an_entry_once(tmp_path: Path) -> None:
    ready, log = [tmp_path / "a", tmp_path / "b"], tmp_path / "log"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(mine), str(other), str(log)], stdout=subprocess.PIPE, text=True
        )
        for mine, other in (ready, ready[::-1])
    ]
    counts = [process.communicate(timeout=60)[0].strip() for process in both]
    assert counts == ["200", "200"], "each process must see a complete entry"
    assert log.read_text() == "made\n"


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", "~/elsewhere")
    assert store.cache_root() == Path.home() / "elsewhere"
    monkeypatch.delenv("TUNESMITH_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert store.cache_root() == Path("/x/tunesmith")
