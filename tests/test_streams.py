"""Streams: stages learned in order, kept by every strategy, interrupted, continued, and used without knowing the stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tunesmith
from tunesmith import registry
from tunesmith import run as runs
from tunesmith.errors import UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows
from tunesmith.training import loop
from tunesmith.training.checkpoint import read_state
from tunesmith.training.log import read

FLIPPED = [{**row, "label": "negative" if row["label"] == "positive" else "positive"} for row in toy_rows(32)]
COLOURS = [{"text": f"the {c} book {i}", "label": c} for i in range(12) for c in ("red", "blue", "green")]
STAGES = {
    "films": {"name": "films", "train": toy_rows(32), "eval": toy_rows(16)},
    "flipped": {"name": "flipped", "train": FLIPPED, "eval": FLIPPED[:16]},
    "colours": {"name": "colours", "train": COLOURS, "eval": COLOURS[:12]},
    "words": {
        "name": "words", "task": "token-classification", "train": rows_for("token-classification", 32),
        "eval": rows_for("token-classification", 12),
    },
}  # fmt: skip


def go(place: Path, models: Path, *stages: str | dict[str, Any], kind: str = "bert", **settings: Any) -> Any:
    listed = [STAGES[s] if isinstance(s, str) else s for s in stages]
    settings = {
        "technique": "lora", "max_steps": 6, "batch_size": 8, "dtype": "float32", "learning_rate": 1e-2, "device": "cpu",
        "doctor": False, **settings,
    }  # fmt: skip
    return tunesmith.train(str(tiny_model(kind, models / kind)), stream={"stages": listed}, output=place, **settings)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted((folder / "artifact").glob("*.safetensors")):
        found.update(load_file(str(path)))
    return found


def logged(folder: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "tokens_per_second", "peak_memory_bytes")
    return [{k: v for k, v in line.items() if k not in timed} for line in read(folder / "metrics.jsonl")]


PAIRS = [(strategy, "lora") for strategy in registry.names("strategy")]
PAIRS += [("ewc", "full"), ("progressive", "full"), ("lwf", "adapter"), ("experience-replay", "prefix-tuning")]


@pytest.mark.parametrize(("strategy", "technique"), PAIRS)
def test_every_strategy_with_techniques(strategy: str, technique: str, tmp_path: Path, models: Path) -> None:
    """A shared head, a head of its own and another task: all measured after every stage, the artifact verified."""
    found = go(tmp_path / "run", models, "films", "flipped", "words", strategy=strategy, technique=technique).result
    stream = found["stream"]
    assert stream["stages"] == ["films", "flipped", "words"]
    rows = 1 if strategy == "joint" else 3
    assert len(stream["matrix"]) == rows
    assert found["verification"]["largest_difference"] <= 1e-4
    if rows == 3:
        ahead = strategy == "progressive"  # heads of their own are not there before their turn
        wanted = [[False, ahead, True], [False, False, True], [False] * 3]
        assert [[v is None for v in row] for row in stream["matrix"]] == wanted
        assert stream["forgetting"] == pytest.approx(sum(stream["forgetting_per_stage"]) / 2)


def test_options_change_what_is_learned(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of every strategy leaves other weights behind than its default, and every strategy others than none."""
    monkeypatch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})  # others verify
    flips = {
        "ewc": [{"strength": 50.0}, {"fisher": "empirical"}, {"rows": 3}, {"normalise": False}],
        "synaptic-intelligence": [{"strength": 50.0}, {"damping": 1.0}, {"normalise": False}],
        "l2-sp": [{"strength": 50.0}, {"first_stage": True}],
        "progressive": [{"reduction": 1}, {"laterals": False}],
        "lwf": [{"strength": 50.0}, {"temperature": 7.0}],
        "experience-replay": [
            {"size": 4}, {"bytes": 500}, {"share": 1.0}, {"weight": 9.0}, {"logits": True}, {"select": "reservoir"},
            {"logits": True, "alpha": 9.0},
        ],
    }  # fmt: skip
    seen = {"none": weights(go(tmp_path / "none", models, "films", "flipped").folder)}
    for strategy, options in flips.items():
        for number, changed in enumerate([{}, *options]):
            place = tmp_path / f"{strategy}-{number}"
            seen[f"{strategy} {changed}"] = weights(
                go(place, models, "films", "flipped", strategy=strategy, **{strategy: changed}).folder
            )
    names = list(seen)
    for i, one in enumerate(names):
        for other in names[:i]:
            same = seen[one].keys() == seen[other].keys() and all(
                torch.equal(seen[one][n], seen[other][n]) for n in seen[one]
            )
            assert not same, f"{one} and {other} leave the same weights"


