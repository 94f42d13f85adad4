"""Bad input: the right exit code, one sentence that says what, where and what to do, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bad_inputs.world import Args, World, case, check, contents


@pytest.fixture
def world(tmp_path: Path, models: Path, trained: Any) -> World:
    return World(tmp_path, models, trained)


LABELS = ["positive", "negative"]
CASES = [
    # ---- the rows
    case("missing file", lambda w: w.train(train=w.folder / "row.jsonl"), "no file", "row.jsonl", "check the path"),
    case("missing eval file", lambda w: w.train("--eval", "nothing.csv"), "no file `nothing.csv`"),
    case(
        "missing column",
        lambda w: w.train(train=w.file("a.csv", "review,stars\nx,1\n")),
        "no column `text`", "`review`", "`stars`", "--columns text=",
    ),
    case("empty file", lambda w: w.train(train=w.file("a.csv", "")), "a.csv", "is empty"),
    case("header only", lambda w: w.train(train=w.file("a.csv", "text,label\n")), "a.csv", "no rows"),
    case("one class only", lambda w: w.train(train=w.rows(label=["positive"])), "only one label", "`positive`"),
    case(
        "label of eval unseen in training",
        lambda w: w.train("--eval", w.rows("eval.jsonl", cell=(3, "label", "maybe"))),
        "eval.jsonl, row 3", "`maybe`", "negative, positive",
    ),
    case(
        "label of validation unseen in training",
        lambda w: w.train("--validation", w.rows("v.jsonl", cell=(2, "label", "maybe"))),
        "v.jsonl, row 2", "`maybe`", "validation",
    ),
    case("broken JSON line", lambda w: w.train(train=w.file("a.jsonl", '{"text": "a", "label": "b"}\n{"text\n')), "a.jsonl", "line 2"),
    case("JSON line that is a list", lambda w: w.train(train=w.file("a.jsonl", '{"text": "a"}\n[1]\n')), "line 2", "object", "list"),
    case(
        "not UTF-8",
        lambda w: w.train(train=w.file("a.csv", b"text,label\nfine,1\ncaf\xe9,0\n")),
        "a.csv", "not UTF-8", "line 3", "save it as UTF-8",
    ),
    case("null text", lambda w: w.train(train=w.rows(cell=(7, "text", None))), "rows.jsonl, row 7", "`text` is null"),
    case("null label", lambda w: w.train(train=w.rows(cell=(9, "label", None))), "rows.jsonl, row 9", "`label` is null"),
    case(
        "empty label in CSV",
        lambda w: w.train("--eval", w.rows(), train=w.file("a.csv", "text,label\nx,1\ny,\nz,0\nw,1\n")),
        "a.csv, row 2", "label is empty",
    ),
    case("too many cells", lambda w: w.train(train=w.file("a.csv", "text,label\nx,1\ny, and z,0\n")), "row 2", "line 3", "3 cells", "quote"),
    case("open quote", lambda w: w.train(train=w.file("a.csv", 'text,label\nx,1\n"y,0\nz,1\n')), "a.csv", "line 4", "quotes"),
    case("duplicate header", lambda w: w.train(train=w.file("a.csv", "text,label,text\nx,1,y\n")), "`text` twice", "rename"),
    case("unknown ending", lambda w: w.train(train=w.file("a.xlsx", "PK")), "`.xlsx`", ".csv", ".jsonl"),
    case("folder as data", lambda w: w.train(train=w.models), "is a folder", "one data file"),
    case(
        "NaN label",
        lambda w: w.train("--eval", w.rows(label=[1.0]), train=w.file("a.jsonl", '{"text": "a", "label": 1.0}\n{"text": "b", "label": NaN}\n')),
        "a.jsonl, row 2", "nan",
    ),
    case("lone surrogate", lambda w: w.train(train=w.file("a.jsonl", '{"text": "a", "label": 1}\n{"text": "\\ud83d", "label": 2}\n')), "row 2", "`text`"),
    case("text is a list", lambda w: w.train(train=w.rows(text=[["a", "b"], ["c"]])), "`text` is a list"),
    case(
        "regression on words",
        lambda w: w.train("--set", "text-classification.problem=regression", "--eval", w.rows("e.jsonl"), train=w.rows(label=["1.5", "x"])),
        "rows.jsonl, row 2", "`x`", "number",
    ),
    case(
        "several labels given as a number",
        lambda w: w.train("--set", "text-classification.problem=multi-label", train=w.rows(label=[1, 2])),
        "list of labels", "`",
    ),
    case("too small to cut", lambda w: w.train(train=w.file("a.csv", "text,label\nx,1\nx,0\n")), "too small", "--eval"),
    case("no training rows", lambda w: ["train", "-q", "--model", w.model(), "--output", w.output], "train", "required"),
    case("unknown hub data set", lambda w: w.train(train="no-such-owner/no-such-data"), "neither a file here", "check the path"),
    # ---- the settings
    case("unknown technique", lambda w: w.train("--technique", "lorra"), "technique", "did you mean `lora`"),
    case("unknown task", lambda w: w.train("--task", "text-clasification"), "task", "did you mean `text-classification`"),
    case("unknown option of a technique", lambda w: w.set("lora.rnk=8"), "lora.rnk", "did you mean `rank`"),
    case("unknown setting", lambda w: w.set("lerning_rate=1"), "lerning_rate", "did you mean `learning_rate`"),
    case(
        "several wrong settings",
        lambda w: w.set("lora.rnk=8", "seed=-1", "training.warmup=-1"),
        "3 settings are wrong", "lora.rnk", "seed", "training.warmup", lines=4,
    ),
    case("--set without =", lambda w: w.set("lora.rank"), "--set takes key=value", "`lora.rank`"),
    case("--columns malformed", lambda w: w.train("--columns", "text"), "--columns takes", "`text`", "text=review"),
    case("--columns for no column of the task", lambda w: w.train("--columns", "body=text"), "no column `body`", "text, label"),
    case("wrong YAML", lambda w: w.config("model: [a\nseed: 1\n"), "run.yaml", "not valid YAML", "line 2"),
    case("YAML not a mapping", lambda w: w.config("- model\n"), "run.yaml", "key: value", "list"),
    case("config not UTF-8", lambda w: w.config(b"model: \xff\n"), "run.yaml", "UTF-8"),
    case("missing config file", lambda w: ["train", "--config", w.folder / "no.yaml"], "no.yaml", "check the path"),
    case("negative epochs", lambda w: ["train", "-q", "--model", w.model(), "--train", w.rows(), "--epochs", -1, "--output", w.output], "epochs", "greater than 0", "-1"),
    case("epochs and steps", lambda w: w.train("--epochs", 2), "max_steps", "give one of them"),
    case("epochs not a number", lambda w: w.train("--epochs", "many"), "--epochs", "number", "train --help"),
    case("unknown dtype", lambda w: w.train("--dtype", "fp8"), "dtype", "bfloat16"),
    case("unknown tracker", lambda w: w.train("--report-to", "mlflow"), "report_to", "tensorboard"),
    case("unknown device", lambda w: w.train("--device", "gpu"), "device", "`gpu`", "auto or cpu"),
    case(
        "cuda where there is none",
        lambda w: w.train("--device", "cuda"),
        "device", "`cuda`", "auto or cpu",
        marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
    ),
    case("unknown quantization", lambda w: w.train("--quantization", "nf5"), "nf5", "nf4"),
    case("quantization of what trains the weights", lambda w: w.train("--quantization", "nf4", "--technique", "full"), "cannot take small steps", "qlora"),
    case("unknown command", lambda w: ["trian"], "trian"),
    case("unknown flag", lambda w: ["train", "--modle", "x"], "--modle", "--help"),
    case("flag without its value", lambda w: ["train", "--model"], "--model"),
    # ---- the model
    case("missing model folder", lambda w: w.train(model=w.models / "brt"), "no model folder", "did you mean", "bert"),
    case("model without config.json", lambda w: w.train(model=w.broken("config.json")), "broken", "no config.json"),
    case("model without tokenizer", lambda w: w.train(model=w.broken("tokenizer*", "special_tokens*")), "broken", "no tokenizer", "save_pretrained"),
    case(
        "pickled weights only",
        lambda w: w.train(model=w.broken("*.safetensors", pytorch_model__bin=b"x")),
        "broken", "pickle", "pytorch_model.bin", "safetensors",
    ),
    case("no weights", lambda w: w.train(model=w.broken("*.safetensors")), "broken", "no .safetensors"),
    case("truncated safetensors", lambda w: w.train(model=w.cut_weights()), "broken", "cannot be opened"),
    case("config.json is no JSON", lambda w: w.train(model=w.broken(config__json=b"{")), "broken", "cannot be opened"),
    case("unknown architecture", lambda w: w.train(model=w.broken(config__json=b'{"model_type": "nope"}')), "broken", "cannot be opened"),
    case("tokenizer.json is no JSON", lambda w: w.train(model=w.broken(tokenizer__json=b"{")), "broken", "tokenizer"),
    case("file as model", lambda w: w.train(model=w.rows("model.bin")), "model.bin", "is a file", "folder"),
    case("unknown asset", lambda w: w.train(model="asset:minilmm"), "minilmm", "did you mean", "minilm"),
    case("unknown asset as data", lambda w: w.train(train="asset:movie-review"), "did you mean", "movie-reviews"),
    case("unknown hub model", lambda w: w.train(model="no-such-owner/no-such-model"), "neither a folder here", "check the path"),
    case("longer than the model reads", lambda w: w.train("--max-length", 129), "max_length", "129", "128"),
    case(
        "prompt longer than the model reads",
        lambda w: w.train("--technique", "prompt-tuning", "--set", "prompt-tuning.length=128"),
        "128", "no room", "shorter",
    ),
    case(
        "prompt much longer than the model reads",
        lambda w: w.train("--technique", "prompt-tuning", "--set", "prompt-tuning.length=500"),
        "500", "128", "shorter",
    ),
    case(
        "no room for rows of that length beside the prompt",
        lambda w: w.train("--technique", "prompt-tuning", "--max-length", 120),
        "max_length", "120", "less 20 for the prompt", "use 108 or less",
    ),
    case("biases of a model without biases", lambda w: w.train("--technique", "bitfit", model=w.model("llama")), "bitfit", "has none", "choose lora"),
    case("peft method that does not exist", lambda w: w.train("--technique", "peft:LOHAA"), "LOHA"),
    # ---- folders of runs
    case("finished run there", lambda w: w.there("config.yaml", "result.json"), "finished run", "--overwrite", "--output"),
    case("unfinished run there", lambda w: w.there("config.yaml"), "unfinished run", "tunesmith resume", "--overwrite"),
    case("nothing to resume", lambda w: ["resume", w.folder], "no run to resume", "config.yaml"),
    case("nothing to show", lambda w: ["show", w.folder], "no run, comparison or artifact"),
    case("damaged result", lambda w: ["show", w.file("result.json", "{").parent], "result.json", "is damaged"),
    case("unknown list", lambda w: ["list", "technique"], "did you mean `techniques`"),
    case("init over a file", lambda w: ["init", "-o", w.file("a.yaml", "")], "is there already", "--overwrite"),
    case("init of an unknown technique", lambda w: ["init", "-o", "-", "--technique", "lorra"], "did you mean `lora`"),
    # ---- artifacts
    case("no artifact", lambda w: ["evaluate", w.folder, "--data", w.rows()], "not an artifact", "finished run"),
    case("artifact that is not there", lambda w: ["evaluate", w.folder / "no", "--data", w.rows()], "not an artifact"),
    case("flipped byte", lambda w: ["evaluate", w.flipped(), "--data", w.rows()], "trained.safetensors", "is damaged", "train again"),
    case("evaluate on unlabelled rows", lambda w: ["evaluate", w.trained.folder, "--data", w.file("a.csv", "text\nx\n")], "no column `label`"),
    case("evaluate on unknown labels", lambda w: ["evaluate", w.trained.folder, "--data", w.rows(label=["maybe"])], "row 1", "`maybe`"),
    case("unknown dtype of evaluate", lambda w: ["evaluate", w.trained.folder, "--data", w.rows(), "--dtype", "fp8"], "fp8", "bfloat16"),
    case("batch of no rows", lambda w: ["evaluate", w.trained.folder, "--data", w.rows(), "--batch-size", 0], "--batch-size"),
    case("predict without text", lambda w: ["predict", w.trained.folder, "--data", w.file("a.csv", "x\n1\n"), "-o", w.output / "p.jsonl"], "no column `text`", "--columns text="),
    case(
        "predict on a null",
        lambda w: ["predict", w.trained.folder, "--data", w.rows(cell=(5, "text", None)), "-o", w.output / "p.jsonl"],
        "rows.jsonl", "row 5", "`text` is null",
    ),
    case("predict into a folder", lambda w: ["predict", w.trained.folder, "--data", w.rows(), "-o", w.folder], "is a folder"),
    # ---- comparisons
    case("--seeds a,b", lambda w: w.compare("--seeds", "a,b"), "--seeds", "whole numbers", "`a,b`"),
    case("a seed twice", lambda w: w.compare("--seeds", "1,1"), "seeds", "twice"),
    case("a seed below 0", lambda w: w.compare("--set", "seeds=[-1]"), "seeds", "-1"),
    case("unknown baseline", lambda w: w.compare("--baselines", "majority,tf-idf"), "baseline", "did you mean `tfidf`"),
    case("comparison on a missing file", lambda w: w.compare("--train", "no.csv"), "no file `no.csv`", "check the path"),
    case("comparison on unknown labels", lambda w: w.compare("--eval", w.rows("e.jsonl", label=["maybe"])), "e.jsonl, row 1", "`maybe`"),
    case("comparison of a missing model", lambda w: w.compare("--model", w.models / "brt"), "no model folder", "did you mean"),
    case("comparison on an unknown device", lambda w: w.compare("--device", "gpu"), "device", "`gpu`"),
    case("unknown technique of a comparison", lambda w: w.compare("--techniques", "lora,fulll"), "did you mean `full`"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_bad_input(
    args: Callable[[World], Args],
    words: tuple[str, ...],
    code: int,
    lines: int,
    world: World,
    cli: Any,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(world.folder)
    command = args(world)
    there, before = world.output.exists(), contents(world.output)
    answer = cli(*command)
    check(answer.code, answer.err, answer.out, (code, lines), words)
    assert contents(world.output) == before, "something was left behind"
    assert world.output.exists() == there, "an empty folder was left behind"


def test_a_refused_run_does_not_block_the_next_one(world: World, cli: Any, monkeypatch: Any) -> None:
    """The folder of a refused run is free: the mended command runs without --overwrite."""
    monkeypatch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
    assert cli(*world.train("--technique", "bitfit", model=world.model("llama"))).code == 2
    answer = cli(*world.train("--technique", "bitfit", "--json"))
    assert (answer.code, answer.err) == (0, "")
    assert answer.json["status"] == "finished"


# ---- what the machine does wrong is ours


def full_disk(*args: Any, **kwargs: Any) -> None:
    raise OSError(28, "No space left on device")


def left_over(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.startswith(".") or p.name in ("artifact", "result.json")]


@pytest.mark.parametrize("where", ["weights", "flush"])
def test_a_full_disk_while_the_artifact_is_saved(where: str, world: World, cli: Any, monkeypatch: Any) -> None:
    if where == "weights":
        monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    else:
        flush = os.fsync

        def fsync(number: int) -> None:
            flush(number)
            if ".artifact.writing" in str(Path(f"/proc/self/fd/{number}").readlink()):
                full_disk()

        monkeypatch.setattr(os, "fsync", fsync)
    answer = cli(*world.train("--technique", "bitfit"))
    check(
        answer.code,
        answer.err,
        answer.out,
        (1, 1),
        ("No space left on device", "artifact", f"tunesmith resume {world.output}"),
    )
    assert left_over(world.output) == []


def test_a_full_disk_while_the_settings_are_written(world: World, cli: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    answer = cli(*world.train("--technique", "bitfit"))
    check(answer.code, answer.err, answer.out, (1, 1), ("No space left on device", "config.yaml", "--output"))
    assert contents(world.output) == {}


def test_a_full_disk_while_predictions_are_written(world: World, cli: Any, monkeypatch: Any) -> None:
    rows = world.rows()
    monkeypatch.setattr(os, "fsync", full_disk)
    answer = cli("predict", world.trained.folder, "--data", rows, "-o", world.output / "p.jsonl", "-q")
    check(answer.code, answer.err, answer.out, (1, 1), ("No space left on device", "p.jsonl"))
    assert contents(world.output) == {}


def test_a_full_cache(world: World, cli: Any, monkeypatch: Any) -> None:
    command = world.train("--max-length", 77)
    monkeypatch.setattr("tunesmith.durable.sync_tree", full_disk)
    answer = cli(*command)
    check(answer.code, answer.err, answer.out, (1, 1), ("No space left on device", "TUNESMITH_CACHE"))
    assert contents(world.output) == {}


def test_an_output_that_may_not_be_written(world: World, cli: Any, monkeypatch: Any) -> None:
    """Root may write anywhere, so the refusal is played."""
    make = Path.mkdir

    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        if path == world.output:
            raise PermissionError(13, "Permission denied")
        make(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    for command in (world.train(), world.compare()):
        answer = cli(*command)
        check(answer.code, answer.err, answer.out, (1, 1), ("Permission denied", str(world.output), "--output"))


def test_a_loss_that_is_no_number_stops_the_run(world: World, cli: Any) -> None:
    answer = cli(*world.train("--technique", "full", "--learning-rate", "1e30", "--max-steps", 3))
    check(answer.code, answer.err, answer.out, (1, 1), ("loss is", "learning rate of 1e+30", "lower --learning-rate"))
    assert left_over(world.output) == []


def test_a_tracker_that_cannot_start_is_named(world: World, cli: Any, monkeypatch: Any) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("No API key configured.\nmore")

    monkeypatch.setattr("accelerate.Accelerator.init_trackers", refuse)
    answer = cli(*world.train("--report-to", "tensorboard"))
    check(answer.code, answer.err, answer.out, (2, 1), ("--report-to tensorboard", "No API key configured"))


def test_resuming_a_damaged_result(world: World, cli: Any) -> None:
    world.output.mkdir()
    for name in ("config.yaml", "result.json"):
        (world.output / name).write_text("{")
    answer = cli("resume", world.output, "-q")
    check(answer.code, answer.err, answer.out, (2, 1), ("config.yaml",))
    (world.output / "config.yaml").write_text(f"model: {world.model()}\ntrain: {world.rows()}\n")
    answer = cli("resume", world.output, "-q")
    check(answer.code, answer.err, answer.out, (2, 1), ("result.json", "is damaged"))


def test_an_output_that_is_a_file(world: World, cli: Any) -> None:
    world.output.write_text("mine")
    answer = cli(*world.train())
    assert answer.code in (1, 2)
    check(answer.code, answer.err, answer.out, (answer.code, 1), (str(world.output), "--output"))
    assert world.output.read_text() == "mine"


# ---- and in a process of its own


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], ("trian",)),
        (["train", "--modle", "x"], ("--modle",)),
        (["compare", "--model", "m", "--train", "t.csv", "--seeds", "a,b"], ("--seeds", "whole numbers")),
        (["train", "--model", "m", "--train", "t.csv", "--set", "lora.rnk=8"], ("lora.rnk", "did you mean `rank`")),
    ],
    ids=["command", "flag", "seeds", "option"],
)  # fmt: skip
def test_bad_input_in_a_process(args: list[str], words: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", *args], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    check(done.returncode, done.stderr, done.stdout, (2, 1), words)
    assert list(tmp_path.iterdir()) == []
