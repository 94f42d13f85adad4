"""apt as a client: the machine's lists first, lists of our own when those do not help; the index; no apt at all.

`apt-get` is a script here that plays the real one: it sees the words it is given and writes what apt would write.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tunesmith.assets import DownloadError, get
from tunesmith.assets.catalogue import CURRENT, Source
from tunesmith.assets.download import download
from tunesmith.errors import AssetError

PACKAGE = Source("toy-pkg", CURRENT, "", 10, registry="Debian")
INDEX = Source("Translation-en", CURRENT, "", 10, registry="Debian index")
APT = """#!/bin/sh
echo "$*" >> {log}
config=""; last=""
for word in "$@"; do [ "$last" = -c ] && config="$word"; last="$word"; done
lists=$(sed -n 's/^Dir::State "\\(.*\\)";/\\1/p' "$config" 2>/dev/null)lists
case "$*" in
*update*) {update} ;;
*download*) {download} ;;
esac
"""
GIVE = "printf deb > toy-pkg_1.2-1_all.deb"
FAIL = "echo 'E: Unable to locate package'; exit 100"


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """A function that puts an `apt-get` on the path, and gives the file that its calls are written to."""

    def install(update: str = "true", download: str = GIVE) -> Path:
        folder, log = tmp_path / "bin", tmp_path / "calls"
        folder.mkdir()
        (folder / "apt-get").write_text(APT.format(log=log, update=update, download=download))
        (folder / "apt-get").chmod(0o755)
        for tool in ("sed", "mkdir", "cat", "sh"):
            (folder / tool).symlink_to(shutil.which(tool) or tool)
        monkeypatch.setenv("PATH", str(folder))
        return log

    return install


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def test_the_lists_of_the_machine_are_enough(apt, place):
    log = apt()
    assert download(PACKAGE, place, "toy").name == "toy-pkg_1.2-1_all.deb"
    assert [call.split()[-2:] for call in log.read_text().splitlines()] == [["download", "toy-pkg"]]


def test_without_lists_apt_gets_some_of_its_own(apt, place):
    log = apt(download=f'if [ -n "$config" ]; then {GIVE}; else {FAIL}; fi')
    assert download(PACKAGE, place, "toy").read_bytes() == b"deb"
    first, update, again = log.read_text().splitlines()
    assert "-c" not in first.split()
    assert update.split()[-1] == "update"
    config = Path(again.split()[2]).read_text()
    # Nothing of the machine's own state is written, and nothing that acts on it is run.
    assert f'Dir::State "{place}' in config
    assert f'Dir::Cache "{place}' in config
    assert "#clear APT::Update::Post-Invoke;" in config


def test_a_package_that_is_nowhere_says_what_apt_said(apt, place):
    apt(download=FAIL)
    with pytest.raises(DownloadError, match=r"no network, or apt-get cannot .*Unable to locate package"):
        download(PACKAGE, place, "toy")


def test_the_index_is_all_english_descriptions_as_one_file(apt, place):
    write = 'printf "Package: %s\\n" a > ${lists}/b_i18n_Translation-en; printf "Package: %s\\n" z > ${lists}/a_i18n_Translation-en'
    log = apt(update=f"{write}; printf x > ${{lists}}/b_Packages")
    assert download(INDEX, place, "toy").read_text() == "Package: z\n\nPackage: a\n\n"
    assert 'Acquire::Languages { "en"; };' in Path(log.read_text().split()[2]).read_text()


def test_an_index_without_descriptions_is_an_error(apt, place):
    apt()
    with pytest.raises(DownloadError, match="gave no file `Translation-en`"):
        download(INDEX, place, "toy")


@pytest.mark.parametrize("name", ["austen", "debian-synopses", "libreoffice-vi"])
def test_without_apt_one_sentence_says_so(name, place, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(
        DownloadError, match=f"asset `{name}`: it comes from Debian's archive and the command `apt-get` is"
    ):
        download(get(name).sources[0], place, name)


def test_what_apt_brings_is_not_held_against_a_sha256(apt, place):
    apt()
    with pytest.raises(AssetError, match="sha256"):
        download(Source("toy-pkg", "1.2", "0" * 64, 10, registry="Debian"), place, "toy")
