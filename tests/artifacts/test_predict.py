"""Predictions for files: a stream that keeps the order, and a file that is gone on with to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith.artifacts import predict
from tunesmith.cache.partial import Partial
from tunesmith.errors import DataError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows


@pytest.fixture(scope="module")
def reviews(models: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of BitFit on a tiny BERT."""
    return run_of("text-classification", "bert", models, cache, tmp_path_factory.mktemp("runs") / "reviews")


def run_of(task: str, kind: str, models: Path, cache: Path, output: Path, **settings: Any) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(cache))
        patch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
        rows = rows_for(task, 8)
        settings = {"technique": "bitfit" if kind == "bert" else "full", **settings}
        tunesmith.train(
            str(tiny_model(kind, models / kind)), task=task, train=rows, eval=rows, max_steps=1, batch_size=4, device="cpu", output=output,
            **settings,
        )  # fmt: skip
    return output


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"id": i, "text": f"{row['text']} {'hay ' * (i * 7 % 23)}"} for i, row in enumerate(toy_rows(count))]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Stop:
    """Lets a number of steps reach the disk, then raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> None:
        step, self.left = Partial.step, after

        def counted(partial: Partial, *args: Any) -> None:
            if not self.left:
                raise error
            self.left -= 1
            step(partial, *args)

        self.patch = monkeypatch
        monkeypatch.setattr(Partial, "step", counted)

    def lift(self) -> None:
        self.patch.undo()


# ---- killed and gone on with


def test_a_killed_run_goes_on_to_the_same_bytes(reviews: Path, cli: Any, tmp_path: Path) -> None:
    """SIGKILL in the middle; the same command again gives the file of a run that nobody killed."""
    data, shape = write(tmp_path / "in.jsonl", numbered(900)), ["--batch-size", 2, "--device", "cpu"]
    command = [
        sys.executable,
        "-m",
        "tunesmith",
        "predict",
        reviews,
        "--data",
        data,
        "-o",
        tmp_path / "p.jsonl",
        "-q",
        *shape,
    ]
    started = subprocess.Popen([str(word) for word in command])
    note = tmp_path / ".p.jsonl.partial.json"
    until = time.monotonic() + 120
    while not note.is_file() and started.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    started.wait()
    done = json.loads(note.read_text())["rows"]
    assert 0 < done < 900
    assert not (tmp_path / "p.jsonl").exists(), "a half-written file may not have the name of a whole one"
    resumed = cli("predict", reviews, "--data", data, "-o", tmp_path / "p.jsonl", *shape)
    assert f"going on behind row {done} of 900" in resumed.err
    whole = cli("predict", reviews, "--data", data, "-o", tmp_path / "whole.jsonl", *shape)
    assert (resumed.code, whole.code) == (0, 0)
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [row["id"] for row in read(tmp_path / "p.jsonl")] == list(range(900))
    assert names_in(tmp_path) == {"in.jsonl", "p.jsonl", "whole.jsonl"}


@pytest.mark.parametrize("flag", [[], ["--embeddings"]])
def test_what_was_torn_is_cut_off(flag: list[str], reviews: Path, cli: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """A line that was half on the disk when the power went is written again; interrupting says that the rest is kept."""
    monkeypatch.setattr(predict, "WINDOW", 2)
    data, out = write(tmp_path / "in.jsonl", numbered(40)), tmp_path / "p.jsonl"
    command = ["predict", reviews, "--data", data, "-o", out, "--batch-size", 4, *flag]
    with monkeypatch.context() as patch:
        Stop(patch, 2, KeyboardInterrupt())
        answer = cli(*command)
    assert answer.code == 130 and "16 rows are answered; the same command goes on" in answer.err
    with (tmp_path / ".p.jsonl.partial").open("a") as stream:
        stream.write('{"id": 16, "text": "the fi')
    assert cli(*command).code == 0
    assert cli(*command[:4], "-o", tmp_path / "whole.jsonl", "--batch-size", 4, *flag).code == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert ("embedding" in read(out)[0]) == bool(flag)


@pytest.fixture
def unfinished(reviews: Path, cli: Any, tmp_path: Path, monkeypatch: Any) -> list[object]:
    """The command of a run that was stopped behind 16 of 40 rows."""
    monkeypatch.setattr(predict, "WINDOW", 2)
    rows = [{**row, "other": row["text"][::-1]} for row in numbered(40)]
    command = [
        "predict",
        reviews,
        "--data",
        write(tmp_path / "in.jsonl", rows),
        "-o",
        tmp_path / "p.jsonl",
        "--batch-size",
        4,
    ]
    with monkeypatch.context() as patch:
        Stop(patch, 2, KeyboardInterrupt())
        assert cli(*command).code == 130
    return command


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--batch-size", 8], "batch_size 4, now 8"),
        (["--embeddings"], "output predictions, now embeddings"),
        (["--columns", "text=other"], "different columns"),
        (["--dtype", "bfloat16"], "dtype float32, now bfloat16"),
        (["--head", "auto"], "head"),
    ],
)
def test_other_settings_are_refused(
    more: list[object], words: str, unfinished: list[object], cli: Any, tmp_path: Path
) -> None:
    refused = cli(*unfinished, *more)
    assert refused.code == 2
    assert all(w in refused.err for w in ("16 rows of an unfinished run", words, "--overwrite", "another --output")), (
        refused.err
    )
    assert cli(*unfinished, *more, "--overwrite").code == 0
    assert len(read(tmp_path / "p.jsonl")) == 40
    assert names_in(tmp_path) == {"in.jsonl", "p.jsonl"}


def test_another_artifact_is_refused(
    unfinished: list[Any], models: Path, cache: Path, cli: Any, tmp_path: Path
) -> None:
    unfinished[1] = run_of("text-classification", "bert", models, cache, tmp_path / "run", technique="feature-based")
    refused = cli(*unfinished)
    assert refused.code == 2 and "different artifact" in refused.err
    assert cli(*unfinished, "--overwrite").code == 0


def test_other_rows_are_refused_and_later_ones_may_change(unfinished: list[Any], cli: Any, tmp_path: Path) -> None:
    """What counts are the rows that were answered: those behind them may be mended, and more may follow."""
    data, before = tmp_path / "in.jsonl", read(tmp_path / "in.jsonl")
    write(data, [{**before[0], "id": "new"}, *before[1:]])
    refused = cli(*unfinished)
    assert refused.code == 2 and "the first 16 rows of" in refused.err and "are not those" in refused.err
    write(data, before[:10])
    assert cli(*unfinished).code == 2
    write(data, [*before[:16], *({**row, "text": "phim hay"} for row in before[16:]), {"id": 40, "text": "dở"}])
    answer = cli(*unfinished)
    assert answer.code == 0 and "going on behind row 16 of 41" in answer.err
    found = read(tmp_path / "p.jsonl")
    assert [row["id"] for row in found] == list(range(41))
    assert found[20]["text"] == "phim hay"


def test_starting_over_where_the_rows_are_others(unfinished: list[Any], cli: Any, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", numbered(9))
    assert cli(*unfinished, "--overwrite").code == 0
    assert [row["id"] for row in read(tmp_path / "p.jsonl")] == list(range(9))


def test_a_note_that_cannot_be_read_counts_as_none(unfinished: list[Any], cli: Any, tmp_path: Path) -> None:
    (tmp_path / ".p.jsonl.partial.json").write_text('{"rows": 16')
    answer = cli(*unfinished)
    assert answer.code == 0 and "going on" not in answer.err
    assert len(read(tmp_path / "p.jsonl")) == 40


def test_two_writers_of_one_file(reviews: Path, cli: Any, tmp_path: Path) -> None:
    data, out = write(tmp_path / "in.jsonl", numbered(4)), tmp_path / "p.jsonl"
    with Partial(out, {}):
        refused = cli("predict", reviews, "--data", data, "-o", out)
    assert refused.code == 2 and "another process is writing" in refused.err
    assert names_in(tmp_path) == {"in.jsonl"}


def test_a_row_that_fails_late_keeps_those_before(
    unfinished: list[Any], cli: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise DataError("in.jsonl, row 20: it is too long.")

    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.artifacts.use.Artifact.predict", refuse)
        answer = cli(*unfinished)
    assert answer.code == 2
    assert "row 20: it is too long. The 16 rows before are answered and kept" in answer.err
    assert cli(*unfinished).code == 0


# ---- a stream


def test_only_a_window_of_rows_is_held(reviews: Path, tmp_path: Path, monkeypatch: Any) -> None:
    alive = most = 0

    class Row(dict[str, Any]):
        def __init__(self, row: dict[str, Any]) -> None:
            nonlocal alive, most
            super().__init__(row)
            alive += 1
            most = max(most, alive)
            weakref.finalize(self, self.gone)

        @staticmethod
        def gone() -> None:
            nonlocal alive
            alive -= 1

    monkeypatch.setattr("tunesmith.data.row_stream.records", lambda *_: map(Row, numbered(200)))
    monkeypatch.setattr(predict, "WINDOW", 2)
    data = write(tmp_path / "in.jsonl", numbered(1))
    artifact = tunesmith.load(reviews, device="cpu", batch_size=5)
    done = predict.predict_file(artifact, str(data), tmp_path / "p.jsonl")
    assert (done.rows, done.resumed) == (200, 0)
    assert 10 <= most <= 22


def test_every_format_says_the_same(reviews: Path, tmp_path: Path) -> None:
    import pandas as pd

    rows = [{"text": row["text"], "id": f"r{row['id']}"} for row in numbered(12)]
    frame, artifact = pd.DataFrame(rows), tunesmith.load(reviews, device="cpu")
    files = [
        write(tmp_path / "in.jsonl", rows),
        tmp_path / "in.json",
        tmp_path / "in.csv",
        tmp_path / "in.tsv",
        tmp_path / "in.parquet",
    ]
    files[1].write_text(json.dumps(rows))
    frame.to_csv(files[2], index=False)
    frame.to_csv(files[3], index=False, sep="\t")
    frame.to_parquet(files[4])
    found = []
    for path in files:
        predict.predict_file(artifact, str(path), tmp_path / "p.jsonl")
        found.append((tmp_path / "p.jsonl").read_bytes())
    assert len(set(found)) == 1 and found[0].count(b"\n") == 12


def test_rows_come_out_as_they_went_in(reviews: Path, tmp_path: Path) -> None:
    """Keys that only some rows have, nested values, numbers and nulls; a column that is called like an answer is named."""
    rows = [{"text": "phim hay", "a": {"b": [1, None]}, "score": 7}, {"n": 1.5, "text": "dở"}, {"text": "", "z": None}]
    predict.predict_file(tunesmith.load(reviews), str(write(tmp_path / "in.jsonl", rows)), tmp_path / "p.jsonl")
    found = read(tmp_path / "p.jsonl")
    assert found[0]["a"] == {"b": [1, None]} and found[0]["score"] <= 1
    assert [list(row) for row in found] == [
        ["text", "a", "score", "prediction"],
        ["n", "text", "prediction", "score"],
        ["text", "z", "prediction", "score"],
    ]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"text": "a"}'] * 30 + ['{"text": '], ["in.jsonl", "line 31", "not valid JSON"]),
        (['{"text": "a"}'] * 30 + ["[1]"], ["line 31", "must be an object"]),
        (['{"text": "a"}'] * 30 + ['{"text": null}'], ["row 31", "`text` is null"]),
        (['{"text": "a"}'] * 30 + ['{"txt": "a"}'], ["row 31", "`text` is null"]),
        (['{"txt": "a"}'] * 3 + ['{"text": "a"}'], ["row 1", "`text` is null"]),
        (['{"text": "a"}'] * 30 + ['{"text": {"a": 1}}'], ["row 31", "`text` is an object", "must be text"]),
        (['{"text": "a"}'] * 30 + ['{"text": "\\ud83d"}'], ["row 31", "half a character"]),
        (["", "  "], ["in.jsonl", "no rows"]),
    ],
)
def test_bad_rows_are_refused_before_any_is_answered(
    lines: list[str], words: list[str], reviews: Path, cli: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("tunesmith.artifacts.use.Artifact.predict", lambda *_, **__: pytest.fail("it was too late"))
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    answer = cli("predict", reviews, "--data", tmp_path / "in.jsonl", "-o", tmp_path / "new" / "p.jsonl")
    assert answer.code == 2
    assert all(word in answer.err for word in words), answer.err
    assert names_in(tmp_path) == {"in.jsonl"}


def test_a_full_disk_keeps_what_is_written(unfinished: list[Any], cli: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = cli(*unfinished)
    assert answer.code == 1 and "16 rows are kept: the same command goes on" in answer.err
    assert cli(*unfinished).code == 0
    assert [row["id"] for row in read(tmp_path / "p.jsonl")] == list(range(40))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_stays_full_leaves_a_sentence_and_no_lock(tmp_path: Path) -> None:
    """What is still in the buffer is refused once more when the file is closed."""
    from tunesmith.cache.partial import Partial
    from tunesmith.errors import SaveError

    place = Partial(tmp_path / "p.jsonl", {}, overwrite=False)
    with pytest.raises(SaveError, match="free some space"), place:
        place._stream.close()
        place._stream = Path("/dev/full").open("wb")  # noqa: SIM115
        place.step(b"x" * 100, 1, "digest")
    assert names_in(tmp_path) == set()


def test_progress_counts_rows(reviews: Path, cli: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from tunesmith.console import people

    monkeypatch.setattr("tunesmith.console.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(predict, "WINDOW", 2)
    people.cache_clear()
    answer = cli(
        "predict",
        reviews,
        "--data",
        write(tmp_path / "in.jsonl", numbered(40)),
        "-o",
        tmp_path / "p.jsonl",
        "--batch-size",
        4,
    )
    people.cache_clear()
    lines = [line for line in answer.err.splitlines() if line.startswith("predict: ")]
    assert len(lines) == 10 and lines[-1].startswith("predict: 40 of 40") and lines[-1].endswith("rows/s")


def test_texts_are_written_for_rows_of_a_file(
    models: Path, cache: Path, tmp_path: Path, cli: Any, monkeypatch: Any
) -> None:
    """Windows are short where the model writes, and a text does not depend on the window."""
    run = run_of(
        "summarization", "t5", models, cache, tmp_path / "run", summarization={"max_new_tokens": 3, "generate_rows": 0}
    )
    rows = [{"document": row["text"]} for row in numbered(12)]
    data, found = write(tmp_path / "in.jsonl", rows), []
    for windows in (1, 4):
        monkeypatch.setattr(predict, "WRITING", windows)
        assert cli("predict", "-q", run, "--data", data, "-o", tmp_path / "p.jsonl", "--batch-size", 2).code == 0
        found.append([row["prediction"] for row in read(tmp_path / "p.jsonl")])
    assert found[0] == found[1] and all(isinstance(text, str) for text in found[0])
