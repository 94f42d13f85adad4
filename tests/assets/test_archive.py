"""Archives are read by exact member name; nothing in them decides where bytes go."""

from __future__ import annotations

import io
import zipfile

import pytest

from tunesmith.assets.archive import copy_zip_member, deb_members, tar_bytes, tar_members, zip_bytes
from tunesmith.errors import AssetError


def test_a_zip_that_climbs_out_touches_nothing(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    wheel = inner / "evil.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("../escaped.txt", "evil")
        file.writestr("good.txt", "good")
    assert zip_bytes(wheel, "good.txt") == b"good"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evil.whl", "inner"]
    with pytest.raises(AssetError, match=r"no member `escaped\.txt`"):
        zip_bytes(wheel, "escaped.txt")


def test_links_of_a_tar_are_not_followed(tmp_path, make_tar):
    (tmp_path / "secret").write_text("secret")
    links = [("link", "->", str(tmp_path / "secret")), ("../../up", b"up"), ("plain", b"plain")]
    archive = make_tar(tmp_path / "evil.tgz", links)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert tar_bytes(archive, "plain") == b"plain"
    with pytest.raises(AssetError, match="no plain file `link`"):
        tar_bytes(archive, "link")
    assert [name for name, _ in tar_members(archive, lambda name: True)] == ["../../up", "plain"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_member_larger_than_the_bound_is_refused(tmp_path, make_tar):
    wheel = tmp_path / "bomb.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(5_000_000))
    assert wheel.stat().st_size < 10_000
    with pytest.raises(AssetError, match="larger than 1000000 bytes"):
        copy_zip_member(wheel, "zeros", io.BytesIO(), limit=1_000_000)
    archive = make_tar(tmp_path / "bomb.tgz", [("zeros", bytes(5_000_000))])
    with pytest.raises(AssetError, match="larger than 1000000 bytes"):
        tar_bytes(archive, "zeros", limit=1_000_000)


@pytest.mark.parametrize("read", [zip_bytes, tar_bytes])
def test_a_file_that_is_no_archive_is_named(tmp_path, read):
    (tmp_path / "page.whl").write_text("<html>log in to the wireless network</html>")
    with pytest.raises(AssetError, match=r"page\.whl"):
        read(tmp_path / "page.whl", "a")


def test_an_inner_tar_is_read_from_memory(tmp_path, make_tar):
    inner = make_tar(tmp_path / "inner.tgz", [("a/b.txt", b"deep")]).read_bytes()
    outer = make_tar(tmp_path / "outer.tgz", [("inner.tgz", inner)])
    assert tar_bytes(io.BytesIO(tar_bytes(outer, "inner.tgz")), "a/b.txt") == b"deep"


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2", ""])
def test_a_debian_package_is_read_by_name(tmp_path, make_deb, compression):
    members = [("usr/share/a.txt", b"one"), ("usr/share/b.txt", b"two"), ("../../up", b"up")]
    deb = make_deb(tmp_path / "a.deb", members, compression)
    assert dict(deb_members(deb, lambda name: name.endswith(".txt"))) == {
        "usr/share/a.txt": b"one",
        "usr/share/b.txt": b"two",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.deb"]


def test_a_damaged_debian_package_says_so(tmp_path, make_deb):
    whole = make_deb(tmp_path / "a.deb", [("a", b"one")]).read_bytes()
    for content, why in [
        (b"<html>", "no ar archive"),
        (whole[:-20], "cut off"),
        (whole.replace(b"data.tar", b"date.tar"), "no `data.tar`"),
        (whole[:180] + b"\0" * (len(whole) - 180), "cut off or damaged"),
    ]:
        (tmp_path / "b.deb").write_bytes(content)
        with pytest.raises(AssetError, match=why):
            list(deb_members(tmp_path / "b.deb", lambda name: True))


def test_zstandard_is_left_to_dpkg(tmp_path, make_deb, monkeypatch):
    """Ubuntu's packages; without dpkg-deb the message says what is missing."""
    deb = make_deb(tmp_path / "a.deb", [("a", b"one")], "")
    deb.write_bytes(deb.read_bytes().replace(b"data.tar        ", b"data.tar.zst    "))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match="dpkg-deb"):
        list(deb_members(deb, lambda name: True))
    plain = tmp_path / "plain.tar"
    import tarfile

    with tarfile.open(plain, "w") as file:
        info = tarfile.TarInfo("./a")
        info.size = 3
        file.addfile(info, io.BytesIO(b"one"))
    (tmp_path / "dpkg-deb").write_text(f'#!/bin/sh\n[ "$1" = --fsys-tarfile ] && exec /bin/cat {plain}\n')
    (tmp_path / "dpkg-deb").chmod(0o755)
    assert list(deb_members(deb, lambda name: True)) == [("a", b"one")]