@pytest.mark.parametrize(
    "strategy", ["none", "ewc", "synaptic-intelligence", "lwf", "experience-replay", "progressive"]
)
def test_killed_in_the_middle_of_a_stage_and_resumed(
    strategy: str, tmp_path: Path, models: Path, power_cut: Any
) -> None:
    """Bit for bit the stream that was never stopped: weights, matrix and log."""
    settings = {"strategy": strategy, "training": {"checkpoint_every": 2, "log_every": 1}}
    whole = go(tmp_path / "whole", models, "films", "flipped", "colours", **settings)
    with power_cut(6 + 6 + 4):
        go(tmp_path / "kills", models, "films", "flipped", "colours", **settings)
    result = runs.resume(
        tmp_path / "kills"
    )  # a name as long as the other: paths of rows are kept, and their bytes counted
    assert result["stream"] == whole.result["stream"]
    left, right = weights(whole.folder), weights(tmp_path / "kills")
    assert left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
    assert logged(whole.folder) == logged(tmp_path / "kills")


@pytest.mark.parametrize("stages", [("films",), ("films", "words")], ids=["plain", "stream"])
def test_killed_after_the_last_step(
    stages: tuple[str, ...], tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learned and saved is not learned again: what is missing is measured, to the same result."""

    def train(place: Path) -> Any:
        if len(stages) > 1:
            return go(place, models, *stages)
        films = {k: v for k, v in STAGES["films"].items() if k != "name"}
        model = str(tiny_model("bert", models / "bert"))
        return tunesmith.train(
            model, **films, technique="lora", max_steps=6, batch_size=8, dtype="float32", device="cpu", output=place
        )

    def dying(*args: Any, **settings: Any) -> Any:
        raise RuntimeError("power cut")

    whole = train(tmp_path / "whole").result
    for number, where in enumerate(("tunesmith.artifacts.verify.verify_run", "tunesmith.history.History._measure")):
        place = tmp_path / f"kill{number}"
        if len(stages) > 1 and number:
            continue  # a stream dies there after its first stage, and the second is learned when it is resumed
        with monkeypatch.context() as patch:
            patch.setattr(where, dying)
            with pytest.raises(RuntimeError, match="power cut"):
                train(place)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_train_step", dying)
            found = runs.resume(place)
        assert (found["metrics"], found["stream"], found["training"]) == (
            whole["metrics"], whole["stream"], whole["training"]
        )  # fmt: skip
        assert found["provenance"]["model_sha256"] == whole["provenance"]["model_sha256"]


@pytest.mark.parametrize(
    ("strategy", "technique"),
    [("none", "full"), ("ewc", "lora"), ("experience-replay", "full"), ("progressive", "lora")],
)
def test_a_stage_added_later_is_as_if_it_had_been_in_the_list(
    technique: str, strategy: str, tmp_path: Path, models: Path
) -> None:
    shared = {"strategy": strategy, "technique": technique}
    whole = go(tmp_path / "whole", models, "films", "words", "flipped", **shared)
    go(tmp_path / "first", models, "films", "words", **shared)
    later = go(tmp_path / "later", models, "flipped", continue_from=str(tmp_path / "first"), **shared)
    for i, (mine, theirs) in enumerate(
        zip(later.result["stream"]["matrix"], whole.result["stream"]["matrix"], strict=True)
    ):
        assert mine[: i + 1] == theirs[: i + 1]  # what comes later was not known when the first run measured
    left, right = weights(whole.folder), weights(later.folder)
    assert left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize(
    ("before", "strategy", "fine"),
    [("lwf", "lwf", True), ("progressive", "progressive", True), ("none", "lwf", True), ("none", "l2-sp", True), ("ewc", "none", True),
     ("none", "ewc", False), ("none", "experience-replay", False), ("lwf", "progressive", False)],
)  # fmt: skip
def test_what_needs_nothing_of_earlier_stages_continues_any_run(
    before: str, strategy: str, fine: bool, tmp_path: Path, models: Path
) -> None:
    settings = {"technique": "lora", "max_steps": 2, "batch_size": 8, "device": "cpu", "doctor": False}
    model = str(tiny_model("bert", models / "bert"))
    tunesmith.train(model, train=toy_rows(16), eval=toy_rows(8), output=tmp_path / "first", strategy=before, **settings)
    further = {
        "train": COLOURS,
        "eval": COLOURS[:6],
        "continue_from": str(tmp_path / "first"),
        "output": tmp_path / "next",
    }
    if not fine:
        with pytest.raises(UserError, match="knows nothing of its stages"):
            tunesmith.train(model, strategy=strategy, **further, **settings)
        return
    found = tunesmith.train(model, strategy=strategy, **further, **settings).result["stream"]
    assert len(found["matrix"]) == 2
    if strategy == "progressive":
        assert found["forgetting"] == 0


@pytest.mark.parametrize("strategy", ["ewc", "experience-replay"])
def test_a_plain_run_is_continued_and_continued_again(strategy: str, tmp_path: Path, models: Path) -> None:
    """Nothing is learned twice, tasks that nobody named get names, and what the strategy kept comes along."""
    model = str(tiny_model("bert", models / "bert"))
    settings = {
        "technique": "lora",
        "max_steps": 4,
        "batch_size": 8,
        "device": "cpu",
        "doctor": False,
        "strategy": strategy,
    }
    first = tunesmith.train(model, train=toy_rows(32), eval=toy_rows(8), output=tmp_path / "0", **settings)
    found = first
    for number, rows in enumerate((FLIPPED, COLOURS), 1):
        found = tunesmith.train(
            model, train=rows, eval=rows[:8], output=tmp_path / str(number), continue_from=str(tmp_path / str(number - 1)), **settings
        )  # fmt: skip
    stream = found.result["stream"]
    assert stream["stages"] == ["text-classification", "text-classification-2", "text-classification-3"]
    assert stream["matrix"][0][0] == first.metrics["accuracy"]
    assert found.result["training"]["steps"] == 4
    state = read_state(next((tmp_path / "2" / "stages").glob("02-*/strategy.safetensors")))
    kept = state["anchors"] if strategy == "ewc" else {row["task"] for row in state["memory"]}
    assert len(kept) == 3


def test_a_head_grows_with_new_labels(tmp_path: Path, models: Path) -> None:
    """Known labels keep their place; the first stage is still read, through the head with all labels."""
    grown = {**STAGES["colours"], "head": "extend"}
    found = go(tmp_path / "run", models, "films", grown)
    info = json.loads((found.artifact / "tunesmith.json").read_text())
    assert info["task_state"]["labels"] == ["negative", "positive", "blue", "green", "red"]
    assert info["parts"] == {"films": "films", "colours": "films"} and not info["further_heads"]
    answers = tunesmith.load(found.artifact).predict([{"text": "the red book"}])
    assert answers[0]["prediction"] in info["task_state"]["labels"]


def test_heads_that_a_stage_does_not_use_stay_what_they_are(tmp_path: Path, models: Path) -> None:
    first = go(tmp_path / "one", models, "films", "colours", technique="lora")
    both = go(tmp_path / "two", models, "films", "colours", "words", technique="lora")
    before, after = weights(first.folder), weights(both.folder)
    heads = [n for n in before if n.startswith("colours::") or "classifier" in n]
    assert heads and all(torch.equal(before[n], after[n]) for n in heads)
    assert any(not torch.equal(before[n], after[n]) for n in before if "lora" in n)


@pytest.mark.parametrize("technique", ["full", "prefix-tuning"])
def test_progressive_columns(technique: str, tmp_path: Path, models: Path) -> None:
    """Earlier answers stay the same to the bit, nothing is forgotten, and earlier columns are listened to."""
    shared = {"strategy": "progressive", "technique": technique}
    rows = [{"text": row["text"]} for row in toy_rows(12)]
    answers = []
    for count in (1, 2, 3):
        names = ("films", "flipped", "colours")[:count]
        found = go(tmp_path / str(count), models, *names, **shared)
        artifact = tunesmith.load(found.artifact, device="cpu")
        answers.append({name: artifact.choose(name).predict(rows) for name in names})
    assert answers[0]["films"] == answers[1]["films"] == answers[2]["films"]
    assert answers[1]["flipped"] == answers[2]["flipped"]
    assert found.result["stream"]["forgetting"] == 0.0
    columns = artifact.opened.heads.columns
    with torch.no_grad():
        for lateral in columns.laterals[2]:
            assert float(lateral.up.weight.abs().sum()) > 0
            lateral.up.weight.zero_()
    assert artifact.choose("colours").predict(rows) != answers[2]["colours"]
    assert artifact.choose("films").predict(rows) == answers[2]["films"]
    artifact.opened.heads.to(torch.device("meta"))  # what is moved, is moved whole
    held = [columns.start, *columns.values, *(dict(modules.named_parameters()) for modules in columns.laterals)]
    assert {tensor.device.type for each in held for tensor in each.values()} == {"meta"}


def test_the_memory_can_be_read(tmp_path: Path, models: Path) -> None:
    settings = {"strategy": "er", "experience-replay": {"size": 6}}
    found = go(tmp_path / "run", models, "films", "colours", **settings)
    rows = [json.loads(line) for line in (found.folder / "memory.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and {row["_task"] for row in rows} == {"films", "colours"}
    assert all(row["text"] and row["label"] and row["_row"] >= 1 for row in rows)


def test_a_multitask_stage(tmp_path: Path, models: Path) -> None:
    """Two tasks at once: both learn, and mixing and weighting change what is learned."""
    tasks = [STAGES["films"], STAGES["words"]]
    seen = {}
    for name, changed in {
        "plain": {}, "equal": {"mixing": "equal"}, "uncertainty": {"weighting": "uncertainty"}, "pcgrad": {"weighting": "pcgrad"},
        "heavy": {"tasks": [{**tasks[0], "weight": 5.0}, tasks[1]]},
        "temperature": {"mixing": "temperature", "temperature": 8.0}, "proportional": {"mixing": "proportional"},
    }.items():  # fmt: skip
        listed = [{**tasks[0], "train": toy_rows(32)[:12]}, tasks[1]]
        stage = {"name": "both", "tasks": listed, **changed}
        found = go(tmp_path / name, models, stage, max_steps=60)
        after, before = found.result["metrics"]["after"], found.result["metrics"]["before"]
        assert after["films/loss"] < before["films/loss"] and after["words/loss"] < before["words/loss"]
        seen[name] = weights(found.folder)
    for name, found in seen.items():
        for other, compared in seen.items():
            if name < other:
                assert any(not torch.equal(found[n], compared[n]) for n in found), f"{name} = {other}"


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_writing_tasks_share_the_output_layer(kind: str, tmp_path: Path, models: Path) -> None:
    stages = [
        {"name": task, "task": task, "train": rows_for(task, 16), "eval": rows_for(task, 6), "options": {"max_new_tokens": 3, "generate_rows": 2}}
        for task in ("instruction", "summarization")
    ]  # fmt: skip
    found = go(tmp_path / "run", models, *stages, kind=kind)
    assert found.result["verification"]["largest_difference"] <= 1e-4
    assert not [n for n in weights(found.folder) if n.startswith("summarization::")]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stream": {"stages": [{**STAGES["films"], "head": "shared"}]}}, ["films", "none", "head: own"]),
        ({"stream": {"stages": [STAGES["films"], STAGES["films"]]}}, ["`films` is named twice"]),
        ({"stream": {"stages": []}}, ["stream.stages"]),
        ({"stream": {"stages": [{"name": "a", "train": toy_rows(8), "taks": "x"}]}}, ["taks"]),
        ({"stream": {"stages": [{"name": "a", "task": "ner", "train": toy_rows(8)}]}}, ["stream.stages.0.a.task", "ner"]),
        ({"stream": {"stages": [STAGES["films"]]}, "train": toy_rows(8)}, ["train", "together with stream"]),
        ({"continue_from": "nothing", "train": toy_rows(8)}, ["`nothing` holds no finished run"]),
    ],
)  # fmt: skip
def test_bad_streams_are_refused(settings: dict[str, Any], words: list[str], tmp_path: Path, models: Path) -> None:
    with pytest.raises(tunesmith.errors.UserError) as caught:
        tunesmith.train(str(tiny_model("bert", models / "bert")), output=tmp_path / "run", **settings)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_prediction_without_knowing_the_task(tmp_path: Path, models: Path, cli: Any) -> None:
    """`auto` finds out the task of each row and answers as that task's head does; a name takes that head."""
    found = go(tmp_path / "run", models, "films", "colours", "words", max_steps=4)
    assert found.result["stream"]["task_found"]["colours"] == 1.0
    rows = [{"text": "the film was great"}, {"text": "the red book"}, {"text": "the plot was awful"}]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def predict(head: str) -> list[dict[str, Any]]:
        cli("predict", "-q", found.folder, "--data", data, "--head", head, "-o", tmp_path / "out.jsonl")
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    films, colours, auto = predict("films"), predict("colours"), predict("auto")
    assert [row["head"] for row in auto] == ["films", "colours", "films"]
    for film, colour, either in zip(films, colours, auto, strict=True):
        right = film if either["head"] == "films" else colour
        assert (either["prediction"], either["score"]) == (right["prediction"], pytest.approx(right["score"], abs=1e-6))
    refused = cli("predict", "-q", found.folder, "--data", data, "--head", "film", "-o", tmp_path / "x")
    assert refused.code == 2 and "`films`" in refused.err


def test_dropout_is_what_was_asked_for_in_every_stage(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the backbone and of a head that comes later; the technique's own stays what its option says."""
    seen: list[dict[str, float]] = []
    real = loop.fit

    def look(session: Any) -> Any:
        modules = {
            f"{head}.{n}": m for head, each in session.heads.loaded.items() for n, m in each.model.named_modules()
        }
        seen.append({n: m.p for n, m in modules.items() if isinstance(m, torch.nn.Dropout)})
        return real(session)

    monkeypatch.setattr(loop, "fit", look)
    go(tmp_path, models, "films", "words", max_steps=1, training={"dropout": 0.25}, lora={"dropout": 0.125})
    assert len(seen) == 2
    for rates in seen:
        assert {rate for name, rate in rates.items() if "lora" in name} == {0.125}
        assert {rate for name, rate in rates.items() if "lora" not in name} == {0.25}
