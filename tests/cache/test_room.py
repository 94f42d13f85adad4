"""The cache keeps within its limit, gives up what was not used for longest, and is cleared by a command."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tunesmith.cache import room, store
from tunesmith.errors import UserError

DAY = 24 * 3600.0


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(room.LIMIT, raising=False)
    return tmp_path / "cache"


def put(kind: str, key: str, size: int = 1000, days: float = 0.0) -> Path:
    """An entry of so many bytes that was used last so many days ago."""
    place = store.folder(kind, key, lambda folder: (folder / "data").write_bytes(bytes(size)) and None)
    os.utime(place, (time.time() - days * DAY,) * 2)
    return place


def there(root: Path) -> set[str]:
    return {each.path.name for each in room.entries(root)}


def test_the_oldest_go_first_and_only_as_many_as_must(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put("encoded", f"e{number}", days=10 - number)
    put("assets", "model", size=50_000, days=100)
    monkeypatch.setenv(room.LIMIT, "4K")
    put("features", "new")
    assert there(root) == {"e2", "e3", "e4", "new", "model"}


def test_what_was_used_within_a_day_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        put("encoded", f"e{number}", days=0.5)
    monkeypatch.setenv(room.LIMIT, "1K")
    put("features", "new")
    assert there(root) == {"e0", "e1", "e2", "e3", "new"}


def test_being_used_counts(root: Path) -> None:
    place = put("encoded", "e", days=9)
    store.folder("encoded", "e", lambda folder: pytest.fail("it is there"))
    assert time.time() - place.stat().st_mtime < 60


def test_without_a_limit_it_is_a_share_of_the_disk(root: Path) -> None:
    assert 2**20 < room.limit(root) < 2**60


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20e9), ("500M", 5e8), ("1.5t", 1.5e12), ("7", 7), (" 3 kb ", 3000)]
)
def test_sizes(text: str, size: float) -> None:
    assert room.parse_size(text, "it") == size


@pytest.mark.parametrize("text", ["", "much", "-1G", "1 GiB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match="takes a size such as 20GB"):
        room.parse_size(text, "TUNESMITH_CACHE_LIMIT")


def test_clearing(root: Path, cli: Any) -> None:
    for kind in ("encoded", "features", "assets"):
        put(kind, f"old-{kind}", days=40)
        put(kind, f"new-{kind}")
    (root / "encoded" / ".being-made.writing").mkdir()
    assert cli("clear", "--older-than", "30", "--json").json == {"entries": 2, "bytes": 2000, "root": str(root)}
    assert there(root) == {"old-assets", "new-assets", "new-encoded", "new-features"}
    assert cli("clear", "features", "assets", "--json").json["entries"] == 3
    assert "1 entries" in cli("clear").out
    assert there(root) == set()
    assert (root / "encoded" / ".being-made.writing").is_dir()


def test_an_unknown_kind_is_named(root: Path, cli: Any) -> None:
    answer = cli("clear", "features")
    assert answer.code == 2 and "is empty" in answer.err
    put("encoded", "e")
    answer = cli("clear", "encodes")
    assert answer.code == 2 and "did you mean `encoded`" in answer.err


def test_it_is_listed(root: Path, cli: Any) -> None:
    put("encoded", "e", size=3000)
    put("assets", "a", size=5000)
    rows = {row["kind"]: row for row in cli("list", "cache", "--json").json}
    assert rows["encoded"]["entries"] == 1 and rows["computed"]["entries"] == 1
    assert rows["assets"]["entries"] == 1 and room.LIMIT in rows["computed"]["where"]
