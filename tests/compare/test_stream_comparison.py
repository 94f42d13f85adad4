"""Comparing strategies on a stream: which runs there are, rows and differences, kills, refusals, and a real small one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_stream import STAGES, stream_comparison

import tunesmith
from tunesmith import config as configuration
from tunesmith import processes, registry
from tunesmith.compare import streams
from tunesmith.compare.planning import default_baselines, default_strategies, default_techniques, plan
from tunesmith.config import CompareConfig
from tunesmith.stream import Stage
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows
from tunesmith.training import loop

FLIPPED = [{**row, "label": "negative" if row["label"] == "positive" else "positive"} for row in toy_rows(32)]
TWO = [
    {"name": "films", "train": toy_rows(32), "eval": toy_rows(12)},
    {"name": "flipped", "train": FLIPPED, "eval": FLIPPED[:12]},
]
SETTINGS: dict[str, Any] = {
    "techniques": ["lora"],
    "max_steps": 4,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "device": "cpu",
    "doctor": False,
}


def settings(stages: list[dict[str, Any]], **more: Any) -> CompareConfig:
    model = more.pop("model", "asset:bert-tiny")
    return configuration.build(CompareConfig, {"model": model, "stream": {"stages": stages}, **more})


def by_name(results: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["kind"], row.get("strategy") or row.get("task") or row["technique"]): row for row in results["rows"]}


# ---- which runs there are

NAMED = [{"name": name, "train": f"{name}.csv"} for name in ("films", "posts")]


def test_every_strategy_with_every_technique_and_seed() -> None:
    config = settings(NAMED, techniques=["lora", "full"], strategies=["none", "si"], seeds=[0, 1], baselines=[])
    found = {(each.name, each.strategy, each.run.seed): each.run for each in plan(config, Path("out"))}
    assert len(found) == 8 and ("full", "si", 1) in found
    run = found["lora", "si", 1]
    assert (run.output, run.strategy, run.seed) == ("out/runs/lora+si/1", "si", 1)
    assert set(run.options) == {"lora", "supervised", "synaptic-intelligence", "text-classification"}
    assert run.training.evaluations is None  # the matrix is the curve


def test_each_task_alone_sees_as_many_rows_as_in_its_stage() -> None:
    tasks = [{"name": "few", "train": "a.csv"}, {"name": "many", "train": "b.csv"}]
    rows = {"few": 100, "many": 300}

    def budgets(**stage: Any) -> dict[str, tuple[Any, Any]]:
        given = {key: stage.pop(key) for key in ("epochs", "max_steps") if key in stage}
        config = settings(
            [{"name": "both", "tasks": tasks, **stage}],
            techniques=["lora"],
            strategies=["none"],
            seeds=[0],
            baselines=[],
            **given,
        )
        alone = [each for each in plan(config, Path("out"), rows) if each.kind == "alone"]
        assert [each.run.output for each in alone] == ["out/runs/lora+alone/few/0", "out/runs/lora+alone/many/0"]
        assert all(each.run.stream is None for each in alone)
        return {str(each.task): (each.run.epochs, each.run.max_steps) for each in alone}

    assert budgets(epochs=2, mixing="proportional") == {
        "few": (2.0, None),
        "many": (2.0, None),
    }  # by their rows: as often as in the stage
    shares = [100**0.5 / (100**0.5 + 300**0.5), 300**0.5 / (100**0.5 + 300**0.5)]
    found = budgets(epochs=2, mixing="temperature", temperature=2)
    assert [found[name][0] for name in rows] == [
        pytest.approx(2 * s * 400 / n, abs=1e-6) for s, n in zip(shares, rows.values(), strict=True)
    ]
    assert budgets(epochs=2, mixing="equal") == {"few": (4.0, None), "many": (1.333333, None)}
    assert budgets(max_steps=40, mixing="proportional") == {"few": (None, 10), "many": (None, 30)}
    config = settings([{"name": "both", "tasks": tasks}], alone=False, strategies=["none"], baselines=[])
    config.techniques = ["lora"]
    assert {each.kind for each in plan(config, Path("out"), rows)} == {"technique"}


def test_defaults(models: Path) -> None:
    """Strategies that can keep the tasks, `none` first and `joint` last; one stage has nothing to keep."""
    bert, llama, t5 = (str(tiny_model(kind, models / kind)) for kind in ("bert", "llama", "t5"))
    reading = settings(NAMED, model=bert)
    assert default_techniques(reading) == ["lora"] and default_baselines(reading) == ["majority"]
    plain = configuration.build(CompareConfig, {"model": "m", "train": "a.csv"})
    assert {"lora", "full"} <= set(default_techniques(plain)) and "qlora" not in default_techniques(plain)
    found = default_strategies(reading)
    assert (found[0], found[-1], len(found)) == ("none", "joint", 9)
    assert default_strategies(settings(NAMED[:1], model=bert)) == ["none"]
    asking = [*NAMED, {"name": "answers", "task": "question-answering", "train": "c.jsonl"}]
    assert set(found) - set(default_strategies(settings(asking, model=bert))) == {"generative-replay"}
    writing = [{"name": name, "task": "instruction", "train": f"{name}.jsonl"} for name in "ab"]
    assert set(found) - set(default_strategies(settings(writing, model=llama))) == {"progressive"}
    assert set(found) - set(default_strategies(settings(writing, model=t5))) == {"progressive", "generative-replay"}
    assert default_baselines(settings(writing, model=llama)) == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"strategies": ["ewc"], "train": "a.csv"}, "strategies: needs a stream"),
        ({"alone": True, "train": "a.csv"}, "alone: needs a stream"),
        ({"strategy": "ewc", "stream": {"stages": NAMED}}, "takes `strategies`, a list"),
        ({"strategies": ["ewk"], "stream": {"stages": NAMED}}, "did you mean `ewc`"),
        ({"strategies": ["ewc", "ewc"], "stream": {"stages": NAMED}}, "named twice"),
        ({"train": "a.csv", "stream": {"stages": NAMED}}, "together with stream"),
    ],
)
def test_wrong_settings(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(tunesmith.UserError, match=sentence):
        configuration.build(CompareConfig, {"model": "asset:bert-tiny", **given})


def test_rows_of_every_stage_are_looked_at_first(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "call", lambda *_: pytest.fail("a run was begun"))
    wrong = {**TWO[1], "eval": [{"text": "grand", "label": "purple"}]}
    with pytest.raises(tunesmith.UserError, match="purple"):
        tunesmith.compare(
            str(tiny_model("bert", models / "bert")), stream={"stages": [TWO[0], wrong]}, output=tmp_path, **SETTINGS
        )


def test_joint_has_the_steps_of_all_stages(tmp_path: Path, models: Path) -> None:
    """`--max-steps` is of each stage, so one stage made of both takes twice as many."""
    given = {key: value for key, value in SETTINGS.items() if key != "techniques"} | {"max_steps": 2}
    for strategy in ("none", "joint"):
        found = tunesmith.train(
            str(tiny_model("bert", models / "bert")),
            stream={"stages": TWO},
            strategy=strategy,
            output=tmp_path / strategy,
            **given,
        )
        assert found.result["training"]["steps"] == 4


def test_joint_sees_every_row_as_often_as_the_stream_does() -> None:
    """A stage of 100 rows for 8 epochs has as many steps in the mixture as it has alone, and tasks within a stage their share of it."""
    tasks = [{"name": "b", "train": "b.csv"}, {"name": "c", "train": "c.csv"}]
    stages = [
        Stage.model_validate({"name": "a", "tasks": [{"name": "a", "train": "a.csv"}], "epochs": 8}),
        Stage.model_validate({"name": "both", "tasks": tasks, "mixing": "equal"}),
        Stage.model_validate({"name": "d", "tasks": [{"name": "d", "train": "d.csv"}], "max_steps": 7}),
    ]
    strategy = registry.load("strategy", "joint")(None)
    (joint,) = strategy.plan_stream(stages)
    assert [task.name for task in joint.tasks] == ["a", "b", "c", "d"]
    assert strategy.steps_by_task({"a": 100, "b": 300, "c": 20, "d": 1000}, 2.0, 10) == {
        "a": 80,
        "b": 32,
        "c": 32,
        "d": 7,
    }


# ---- what the seeds say


def fake(
    strategy: str, seed: int, score: float, lost: float, *, kind: str = "technique", task: str | None = None
) -> dict[str, Any]:
    run = {
        "technique": "lora",
        "strategy": strategy,
        "model": "m",
        "kind": kind,
        "seed": seed,
        "status": "finished",
        "reason": None,
    }
    after = {"mean_score": score, "a/f1": score - 0.1, "b/loss": 1 - score, "loss": 1.0}
    stream = {
        "stages": ["a", "b"], "matrix": [[0.8, None], [0.8 - lost, score]], "untouched": [0.5, None], "average_accuracy": score,
        "backward_transfer": -lost, "forward_transfer": None, "forgetting": lost, "forgetting_per_stage": [lost],
        "higher_is_better": [True, False], "strategy_parameters": 10, "strategy_bytes": {"memory": 40, "disk": 44},
        "tasks": {"a": {"primary": "f1", "higher_is_better": True}, "b": {"primary": "loss", "higher_is_better": False}},
    }  # fmt: skip
    if task:
        return {
            **run,
            "strategy": None,
            "task": task,
            "metrics": {
                "after": {"f1": score, "loss": score, "mean_score": 9.0},
                "primary": {"a": "f1", "b": "loss"}[task],
            },
        }
    return {**run, "metrics": {"after": after, "primary": "mean_score"}, "cost": {}, "stream": stream}


def test_differences_are_paired_and_ties_are_named() -> None:
    """Against `none` over the same seeds by hand: t(0.975, 2) = 4.302653."""
    from tunesmith.compare.statistics import aggregate

    scores = {
        "none": [0.50, 0.60, 0.70],
        "ewc": [0.55, 0.66, 0.74],
        "si": [0.50, 0.70, 0.69],
        "joint": [0.70, 0.80, 0.90],
    }
    runs = [
        fake(name, seed, value, 0.1 * value) for name, values in scores.items() for seed, value in enumerate(values)
    ]
    runs += [fake("", seed, 0.7, 0, kind="alone", task="a") for seed in range(3)]
    runs += [fake("", seed, 0.2 + 0.1 * seed, 0, kind="alone", task="b") for seed in range(3)]
    rows = {
        row["strategy"] or row["task"]: row
        for row in streams.complete(aggregate(runs, {"primary": "mean_score"}), runs)
    }
    gain = rows["ewc"]["against_none"]["average_accuracy"]
    half = 4.302653 * 0.01 / 3**0.5
    assert (gain["mean"], gain["low"], gain["tie"]) == (
        pytest.approx(0.05),
        pytest.approx(0.05 - half, abs=1e-6),
        False,
    )
    assert rows["si"]["against_none"]["average_accuracy"]["tie"] is True
    assert rows["ewc"]["against_none"]["forgetting"]["mean"] == pytest.approx(-0.005)  # it lost more: worse
    assert rows["none"]["against_none"] is None
    assert rows["ewc"]["recovered"] == pytest.approx(0.25) and rows["joint"]["recovered"] == pytest.approx(1.0)
    assert rows["none"]["stream"]["matrix"] == [[pytest.approx(0.8), None], [pytest.approx(0.74), pytest.approx(0.6)]]
    assert rows["none"]["stream"]["strategy_bytes"] == {"memory": 40, "disk": 44}
    alone = rows["none"]["against_alone"]
    assert (
        alone["a"]["values"] == pytest.approx([-0.3, -0.2, -0.1]) and alone["a"]["negative"] is False
    )  # the interval holds 0
    assert alone["b"]["values"] == pytest.approx([-0.3, -0.1, 0.1])  # a loss: less is better
    assert rows["ewc"]["against_alone"]["a"]["mean"] == pytest.approx(-0.15)
    assert rows["a"]["primary"]["mean"] == pytest.approx(0.7) and list(rows)[-2:] == ["a", "b"]


def test_negative_transfer_is_flagged() -> None:
    found = by_name(stream_comparison())
    lost = found["technique", "none"]["against_alone"]["movie-reviews"]
    assert lost["high"] < 0 and lost["negative"]
    assert not found["technique", "joint"]["against_alone"]["movie-reviews"]["negative"]


def test_one_seed_has_no_interval_and_no_tie() -> None:
    row = next(row for row in stream_comparison(1)["rows"] if row.get("strategy") == "ewc")
    assert row["against_none"]["average_accuracy"]["tie"] is None
    assert row["against_alone"]["tweets"]["negative"] is False


def test_nothing_is_recovered_where_joint_is_not_above() -> None:
    assert streams.recovered(0.6, 0.5, 0.5) is None and streams.recovered(0.6, 0.5, None) is None
    assert streams.recovered(0.4, 0.5, 0.7) == pytest.approx(-0.5)


# ---- a real small one


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("streams")
    model = str(tiny_model("bert", tmp_path_factory.mktemp("bert")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        words = {
            "name": "words",
            "task": "token-classification",
            "train": rows_for("token-classification", 24),
            "eval": rows_for("token-classification", 8),
        }
        return tunesmith.compare(
            model, stream={"stages": [TWO[0], words]}, strategies=["none", "er"], seeds=[0], alone=True,
            output=folder, **SETTINGS,
        )  # fmt: skip


def test_rows_of_a_stream(done: Any) -> None:
    rows = by_name(done.results)
    assert set(rows) == {
        ("baseline", "majority"), ("alone", "films"), ("alone", "words"),
        ("technique", "none"), ("technique", "experience-replay"),
    }  # fmt: skip
    none, memory = rows["technique", "none"], rows["technique", "experience-replay"]
    assert none["technique"] == "lora" and none["stream"]["stages"] == ["films", "words"]
    assert none["stream"]["strategy_bytes"] == {"memory": 0, "disk": 0}
    assert memory["stream"]["strategy_bytes"]["memory"] > 1000 < memory["stream"]["strategy_bytes"]["disk"]
    assert memory["against_none"]["average_accuracy"]["n"] == 1
    assert set(none["against_alone"]) == {"films", "words"}
    ours = {run["seed"]: run["metrics"]["after"] for run in done.results["runs"] if run.get("strategy") == "none"}
    alone = next(run for run in done.results["runs"] if run.get("task") == "films")
    assert none["against_alone"]["films"]["mean"] == pytest.approx(
        ours[0]["films/accuracy"] - alone["metrics"]["after"]["accuracy"]
    )
    majority = rows["baseline", "majority"]
    assert majority["stream"]["matrix"][0][0] == 0.5 and majority["stream"].get("forgetting") is None
    assert json.loads((done.folder / "results.json").read_text()) == done.results
    assert 'id="the-heat"' in done.report.read_text(encoding="utf-8")


def test_nothing_is_repeated(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.compare import runner

    monkeypatch.setattr(processes, "call", lambda *_: pytest.fail("a run was repeated"))
    config = configuration.build(CompareConfig, configuration.read_file(done.folder / "comparison.yaml"))
    again = runner.execute(config)
    assert (
        by_name(again.results)["technique", "none"]["metrics"] == by_name(done.results)["technique", "none"]["metrics"]
    )


def test_a_stream_that_was_killed_goes_on(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its finished stages stay as they are, and the result is that of a stream that was not killed."""
    model = str(tiny_model("bert", models / "bert"))
    steps, real = 0, loop._train_step

    def inside(target: str, payload: dict[str, Any]) -> dict[str, Any]:
        try:
            return processes._run(target, payload)["result"]
        except KeyError as error:
            raise processes.ChildError("the process ended without an answer (killed, or out of memory).", 1) from error

    def dying(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4 + 2:
            raise MemoryError("killed")
        return real(*args)

    def go(place: str) -> Any:
        return tunesmith.compare(
            model, stream={"stages": TWO}, strategies=["ewc"], baselines=[], seeds=[0], output=tmp_path / place, **SETTINGS,
        ).results["runs"][0]  # fmt: skip

    monkeypatch.setattr(processes, "call", inside)
    whole = go("whole")
    monkeypatch.setattr(loop, "_train_step", dying)
    cut = go("kills")
    assert cut["status"] == "failed" and "killed" in cut["reason"]
    scores = tmp_path / "kills" / "runs" / "lora+ewc" / "0" / "stages" / "00-films" / "scores.json"
    stamp = scores.stat().st_mtime_ns
    monkeypatch.setattr(loop, "_train_step", real)
    resumed = go("kills")
    assert resumed["status"] == "finished" and resumed["stream"] == whole["stream"]
    assert scores.stat().st_mtime_ns == stamp, "the first stage was not learned again"


def test_stages_of_the_fake_are_those_of_the_benchmark() -> None:
    import yaml

    path = Path(__file__).parents[2] / "benchmarks" / "streams" / "domains.yaml"
    assert [stage["name"] for stage in yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]] == STAGES
