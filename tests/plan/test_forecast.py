"""What is predicted: exact counts, parts that sum up, and a run that is the same with and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith import dry_run
from tunesmith.config import RunConfig, build
from tunesmith.errors import TunesmithError, UserError
from tunesmith.plan.prediction import PARTS, Prediction
from tunesmith.run import execute
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for


def config(
    models: Path, folder: Path, kind: str = "bert", task: str = "text-classification", count: int = 48, **more: Any
) -> RunConfig:
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / f"rows-{count}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_for(task, count)), encoding="utf-8")
    given = {"model": str(tiny_model(kind, models / kind)), "task": task, "train": str(rows), "technique": "lora", "output": str(folder / "run"),
             "batch_size": 8, "epochs": 1, "dtype": "float32", "device": "cpu", "doctor": False, **more}  # fmt: skip
    return build(RunConfig, given)


@pytest.mark.parametrize("technique", ["lora", "full", "feature-based"])
def test_a_run_is_the_same_bit_for_bit(technique: str, models: Path, tmp_path: Path) -> None:
    losses, weights = [], []
    for plan in (True, False):
        own = config(models, tmp_path / str(plan), technique=technique, training={"plan": plan, "log_every": 1})
        result = execute(own)
        lines = (tmp_path / str(plan) / "run" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines if json.loads(line)["event"] == "train"])
        files = sorted((tmp_path / str(plan) / "run" / "artifact").glob("*.safetensors"))
        weights.append([path.read_bytes() for path in files])
        assert (result["plan"] is None) is not plan
        assert (result["cost"]["predicted_seconds"] is None) is not plan
    assert losses[0] == losses[1] and len(losses[0]) >= 5
    assert weights[0] == weights[1] and weights[0]


def test_what_a_run_says_of_itself_beforehand(models: Path, tmp_path: Path) -> None:
    result = execute(config(models, tmp_path))
    plan, cost = result["plan"], result["cost"]
    assert plan["trainable_parameters"] == cost["trainable_parameters"]
    assert plan["total_parameters"] == cost["total_parameters"]
    assert cost["predicted_memory_bytes"] == plan["memory_bytes"] == sum(plan["memory"].values())
    assert cost["predicted_seconds"] == plan["seconds"] > 0
    assert set(plan["memory"]) == set(PARTS) and min(plan["memory"].values()) >= 0
    assert plan["memory_bytes"] == pytest.approx(cost["peak_memory_bytes"], rel=0.25)
    assert plan["artifact_bytes"] == pytest.approx(cost["artifact_bytes"], rel=0.5)
    assert plan["steps"] == result["training"]["steps"]
    known = {name: plan[name] for name in Prediction.__dataclass_fields__}
    assert Prediction(**known).as_json() == plan
    assert plan["waited"] is None or 0 <= plan["waited"] <= 1


def test_a_larger_batch_takes_more_and_more_rows_take_longer(models: Path, tmp_path: Path) -> None:
    small, large = (
        dry_run.predict(config(models, tmp_path, count=200, batch_size=size, technique="full")) for size in (2, 64)
    )
    assert small.memory is not None and large.memory is not None
    assert large.memory["activations"] > 4 * small.memory["activations"]
    assert large.memory["optimizer"] == small.memory["optimizer"] == 8 * small.trainable_parameters
    few, many = (dry_run.predict(config(models, tmp_path, count=count, batch_size=8)) for count in (40, 400))
    assert few.seconds is not None and many.seconds is not None
    assert 3 < many.seconds / few.seconds < 40  # ten times the rows, on a machine that does other things too


def test_a_plan_takes_no_step_and_leaves_nothing(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.training import loop

    monkeypatch.setattr(loop, "_train_step", lambda *_: pytest.fail("a step was taken"))
    own = config(models, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = dry_run.predict(own)
    assert found.seconds is not None and found.fits is True
    assert sorted(tmp_path.rglob("*")) == before


def test_features_are_not_computed_for_a_plan(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.cache import store

    made: list[str] = []
    real = store.folder

    def watched(kind: str, key: str, make: Any) -> Path:
        made.append(kind)
        return real(kind, key, make)

    monkeypatch.setattr(store, "folder", watched)
    found = dry_run.predict(config(models, tmp_path, technique="feature-based", count=100, seed=11))
    assert "features" not in made
    assert found.memory is not None and found.memory["cache"] > 0 and found.seconds is not None


def test_what_is_refused_says_why(models: Path, tmp_path: Path) -> None:
    own = config(models, tmp_path, kind="gpt2", task="language-modeling", **{"feature-based": {"pooling": "mean"}})
    found = {each["technique"]: each for each in dry_run.predict_all(own, ["feature-based", "lora"])}
    assert found["feature-based"]["status"] == "refused" and "pooling" in found["feature-based"]["reason"]
    assert found["lora"]["status"] == "planned" and found["lora"]["reason"] is None
    with pytest.raises(UserError):
        dry_run.predict_all(build(RunConfig, {"model": str(tmp_path / "nothing"), "train": own.train}), ["lora"])


def test_of_a_strategy_that_works_in_every_step_nothing_is_claimed(models: Path, tmp_path: Path) -> None:
    own = config(models, tmp_path)
    stages = [{"name": name, "train": own.train} for name in ("one", "two")]
    stream = build(
        RunConfig, {"model": own.model, "stream": {"stages": stages}, "strategy": "si", "max_steps": 3, "device": "cpu", "doctor": False}
    )  # fmt: skip
    found = dry_run.predict(stream)
    assert found.seconds is None and "si" in found.unknown["seconds"] and found.memory_bytes is None
    plain = dry_run.predict(stream.model_copy(update={"strategy": "none"}))
    assert plain.seconds is not None and plain.unknown == {}
    pulled = {first: dry_run.predict(build(RunConfig, {**stream.model_dump(exclude={"strategy", "options"}), "strategy": "l2-sp", "l2-sp": {"first_stage": first}}))
              for first in (False, True)}  # fmt: skip
    assert pulled[False].unknown == {} and "l2-sp" in pulled[True].unknown["seconds"]


def test_a_failure_of_ours_is_not_the_users(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith import processes

    for code, is_theirs in ((2, True), (1, False)):
        error = processes.ChildError("it ended", code)

        def fail(*_: Any, error: processes.ChildError = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(processes, "call", fail)
        with pytest.raises(TunesmithError) as raised:
            dry_run.predict_all(config(models, tmp_path), ["lora"])
        assert isinstance(raised.value, UserError) is is_theirs and raised.value.exit_code == code


def test_from_python_as_train_takes_it(models: Path, tmp_path: Path) -> None:
    """Rows as objects, of a stream and of what is retained, too; `tunesmith.plan` stays a function when its modules are imported."""
    import tunesmith
    from tunesmith.plan import prediction as _  # noqa: F401

    rows = rows_for("text-classification", 24)
    model = str(tiny_model("bert", models / "bert"))
    given: dict[str, Any] = {"techniques": ["lora"], "batch_size": 8, "doctor": False, "device": "cpu"}
    (one,) = tunesmith.plan(model, train=rows, retain=[{"text": "what was known"}], **given)
    assert one["status"] == "planned" and one["rows"] > 0 and one["architecture"] == "encoder"
    assert one["num_labels"] == 2
    stages = [{"name": name, "task": "text-classification", "train": rows} for name in ("first", "second")]
    (two,) = tunesmith.plan(model, stream={"stages": stages}, **given)
    assert two["status"] == "planned" and two["steps"] == one["steps"]


@pytest.mark.parametrize(
    ("other", "head", "labels"),
    [("token-classification", "own", 3), ("text-classification", "shared", 2), ("text-classification", "own", 4)],
)
def test_labels_of_tasks_that_learn_together(other: str, head: str, labels: int, models: Path) -> None:
    """A head that two tasks share counts once, and one without labels of rows as one answer."""
    import tunesmith

    tasks = [
        {"name": name, "task": task, "train": rows_for(task, 24), **({"head": head} if name == "second" else {})}
        for name, task in (("first", "text-classification"), ("second", other))
    ]
    given: dict[str, Any] = {"techniques": ["lora"], "batch_size": 8, "doctor": False, "device": "cpu"}
    stream = {"stages": [{"name": "both", "tasks": tasks}]}
    (found,) = tunesmith.plan(str(tiny_model("bert", models / "bert")), stream=stream, **given)
    assert found["num_labels"] == labels


def test_advice_on_a_stream_is_for_its_tasks(models: Path, tmp_path: Path) -> None:
    """A strategy that cannot keep a task is not proposed, and the case is the stage's own task."""
    import tunesmith

    given: dict[str, Any] = {"techniques": ["lora"], "batch_size": 8, "doctor": False, "device": "cpu"}
    found = {}
    for kind, task in (("bert", "text-classification"), ("t5", "summarization")):
        stages = [{"name": name, "task": task, "train": rows_for(task, 24)} for name in ("first", "second")]
        found[kind] = tunesmith.advise(str(tiny_model(kind, models / kind)), stream={"stages": stages}, **given)
        assert found[kind]["case"]["task"] == task
        assert found[kind]["case"]["num_labels"] == (2 if kind == "bert" else 1)
    named = {kind: [each["strategy"] for each in advice["strategies"]] for kind, advice in found.items()}
    assert "progressive" in named["bert"] and "progressive" not in named["t5"]
    assert "ewc" in named["t5"]


def test_an_error_without_words_is_no_crash(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.plan import forecast

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(forecast, "pace", fail)
    assert "MemoryError" in dry_run.predict(config(models, tmp_path)).unknown["seconds"]
