"""`tunesmith doctor`, and its line at the start of `train`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tunesmith.testing import tiny_model
from tunesmith.testing.models import WORDS

dice = random.Random(0)
ROWS = [
    {"text": " ".join(dice.sample(WORDS, 10)), "label": ("positive", "negative")[i % 2]} for i in range(60)
]  # rows that are not like each other


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def clean(tmp_path: Path) -> tuple[Path, Path]:
    """40 rows to train on and 20 to measure on."""
    return write(tmp_path / "train.jsonl", ROWS[:40]), write(tmp_path / "eval.jsonl", ROWS[40:])


def test_clean_rows(cli: Any, bert: Path, clean: tuple[Path, Path]) -> None:
    answer = cli("doctor", "--model", bert, "--train", clean[0], "--eval", clean[1])
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.rstrip().endswith("doctor: nothing found in 40 train and 20 eval rows.")
    assert cli("doctor", "-q", "--model", bert, "--train", clean[0]).out == ""


def test_every_null_is_named_and_stops(cli: Any, bert: Path, tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS]
    rows[3]["text"] = rows[8]["text"] = rows[20]["label"] = None
    rows[30]["label"] = ""
    answer = cli(
        "doctor",
        "--model",
        bert,
        "--train",
        write(tmp_path / "a.jsonl", rows[:40]),
        "--eval",
        write(tmp_path / "b.jsonl", rows[40:]),
    )
    assert answer.code == 2
    out = " ".join(answer.out.split())
    assert "a.jsonl, rows 4, 9: `text` is null in 2 rows; fill it in or remove the rows." in out
    assert "a.jsonl, row 21: `label` is null in 1 row" in out
    assert "row 31: the label is empty in 1 row" in out
    assert "doctor: 2 errors (null in 3 rows, empty-label in 1 row)." in out


def test_json_is_one_object(cli: Any, bert: Path, clean: tuple[Path, Path], tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.jsonl", [*ROWS[:39], ROWS[0]])
    answer = cli("doctor", "--model", bert, "--train", twice, "--eval", clean[1], "--json")
    assert answer.code == 0
    content = answer.json
    assert set(content) == {"verdict", "errors", "warnings", "statistics"}
    assert (content["verdict"], content["errors"]) == ("warnings", [])
    (warning,) = content["warnings"]
    assert (warning["code"], warning["rows"], warning["count"], warning["file"]) == ("duplicate", [40], 1, str(twice))
    assert content["statistics"]["train"]["rows"] == 40
    assert content["statistics"]["train"]["labels"] == {"positive": 21, "negative": 19}
    broken = write(tmp_path / "broken.jsonl", [*ROWS[:39], {"text": None, "label": "positive"}])
    answer = cli("doctor", "--model", bert, "--train", broken, "--json")
    assert (answer.code, answer.json["verdict"], answer.json["errors"][0]["rows"]) == (2, "errors", [40])


def test_rows_are_held_out_as_a_run_would(cli: Any, bert: Path, tmp_path: Path) -> None:
    """Without --eval the rows that would be measured are those of `train`; numbers are those of the file."""
    rows = [*ROWS, *({**row, "text": row["text"].upper()} for row in ROWS)]
    answer = cli("doctor", "--model", bert, "--train", write(tmp_path / "rows.jsonl", rows), "--json")
    statistics = answer.json["statistics"]
    assert statistics["train"]["rows"] + statistics["eval"]["rows"] == 120
    leaked = next(w for w in answer.json["warnings"] if w["code"] == "leak")
    assert leaked["role"] == "eval"
    assert all(1 <= number <= 120 for number in leaked["rows"])


def test_options_columns_and_length(cli: Any, bert: Path, tmp_path: Path) -> None:
    rows = [{"review": row["text"], "stars": f"{row['label']}|all"} for row in ROWS]
    path = write(tmp_path / "reviews.jsonl", rows)
    asked = ["doctor", "--model", bert, "--train", path, "--columns", "text=review,label=stars", "--json"]
    labels = cli(*asked, "--set", "text-classification.separator='|'").json["statistics"]["train"]["labels"]
    assert set(labels) == {"positive", "negative", "all"}
    assert "all" not in cli(*asked).json["statistics"]["train"]["labels"]
    cut = cli(*asked, "--max-length", 6).json
    assert [w["code"] for w in cut["warnings"]] == ["cut", "cut"]
    assert cut["statistics"]["train"]["tokens"]["max"] == 6


def test_show_marks_every_token(cli: Any, bert: Path, clean: tuple[Path, Path]) -> None:
    answer = cli("doctor", "--model", bert, "--train", clean[0], "--eval", clean[1], "--show", 1, "--max-length", 5)
    assert "marks: [trained]  context  {cut}" in answer.out
    words = ROWS[0]["text"].split(" ")
    assert "row 1, label 'positive' for the whole row" in answer.out
    assert f"input: [CLS]·{'·'.join(words[:3])}·{{{'·'.join(words[3:])}}}·[SEP]" in answer.out
    shown = cli(
        "doctor", "--model", bert, "--train", clean[0], "--eval", clean[1], "--show", 2, "--max-length", 5, "--json"
    ).json["shown"]
    assert [row["row"] for row in shown] == [1, 2]
    assert [segment["mark"] for segment in shown[0]["lines"][0]["segments"]] == ["context", "cut", "context"]


def test_show_marks_what_a_decoder_and_an_encoder_decoder_learn(cli: Any, models: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"a film {'good ' * (i % 4)}{i}", "completion": "they like this film" + " very" * i}
        for i in range(40)
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    asked = ["doctor", "--task", "instruction", "--train", path, "--show", 2, "--json", "--model"]
    (line,) = cli(*asked, tiny_model("llama", models / "llama")).json["shown"][1]["lines"]
    assert [(s["mark"], s["tokens"]) for s in line["segments"]][-1] == (
        "trained",
        ["they", "like", "this", "film", "very", "[SEP]"],
    )
    assert line["segments"][0]["mark"] == "context"
    source, target = cli(*asked, tiny_model("t5", models / "t5")).json["shown"][1]["lines"]
    assert {s["mark"] for s in source["segments"]} == {"context"}
    assert target == {
        "name": "target",
        "segments": [{"mark": "trained", "tokens": ["they", "like", "this", "film", "very", "[SEP]"]}],
    }


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--train", "none.jsonl"], "there is no file `none.jsonl`"),
        ([], "train: is required"),
        (["--train", "ROWS", "--columns", "text=nothing"], "has no column `nothing`"),
        (["--train", "ROWS", "--model", "./no-model"], "there is no model folder"),
        (["--train", "ROWS", "--task", "no-task"], "unknown task"),
        (["--train", "ROWS", "--task", "chat"], "has no column `messages`"),
        (["--train", "ROWS", "--max-length", "4000"], "4000 is beyond what"),
    ],
)
def test_bad_input_is_one_sentence(cli: Any, bert: Path, clean: tuple[Path, Path], args: list[str], words: str) -> None:
    given = [str(clean[0]) if arg == "ROWS" else arg for arg in args]
    answer = cli("doctor", *([] if "--model" in given else ["--model", bert]), *given)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert words in answer.err
    assert answer.err.count("\n") == 1


def test_a_model_from_nothing_is_made_for_the_look_alone(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = write(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in ROWS])
    before = set(tmp_path.rglob("*"))
    asked = [
        "doctor",
        "--task",
        "language-modeling",
        "--model",
        "new:lstm",
        "--set",
        "new.hidden=16",
        "--train",
        rows,
        "--json",
    ]
    found = cli(*asked).json
    assert found["statistics"]["train"]["trained_tokens"] > 400
    assert found["statistics"]["train"]["parameters_that_learn"] > 1000
    assert set(tmp_path.rglob("*")) == before


# ---- at the start of a run


def train(cli: Any, model: Path, rows: Path, output: Path, *more: object) -> Any:
    return cli("train", "--model", model, "--train", rows, "--technique", "bitfit", "--max-steps", 1, "--device", "cpu", "--output", output, *more)  # fmt: skip


def test_train_says_one_line(cli: Any, bert: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [*ROWS, *ROWS[:5]])
    answer = train(cli, bert, rows, tmp_path / "one")
    assert answer.code == 0
    assert answer.err.count("doctor:") == 1
    line = next(line for line in answer.err.splitlines() if "doctor:" in line)
    assert "1 warning (duplicate in" in line
    assert f"see tunesmith doctor --task text-classification --model {bert} --train {rows}" in line
    silent = train(cli, bert, rows, tmp_path / "two", "--no-doctor")
    assert (silent.code, "doctor" in silent.err) == (0, False)
    assert "doctor: false" in (tmp_path / "two" / "config.yaml").read_text()
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["provenance"]["config_sha256"] == results[1]["provenance"]["config_sha256"]


GREETINGS = [
    {"messages": [{"role": "assistant", "content": f"hello number {i}"}, {"role": "user", "content": "hi"}]}
    for i in range(40)
]


def test_an_error_stops_a_run_before_it_begins(cli: Any, models: Path, tmp_path: Path) -> None:
    """Greetings answer nothing, so nothing is learned from them; the task itself lets them pass."""
    rows = write(tmp_path / "chats.jsonl", GREETINGS)
    answer = train(cli, tiny_model("llama", models / "llama"), rows, tmp_path / "run", "--task", "chat")
    assert answer.code == 2
    assert "the doctor found" in answer.err
    assert "in no row a single token is learned; look at them with --show" in answer.err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_fault_of_the_doctor_stops_no_run(
    cli: Any, bert: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("tunesmith.doctor.examination.glance", faulty)
    assert train(cli, bert, rows_file, tmp_path / "strict").code == 1  # tests see it
    monkeypatch.delenv("TUNESMITH_STRICT")
    answer = train(cli, bert, rows_file, tmp_path / "run", "-v")
    assert answer.code == 0
    assert "ZeroDivisionError: a fault" in answer.err
    assert "ZeroDivisionError" not in train(cli, bert, rows_file, tmp_path / "quiet").err


def test_a_comparison_says_it_once(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tunesmith.compare.checks import refuse_early
    from tunesmith.config import CompareConfig, build
    from tunesmith.console import people

    people.cache_clear()  # the console of an earlier test writes to that test's stream
    rows = write(tmp_path / "rows.jsonl", [*ROWS, *ROWS[:5]])
    refuse_early(build(CompareConfig, {"model": str(bert), "train": str(rows)}))
    assert capsys.readouterr().err.count("doctor: 1 warning (duplicate in") == 1
    refuse_early(build(CompareConfig, {"model": str(bert), "train": str(rows), "doctor": False}))
    assert "doctor" not in capsys.readouterr().err
    people.cache_clear()
