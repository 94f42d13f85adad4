"""The command line as people and programs use it: help, lists, init, show, train, evaluate, predict."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tunesmith import assets, registry
from tunesmith.cli.template import template
from tunesmith.config import RunConfig, build, parse, read_file
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

COMMANDS = ("train", "compare", "resume", "evaluate", "predict", "chat", "show", "list", "init")


# ---- help


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tunesmith.cli.main import run\nassert run(['--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'pandas', 'pyarrow', 'numpy', 'sklearn', 'pydantic'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy - {'pydantic'}))"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert min(seconds) < 0.5


def test_help_lists_every_command(cli: Any) -> None:
    answer = cli("--help")
    assert answer.code == 0
    assert all(f"\n  {name} " in answer.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, cli: Any) -> None:
    for flag in ("--help", "-h"):
        answer = cli(command, flag)
        assert answer.code == 0
        assert "Usage: tunesmith" in answer.out
        assert answer.err == ""


def test_the_version(cli: Any) -> None:
    from tunesmith import __version__

    assert cli("--version").out == f"tunesmith {__version__}\n"


def test_no_command_shows_help_and_is_an_error() -> None:
    done = subprocess.run([sys.executable, "-m", "tunesmith"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Commands:" in done.stdout + done.stderr


# ---- list


@pytest.mark.parametrize("what", ["tasks", "techniques", "strategies", "objectives", "baselines"])
def test_list_names_everything_with_its_idea(what: str, cli: Any) -> None:
    kind = {"strategies": "strategy"}.get(what, what[:-1])
    found = cli("list", what, "--json").json
    assert [row["name"].split(":")[0] for row in found] == registry.names(kind)
    assert all(row["summary"].strip() for row in found)
    table = cli("list", what)
    assert table.code == 0
    assert all(row["name"] in table.out for row in found)


def test_list_assets(cli: Any) -> None:
    found = cli("list", "assets", "--json").json
    assert [row["name"] for row in found] == [asset.name for asset in assets.catalogue()]
    assert all(row["licence"] and row["kind"] for row in found)
    assert "minilm" in cli("list", "assets").out


def test_list_runs(cli: Any, trained: Any, tmp_path: Path) -> None:
    for name, files in {"a/unfinished": ["config.yaml"], "b/damaged": ["config.yaml", "result.json"]}.items():
        (tmp_path / name).mkdir(parents=True)
        for file in files:
            (tmp_path / name / file).write_text("{")
    (tmp_path / "c").symlink_to(trained.folder)
    found = {Path(row["run"]).name: row for row in cli("list", "runs", "--folder", tmp_path, "--json").json}
    assert found["unfinished"]["status"] == "unfinished"
    assert found["damaged"]["status"] == "damaged"
    finished = cli("list", "runs", "--folder", trained.folder.parent, "--json").json
    accuracy = trained.answer.json["metrics"]["after"]["accuracy"]
    assert finished == [
        {"run": str(trained.folder), "status": "finished", "technique": "bitfit", "score": f"accuracy {accuracy:.4f}"}
    ]
    assert "bitfit" in cli("list", "runs", "--folder", trained.folder.parent).out


def test_no_runs_is_no_error(cli: Any, tmp_path: Path) -> None:
    answer = cli("list", "runs", "--folder", tmp_path / "none")
    assert (answer.code, answer.out) == (0, "no runs here.\n")


# ---- init


@pytest.mark.parametrize("technique", registry.names("technique"))
def test_what_init_writes_is_a_configuration(technique: str) -> None:
    name = "peft:LOHA" if technique == "peft" else technique
    config = build(RunConfig, parse(template(name, "text-classification")))
    assert config.technique == name


def test_every_line_of_init_holds_when_it_is_uncommented(cli: Any) -> None:
    """The commented defaults are real settings with their real defaults."""
    text = cli("init", "-o", "-", "--technique", "lora").out
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("#")
        key = bare.strip().split(":")[0]
        setting = (
            key in RunConfig.model_fields
            or key in ("training", "lora", "text-classification")
            or bare.startswith("   ")
        )
        if line.startswith("#") and ":" in bare and setting:
            lines.append(bare[1:])
        elif not line.startswith("#"):
            lines.append(line)
    assert sum("rank:" in line for line in lines) == 1
    given = build(RunConfig, parse("\n".join(lines)))
    default = build(RunConfig, parse(text))
    assert given.model_dump() == default.model_dump()


def test_init_writes_a_file_that_train_takes(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.yaml"
    assert cli("init", "-o", path).code == 0
    assert build(RunConfig, read_file(path)).train == "asset:movie-reviews"
    path.write_text("mine")
    assert cli("init", "-o", path).code == 2
    assert path.read_text() == "mine"
    assert cli("init", "-o", path, "--overwrite").code == 0
    assert path.read_text() != "mine"


# ---- train


def test_train_json_is_one_object_of_the_schema(trained: Any) -> None:
    assert len(trained.answer.out.splitlines()) == 1
    result = trained.answer.json
    assert result == json.loads((trained.folder / "result.json").read_text())
    assert result["schema_version"] == 1
    assert (result["task"], result["technique"], result["seed"], result["status"]) == (
        "text-classification",
        "bitfit",
        5,
        "finished",
    )
    assert set(result["metrics"]) == {"before", "after", "primary"}
    for part in ("before", "after"):
        assert set(result["metrics"][part]) == {"accuracy", "f1_macro", "mcc", "loss"}
        assert all(math.isfinite(value) for value in result["metrics"][part].values())
    assert result["metrics"]["primary"] == "accuracy"
    assert set(result["cost"]) == {
        "trainable_parameters", "total_parameters", "train_seconds", "tokens_per_second", "peak_memory_bytes", "artifact_bytes",
        "predicted_memory_bytes", "predicted_seconds",
    }  # fmt: skip
    assert 0 < result["cost"]["trainable_parameters"] < result["cost"]["total_parameters"]
    assert all(
        result["cost"][name] > 0
        for name in ("train_seconds", "tokens_per_second", "peak_memory_bytes", "artifact_bytes")
    )
    assert {"forgetting", "stream"} <= set(result)
    assert {"versions", "hardware", "rows", "data_sha256", "model_sha256", "config_sha256", "git_commit"} <= set(
        result["provenance"]
    )
    rows = result["provenance"]["rows"]
    assert rows["train"] + rows["eval"] == 40
    assert rows["validation"] == 0
    assert result["training"]["steps"] == 3


def test_train_leaves_what_the_design_says(trained: Any) -> None:
    names = {path.name for path in trained.folder.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "result.json", "artifact"} <= names
    assert not [name for name in names if name.startswith(".")]
    config = build(RunConfig, read_file(trained.folder / "config.yaml"))
    assert (config.technique, config.max_steps, config.seed) == ("bitfit", 3, 5)
    assert Path(config.model).is_absolute()
    lines = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 3


def test_train_talks_on_stderr_only(trained: Any) -> None:
    assert "only measured" in trained.answer.err
    assert "bitfit" in trained.answer.err
    warnings = [line for line in trained.answer.err.lower().splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "doctor: 2 warnings (duplicate in 16 rows, few-rows)" in warnings[0]  # which is so: toy rows repeat


def test_resuming_a_finished_run_says_so(trained: Any, cli: Any) -> None:
    answer = cli("resume", trained.folder, "--json")
    assert answer.code == 0
    assert "nothing to resume" in answer.err
    assert answer.json == trained.answer.json


def test_the_same_command_gives_the_same_run(trained: Any, cli: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """config.yaml alone repeats a run, bit for bit."""
    monkeypatch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
    answer = cli("train", "--config", trained.folder / "config.yaml", "--output", tmp_path / "again", "--json", "-q")
    assert answer.err == ""
    assert answer.json["metrics"] == trained.answer.json["metrics"]
    assert answer.json["provenance"]["config_sha256"] == trained.answer.json["provenance"]["config_sha256"]
    files = [folder / "artifact" / "trained.safetensors" for folder in (trained.folder, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


# ---- show


def test_show_a_run(trained: Any, cli: Any) -> None:
    for path in (trained.folder, trained.artifact):
        assert cli("show", path, "--json").json == trained.answer.json
    shown = cli("show", trained.folder)
    assert shown.code == 0
    assert f"{trained.answer.json['metrics']['after']['accuracy']:.4f}" in shown.out
    assert "accuracy" in shown.out


def test_show_an_artifact_alone(trained: Any, cli: Any, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained.artifact, tmp_path / "moved")
    assert cli("show", tmp_path / "moved", "--json").json["technique"] == "bitfit"


# ---- evaluate and predict


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_evaluate_agrees_with_predict(trained: Any, cli: Any, tmp_path: Path) -> None:
    rows = toy_rows(24)
    data = write(tmp_path / "more.jsonl", rows)
    content = cli("evaluate", trained.folder, "--data", data, "--json").json
    assert content["metrics"]["primary"] == "accuracy"
    cli("predict", trained.folder, "--data", data, "-o", tmp_path / "p.jsonl")
    right = [row["prediction"] == row["label"] for row in read(tmp_path / "p.jsonl")]
    assert content["metrics"]["accuracy"] == pytest.approx(sum(right) / len(right))
    printed = cli("evaluate", trained.artifact, "--data", data).out
    assert f"{content['metrics']['accuracy']:.4f}" in printed.splitlines()[0]


def test_evaluate_gives_the_number_of_the_run(trained: Any, cli: Any, rows_file: Path, tmp_path: Path) -> None:
    """The artifact on the held-out rows scores what result.json says."""
    from tunesmith.data.splits import load_roles
    from tunesmith.tasks.text_classification import TextClassification

    roles = load_roles(
        build(RunConfig, read_file(trained.folder / "config.yaml")), TextClassification(TextClassification.Options())
    )
    data = write(tmp_path / "held-out.jsonl", roles.eval.table.to_list())
    found = cli("evaluate", trained.folder, "--data", data, "--json").json["metrics"]
    after = trained.answer.json["metrics"]["after"]
    assert {name: found[name] for name in after} == pytest.approx(after, abs=1e-5)  # fp32 in other batches


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_predict_keeps_order_and_columns(ending: str, trained: Any, cli: Any, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "text": row["text"], "ghi chú": 'dở, "quá"\nrồi'} for i, row in enumerate(toy_rows(30))]
    answer = cli(
        "predict",
        trained.folder,
        "--data",
        write(tmp_path / f"in{ending}", rows),
        "-o",
        tmp_path / "deep" / "p.jsonl",
        "--json",
    )
    assert answer.json["rows"] == 30
    found = read(tmp_path / "deep" / "p.jsonl")
    assert [{k: v for k, v in row.items() if k not in ("prediction", "score")} for row in found] == rows
    assert all(row["prediction"] in ("positive", "negative") and 0.5 <= row["score"] <= 1 for row in found)
    assert len({row["score"] for row in found}) > 1, "rows of different text may not all score the same"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["p.jsonl"]


def test_predict_gives_objects_back_as_objects(models: Path, cli: Any, tmp_path: Path) -> None:
    talk = [
        {
            "messages": [{"role": "user", "content": f"good film {i}"}, {"role": "assistant", "content": "bad plot"}],
            "tags": {"n": i},
        }
        for i in range(12)
    ]
    data = write(tmp_path / "talk.jsonl", talk)
    shape = ["--max-steps", 1, "--batch-size", 4, "--max-length", 64, "--set", "chat.max_new_tokens=2"]
    model = tiny_model("llama", models / "llama")
    cli("train", "-q", "--task", "chat", "--model", model, "--train", data, *shape, "-o", tmp_path / "run")
    cli("predict", "-q", tmp_path / "run", "--data", data, "-o", tmp_path / "p.jsonl")
    found = read(tmp_path / "p.jsonl")
    assert [row["messages"] for row in found] == [row["messages"] for row in talk]
    assert all(isinstance(row["prediction"], str) for row in found)


def test_predictions_do_not_depend_on_the_batch_or_the_block(
    trained: Any, cli: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    data = write(tmp_path / "in.jsonl", [{"text": row["text"]} for row in toy_rows(30)])
    cli("predict", trained.folder, "--data", data, "-o", tmp_path / "a.jsonl", "--batch-size", 30)
    monkeypatch.setattr("tunesmith.artifacts.predict.WINDOW", 3)
    cli("predict", trained.folder, "--data", data, "-o", tmp_path / "b.jsonl", "--batch-size", 2)
    a, b = read(tmp_path / "a.jsonl"), read(tmp_path / "b.jsonl")
    assert [row["text"] for row in a] == [row["text"] for row in b]
    assert [row["score"] for row in a] == pytest.approx([row["score"] for row in b], abs=1e-5)


@pytest.mark.parametrize("first", ["text", "review"])
def test_predict_reads_the_mapped_column(first: str, trained: Any, cli: Any, tmp_path: Path) -> None:
    """A column that is named like the task's but is not meant may not be read in its place."""
    texts = [row["text"] for row in toy_rows(6)]
    cli(
        "predict",
        trained.folder,
        "--data",
        write(tmp_path / "plain.jsonl", [{"text": t} for t in texts]),
        "-o",
        tmp_path / "a.jsonl",
    )
    rows = [{first: "", "text": "id", "review": t} for t in texts]
    answer = cli(
        "predict", trained.folder, "--data", write(tmp_path / "in.jsonl", rows), "-o", tmp_path / "b.jsonl",
        "--columns", "text=review,label=stars",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    scores = [[row["score"] for row in read(tmp_path / name)] for name in ("a.jsonl", "b.jsonl")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert [row["text"] for row in read(tmp_path / "b.jsonl")] == ["id"] * 6


def test_python_and_command_line_say_the_same(trained: Any, cli: Any, tmp_path: Path) -> None:
    import tunesmith

    rows = [{"text": row["text"], "id": i} for i, row in enumerate(toy_rows(5))]
    cli("predict", trained.folder, "--data", write(tmp_path / "in.jsonl", rows), "-o", tmp_path / "p.jsonl")
    found = tunesmith.load(trained.artifact, device="cpu").predict(rows)
    assert [row["prediction"] for row in found] == [row["prediction"] for row in read(tmp_path / "p.jsonl")]
    assert [row["id"] for row in found] == list(range(5))
    assert tunesmith.load(trained.artifact, device="cpu").predict([]) == []


@pytest.mark.parametrize("asked", [[], ["--baselines", "none"], ["--baselines", "majority"]])
def test_baselines_are_asked_for_or_none(
    asked: list[str], bert: Path, rows_file: Path, cli: Any, tmp_path: Path
) -> None:
    words = [
        "--model",
        bert,
        "--train",
        rows_file,
        "--techniques",
        "bitfit",
        "--seeds",
        "0",
        "--max-steps",
        1,
        "--device",
        "cpu",
        *asked,
    ]
    answer = cli("compare", *words, "--output", tmp_path / "run", "--quiet")
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    names = {row["technique"] for row in found["rows"] if row["kind"] == "baseline"}
    assert names >= {"majority", "tfidf"} if not asked else names == set(asked[1:]) - {"none"}


def test_the_artifact_explains_itself(trained: Any) -> None:
    card = (trained.artifact / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("bitfit", "negative, positive", "text-classification", "tunesmith"))
    assert {"tokenizer.json", "tunesmith.json", "trained.safetensors"} <= {p.name for p in trained.artifact.iterdir()}
