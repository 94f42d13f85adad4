"""Input that is well formed and too much: bounded, or refused, and never what eats the machine."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from bad_inputs.world import World, check

MODEL = "bert"


@pytest.fixture
def place(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tmp_path, models, None)


def growth() -> int:
    """Most bytes this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refused(cli: Any, place: World, args: Any, *words: str) -> None:
    answer = cli(*args)
    check(answer.code, answer.err, answer.out, (2, 1), words)
    assert not place.output.exists()


def test_two_hundred_thousand_labels(cli: Any, place: World) -> None:
    rows = place.file("a.csv", "text,label\n" + "".join(f"film {i},label{i}\n" for i in range(200_000)))
    before = growth()
    refused(cli, place, place.train(train=rows), "different labels", "is `label` the right column")
    assert growth() - before < 2 << 30


def test_a_label_of_a_megabyte(cli: Any, place: World) -> None:
    rows = place.rows(label=["x" * (1 << 20), "y"])
    refused(cli, place, place.train(train=rows), "1,048,576 characters", "is `label` the right column")


def test_a_tag_of_a_megabyte(cli: Any, place: World) -> None:
    rows = place.file("a.conll", "".join(f"a{i} B-{'x' * (1 << 20)}\nb{i} O\n\n" for i in range(20)))
    refused(
        cli,
        place,
        place.train("--task", "token-classification", train=rows),
        "1,048,578 characters",
        "is `ner_tags` the right column",
    )


def test_ten_megabytes_in_one_row(cli: Any, place: World) -> None:
    """It is cut to the model's window, as every long text is."""
    rows = place.rows(cell=(3, "text", "a fine film " * 900_000))
    before = growth()
    answer = cli(*place.train("--eval", place.rows("eval.jsonl"), train=rows))
    assert answer.code == 0, answer.err
    assert growth() - before < 2 << 30


def test_a_cell_of_forty_megabytes(cli: Any, place: World) -> None:
    rows = place.file("a.csv", 'text,label\n"' + "a" * (40 << 20) + '",x\nb,y\n')
    refused(cli, place, place.train(train=rows), "a.csv", "line 2", "field larger")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_lists_within_lists(cli: Any, place: World, name: str) -> None:
    for deep in (100, 100_000):
        row = '{"text": ' + "[" * deep + "]" * deep + "}"
        content = row + "\n" if name.endswith("l") else f"[{row}]"
        answer = cli(*place.train(train=place.file(name, content)))
        check(answer.code, answer.err, answer.out, (2, 1), (name,))


def test_a_million_columns(cli: Any, place: World) -> None:
    names = [f"c{i}" for i in range(1_000_000)]
    header = ",".join(names)
    refused(cli, place, place.train(train=place.file("a.csv", f"{header}\n{header}\n")), "a.csv", "1,000,000 columns")
    row = json.dumps(dict.fromkeys(names, "x"))
    refused(cli, place, place.train(train=place.file("a.jsonl", f"{row}\n")), "a.jsonl", "1,000,000 columns")


def test_links_that_go_round(cli: Any, place: World) -> None:
    (place.folder / "a.csv").symlink_to(place.folder / "b.csv")
    (place.folder / "b.csv").symlink_to(place.folder / "a.csv")
    refused(cli, place, place.train(train=place.folder / "a.csv"), "a.csv")
    refused(cli, place, place.train(model=place.folder / "a.csv"), "a.csv")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "."])
def test_what_is_no_file(cli: Any, place: World, path: str) -> None:
    refused(cli, place, place.train(train=path), path)


def test_a_link_to_a_file_is_the_file(cli: Any, place: World) -> None:
    rows = place.rows()
    (place.folder / "link.jsonl").symlink_to(rows)
    assert cli(*place.train(train=place.folder / "link.jsonl")).code == 0


def test_an_artifact_cannot_point_out_of_its_folder(cli: Any, place: World) -> None:
    """A list of files with a path that leads elsewhere."""
    answer = cli(*place.train())
    assert answer.code == 0, answer.err
    info = place.output / "artifact" / "tunesmith.json"
    content = json.loads(info.read_text())
    secret = place.file("secret.txt", "x")
    content["files"] = {**content["files"], f"../../{secret.name}": "0" * 64}
    info.write_text(json.dumps(content))
    answer = cli(
        "predict", "-q", place.output / "artifact", "--data", place.rows("new.jsonl"), "-o", place.folder / "out.jsonl"
    )
    check(answer.code, answer.err, answer.out, (2, 1), ("tunesmith.json",))
