"""A comparison end to end on a tiny model: rows, resumption, failures as rows, fairness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith import config as configuration
from tunesmith.compare.planning import plan
from tunesmith.compare.runner import rates_in_words
from tunesmith.config import CompareConfig
from tunesmith.errors import ConfigError, UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

SETTINGS: dict[str, Any] = {"max_steps": 4, "batch_size": 8, "seeds": [0, 1]}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("comparison")
    model = str(tiny_model("llama", tmp_path_factory.mktemp("llama")))
    with pytest.MonkeyPatch.context() as patch:  # `own_cache` is for single tests; this fixture is older than they are
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return tunesmith.compare(
            model,
            train=toy_rows(48),
            eval=toy_rows(16),
            techniques=["full", "lora", "bitfit"],
            output=folder,
            **SETTINGS,
        )


def by_name(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["technique"]: row for row in results["rows"]}


def test_every_row_is_there(done: Any) -> None:
    rows = by_name(done.results)
    assert set(rows) == {
        "full",
        "lora",
        "bitfit",
        "majority",
        "tfidf",
        "linear-probe",
        "few-shot",
        "zero-shot",
        "untouched",
    }
    assert rows["lora"]["n"] == 2 and rows["lora"]["metrics"]["accuracy"]["n"] == 2
    assert rows["lora"]["peak_memory_bytes"] > 1e8
    assert rows["lora"]["trainable_parameters"] < rows["full"]["trainable_parameters"]
    assert done.report.read_text(encoding="utf-8").startswith("<!")
    assert json.loads((done.folder / "results.json").read_text()) == done.results


def test_a_technique_that_refuses_is_a_row_with_its_reason(done: Any) -> None:
    """Llama has no biases: bitfit says so, and the comparison goes on."""
    row = by_name(done.results)["bitfit"]
    assert row["status"] == "refused"
    assert "bias" in row["reason"]
    asked = by_name(done.results)["zero-shot"]  # the tiny model has no language-model head
    assert (asked["status"], "cannot be asked" in asked["reason"]) == ("refused", True)


def test_baselines_are_what_they_say(done: Any) -> None:
    rows = by_name(done.results)
    assert rows["majority"]["metrics"]["accuracy"]["mean"] == 0.5  # the toy rows are balanced
    assert rows["tfidf"]["metrics"]["accuracy"]["mean"] == 1.0  # one word decides


def test_runs_differ_in_technique_and_seed_alone(done: Any) -> None:
    import yaml

    configs = {
        (name, seed): yaml.safe_load((done.folder / "runs" / name / str(seed) / "config.yaml").read_text())
        for name in ("full", "lora")
        for seed in (0, 1)
    }
    shared = [
        {k: v for k, v in c.items() if k not in ("technique", "seed", "output", "full", "lora")}
        for c in configs.values()
    ]
    assert all(c == shared[0] for c in shared)
    shas = {
        json.dumps(r["provenance"]["data_sha256"], sort_keys=True) for r in done.results["runs"] if r.get("provenance")
    }
    assert len({json.loads(s)["train"] for s in shas}) == 1


def test_a_curve_begins_before_the_first_step_and_ends_with_what_was_saved(done: Any) -> None:
    """Four steps of 8 rows and 16 eval rows: three evaluations take half of the training's time, and the last of them gives way to the result's."""
    runs = [each for each in done.results["runs"] if each["kind"] == "technique" and each["status"] == "finished"]
    assert len(runs) == 4
    for run in runs:
        points = {point["step"]: point["eval"] for point in run["curve"] if point["eval"]}
        assert list(points) == [0, 2, 4]
        assert (points[0], points[4]) == (run["metrics"]["before"], run["metrics"]["after"])
        assert points[0]["loss"] != points[2]["loss"] != points[4]["loss"]


def test_finished_runs_are_not_repeated(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith import config as configuration
    from tunesmith import processes
    from tunesmith.compare import runner
    from tunesmith.config import CompareConfig

    called = []
    real = processes.call

    def counting(target: str, payload: dict[str, Any]) -> dict[str, Any]:
        called.append(payload["baseline"])
        return real(target, payload)

    monkeypatch.setattr(processes, "call", counting)
    config = configuration.build(CompareConfig, configuration.read_file(done.folder / "comparison.yaml"))
    again = runner.execute(config)
    assert called == ["few-shot", "zero-shot", "bitfit", "bitfit"]  # only what had no result
    assert by_name(again.results)["lora"]["metrics"] == by_name(done.results)["lora"]["metrics"]
    config.batch_size = 4  # another configuration: nothing there counts
    config.seeds = [0]
    called.clear()
    with pytest.raises(tunesmith.UserError, match="other settings"):
        runner.execute(config)
    assert called == []  # nothing finished is replaced unasked
    runner.execute(config, overwrite=True)
    assert sorted(called) == ["bitfit", "few-shot", "full", "linear-probe", "lora", "majority", "tfidf", "zero-shot"]


def test_a_run_that_dies_is_a_row(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith import processes

    def dying(target: str, payload: dict[str, Any]) -> dict[str, Any]:
        raise processes.ChildError("the process ended without an answer (killed, or out of memory).", 1)

    monkeypatch.setattr(processes, "call", dying)
    result = tunesmith.compare(
        str(tiny_model("bert", models / "bert")), train=toy_rows(16), eval=toy_rows(8), techniques=["lora"], baselines=[], seeds=[0],
        output=tmp_path / "c",
    )  # fmt: skip
    assert [r["status"] for r in result.results["rows"]] == ["failed"]
    assert "out of memory" in result.results["rows"][0]["reason"]
    assert result.report.is_file()


def test_killed_child_is_reported() -> None:
    """A child that is killed answers nothing; the parent says so and lives on."""
    from tunesmith import processes

    with pytest.raises(processes.ChildError, match="without an answer"):
        processes.call("os:_exit", 9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("baseline", "option", "value"),
    [("tfidf", "strength", 0.01), ("tfidf", "longest", 1), ("linear-probe", "strength", 0.01)],
)
def test_each_baseline_option_changes_the_result(
    baseline: str, option: str, value: Any, models: Path, tmp_path: Path
) -> None:
    found = []
    for name, options in (("a", {}), ("b", {baseline: {option: value}})):
        done = tunesmith.compare(
            str(tiny_model("bert", models / "bert")), train=toy_rows(32), eval=toy_rows(12), techniques=["feature-based"], seeds=[0],
            baselines=[baseline], max_steps=1, output=tmp_path / name, **options,
        )  # fmt: skip
        found.append(by_name(done.results)[baseline]["metrics"]["loss"]["mean"])
    assert found[0] != found[1]


def test_kinds_of_problems(models: Path, tmp_path: Path) -> None:
    """Regression and label sets through the same comparison, baselines included."""
    model = str(tiny_model("bert", models / "bert"))
    rows = toy_rows(32)
    numbers = [
        {"text": r["text"], "label": (1.5 if r["label"] == "positive" else -1.25) + i / 100} for i, r in enumerate(rows)
    ]
    many = [{"text": r["text"], "label": [r["label"], *(["slow"] if "slow" in r["text"] else [])]} for r in rows]
    for name, data, primary in (("numbers", numbers, "pearson"), ("many", many, "f1_macro")):
        found = tunesmith.compare(
            model,
            train=data,
            eval=data[:12],
            techniques=["full"],
            seeds=[0],
            output=tmp_path / name,
            max_steps=6,
            learning_rate=1e-3,
        )
        rows_ = by_name(found.results)
        assert found.results["protocol"]["primary"] == primary
        assert {"full", "majority", "tfidf", "linear-probe"} <= set(rows_)
        assert rows_["tfidf"]["metrics"][primary]["mean"] > 0.9


def test_a_technique_may_have_a_rate_of_its_own(tmp_path: Path) -> None:
    """Before the one for all, which comes before its default; a technique that does not take part is refused."""
    given = {"model": "m", "train": "a.csv", "techniques": ["full", "prompt-tuning", "lora"], "seeds": [0]}
    rates = {"prompt-tuning": 0.3, "full": 1e-4}
    config = configuration.build(
        CompareConfig, {**given, "learning_rate": 0.2, "learning_rates": rates, "baselines": []}
    )
    found = {each.name: each.run.learning_rate for each in plan(config, tmp_path)}
    assert found == {"full": 1e-4, "prompt-tuning": 0.3, "lora": 0.2}
    assert rates_in_words(config) == "the same for all, given; given for prompt-tuning 0.3, full 0.0001"
    with pytest.raises(ConfigError, match="did you mean `lora`"):
        configuration.build(CompareConfig, {**given, "learning_rates": {"lore": 0.1}})


def test_what_is_retained_belongs_to_a_run(models: Path, tmp_path: Path) -> None:
    """Runs that keep other rows are not of one row of the table, wherever those rows lie."""
    kept = [[{"text": f"{word} {number}"} for number in range(4)] for word in ("one", "two")]
    given: dict[str, Any] = {
        "train": toy_rows(16), "eval": toy_rows(4), "techniques": ["bitfit"], "baselines": [], "max_steps": 1, "batch_size": 4, "output": tmp_path / "c",
    }  # fmt: skip
    model = str(tiny_model("bert", models / "bert"))
    first = tunesmith.compare(model, seeds=[0], retain=kept[0], **given)
    same = tunesmith.compare(model, seeds=[0], retain=kept[0], **given)
    runs = [next(run for run in each.results["runs"] if run["technique"] == "bitfit") for each in (first, same)]
    assert runs[0]["forgetting"] == runs[1]["forgetting"]
    with pytest.raises(UserError, match=r"other settings|other rows"):
        tunesmith.compare(model, seeds=[0, 1], retain=kept[1], **given)


def test_options_of_what_is_retained_reach_the_runs(tmp_path: Path) -> None:
    given = {
        "model": "m",
        "train": "a.csv",
        "techniques": ["lora"],
        "baselines": [],
        "seeds": [0],
        "output": str(tmp_path),
    }
    asked = {"retain": {"data": "q.jsonl", "task": "token-classification"}, "token-classification": {"scheme": "plain"}}
    (planned,) = plan(configuration.build(CompareConfig, {**given, **asked}), tmp_path)
    assert planned.run.options["token-classification"]["scheme"] == "plain"
    (without,) = plan(configuration.build(CompareConfig, {**given, **asked, "retain": None}), tmp_path)
    assert "token-classification" not in without.run.options


def test_where_a_studied_rate_comes_from() -> None:
    given = {"model": "m", "train": "a.csv", "techniques": ["lora"], "grid": {"learning_rate": [1e-3, 1e-4]}}
    assert rates_in_words(configuration.build(CompareConfig, given)).startswith("studied")
