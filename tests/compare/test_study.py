"""Studies: which runs a grid makes, the knee against a case worked by hand, what is refused, what is shown."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tunesmith
from tunesmith import config as configuration
from tunesmith.compare import examples, study
from tunesmith.compare.judging import Answers, Scene
from tunesmith.compare.planning import plan
from tunesmith.compare.report import render
from tunesmith.compare.report.study_figure import study_figures
from tunesmith.compare.statistics import aggregate
from tunesmith.compare.study_table import sentence, study_tables
from tunesmith.config import CompareConfig
from tunesmith.errors import ConfigError, UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

GIVEN: dict[str, Any] = {"model": "m", "train": "a.csv", "seeds": [0], "baselines": []}


def built(**more: Any) -> CompareConfig:
    config = configuration.build(CompareConfig, {**GIVEN, **more})
    config.techniques = config.techniques or study.techniques_of_grid(config)
    return config


def entries(curve: dict[Any, list[float]], parameters: dict[Any, int] | None = None) -> list[dict[str, Any]]:
    """Points as `studies` makes them, from the scores of every seed."""
    runs = [
        {
            "technique": "lora", "model": "m", "kind": "technique", "seed": seed, "status": "finished", "setting": str(value),
            "metrics": {"after": {"accuracy": score}, "primary": "accuracy"},
            "cost": {"trainable_parameters": (parameters or {}).get(value, 10), "train_seconds": 2.0, "peak_memory_bytes": 5},
        }
        for value, scores in curve.items() for seed, score in enumerate(scores)
    ]  # fmt: skip
    rows = {row["setting"]: row for row in aggregate(runs, {"primary": "accuracy"})}
    return [study.point_of(value, rows[str(value)]) for value in curve]


def test_the_knee_is_the_cheapest_within_one_standard_error() -> None:
    """Best: mean 0.80; s = 0.02 on the average of variances, n = 4, so its standard error is 0.01: 0.793 is within it, 0.78 is not."""
    around = [0.02 * x for x in (-1.5, 0.5, 0.5, 0.5)]  # mean 0, sum of squares 3 x 0.02^2, s = 0.02
    means = {1: 0.78, 2: 0.793, 4: 0.80, 8: 0.795}
    curve = {value: [mean + each for each in around] for value, mean in means.items()}
    sizes = {1: 100, 2: 200, 4: 400, 8: 800}
    found = study.knee("lora.rank", entries(curve, sizes), True)
    assert found[0] == 4 and found[1] == pytest.approx(0.01) and found[2] == 2 and found[3] is None
    upside_down = {value: [1 - score for score in scores] for value, scores in curve.items()}
    assert study.knee("lora.rank", entries(upside_down, sizes), False)[2] == 2  # a loss
    # Of an adapter's reduction the largest value has the fewest parameters.
    assert study.knee("adapter.reduction", entries(curve, {1: 800, 2: 400, 4: 200, 8: 100}), True)[2] == 8
    # Seeds of the best value that happen to agree do not rule the others out: (0 + 3 x 0.02^2) / 4.
    lucky = study.knee("lora.rank", entries({**curve, 4: [0.80] * 4}, sizes), True)
    assert lucky[1] == pytest.approx(math.sqrt(3 / 4) * 0.01) and lucky[2] == 2


def test_no_knee_where_there_is_none() -> None:
    assert study.knee("lora.rank", entries({1: [0.5], 2: [0.6]}, {1: 1, 2: 2}), True)[2] is None  # one seed
    three = {1e-4: [0.5, 0.5, 0.51], 1e-3: [0.5, 0.5, 0.52]}
    assert study.knee("learning_rate", entries(three), True)[2:] == (None, "no value costs less than another")
    assert study.knee("max_train_rows", entries({100: [0.5, 0.6, 0.5], 200: [0.5, 0.6, 0.51]}), True)[2] == 100


def test_which_runs_a_grid_makes(tmp_path: Path) -> None:
    config = built(grid={"lora.rank": [1, 4], "max_train_rows": [8, 16]}, techniques=["lora", "full"])
    planned = list(plan(config, tmp_path))
    places = [str(Path(str(each.run.output)).relative_to(tmp_path)) for each in planned]
    assert places == [
        *(f"runs/lora@{rank},{rows}/0" for rank in (1, 4) for rows in (8, 16)), "runs/full@8/0", "runs/full@16/0",
    ]  # fmt: skip
    assert [each.run.options.get("lora", {}).get("rank") for each in planned] == [1, 1, 4, 4, None, None]
    assert [each.run.max_train_rows for each in planned] == [8, 16, 8, 16, 8, 16]
    one = built(grid={"prompt-tuning.length": [2, 6]})
    assert [each.name for each in plan(one, tmp_path)] == ["prompt-tuning"] * 2  # whose key it is
    beside = built(grid={"lora.rank": [1, 4]}, techniques=["full", "lora"])
    assert [each.run.output.split("/")[-2] for each in plan(beside, tmp_path)] == ["full", "lora@1", "lora@4"]
    rates = built(grid={"learning_rate": [1e-3, 1e-4]}, techniques=["lora"], learning_rates={"lora": 0.5})
    assert [each.run.learning_rate for each in plan(rates, tmp_path)] == [1e-3, 1e-4]
    steps = built(grid={"max_steps": [2, 4]}, techniques=["lora"], epochs=1)
    assert [(each.run.max_steps, each.run.epochs) for each in plan(steps, tmp_path)] == [(2, None), (4, None)]


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({"lora.rnk": [1, 2]}, "did you mean `rank`"),
        ({"lora.rank": [1, 0]}, "greater than or equal to 1"),
        ({"seed": [1, 2]}, "cannot be studied"),
        ({"jobs": [1, 2]}, "cannot be studied"),
        ({"max_eval_rows": [1, 2]}, "cannot be studied"),
        ({"lora.rank": [4]}, "at least two values"),
        ({"lora.rank": [4, 4]}, "each of them once"),
        ({"adapter.reduction": [2, 4]}, "add it to techniques"),
        ({"tfidf.strength": [1, 2]}, "changes nothing here"),
        ({"ewc.strength": [1, 2]}, "changes nothing here"),
        ({"distillation.temperature": [1, 2]}, "changes nothing here"),
        ({"question-answering.stride": [8, 16]}, "changes nothing here"),
        ({"max_train_rows": [10, None]}, "takes no null"),
        ({"epochs": [1, 2], "max_steps": [1, 2]}, "two ways to say the same"),
    ],
)
def test_what_is_refused(grid: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        study.check(built(grid=grid, techniques=["lora"]))


def test_a_rate_is_studied_or_searched() -> None:
    own = {"grid": {"learning_rate": [1e-3, 1e-4]}, "techniques": ["lora"]}
    study.check(built(**own))
    with pytest.raises(ConfigError, match="leave one of them out"):
        study.check(built(**own, search="halving"))
    study.check(
        built(grid={"distillation.temperature": [1, 2]}, techniques=["lora"], objective="distillation", teacher=["t"])
    )


def test_a_new_model_has_its_curve() -> None:
    """It learns in full whatever was named."""
    config = built(models=["m", "new:lstm"], model=None, grid={"learning_rate": [1e-3, 1e-4]}, techniques=["lora"])
    named = {(each.run.model, each.name) for each in plan(config, Path("out"))}
    rows = [
        {"technique": name, "model": model, "setting": f"learning_rate={value}", "kind": "technique", "status": "finished", "n": 1,
         "primary": {"mean": 0.5, "low": None, "high": None, "std": None, "n": 1}, "trainable_parameters": 1, "train_seconds": 1.0, "peak_memory_bytes": 1}
        for model, name in sorted(named) for value in (1e-3, 1e-4)
    ]  # fmt: skip
    assert {(each["model"], each["technique"]) for each in study.studies(config, rows, True)} == named
    assert named == {("m", "lora"), ("new:lstm", "full")}


def test_words_of_the_command_line() -> None:
    assert study.parse(["lora.rank=1,2", "lora.targets=[q],[q,v]"]) == {
        "lora.rank": [1, 2],
        "lora.targets": [["q"], ["q", "v"]],
    }
    for words in (["lora.rank"], ["lora.rank="], ["=1"], ["a=[1"], ["a=1,2", "a=3,4"]):
        with pytest.raises(UserError, match="--grid"):
            study.parse(words)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return tunesmith.compare(
            str(tiny_model("bert", tmp_path_factory.mktemp("bert"))), train=toy_rows(40), eval=toy_rows(8), seeds=[0, 1], baselines=["majority"],
            max_steps=2, batch_size=4, grid={"lora.rank": [1, 4]}, output=tmp_path_factory.mktemp("study"),
        )  # fmt: skip


def test_a_study_end_to_end(done: Any) -> None:
    (found,) = done.results["studies"]
    assert (found["key"], found["technique"]) == ("lora.rank", "lora")
    assert [point["value"] for point in found["points"]] == [1, 4] and [p["n"] for p in found["points"]] == [2, 2]
    small, large = (point["trainable_parameters"] for point in found["points"])
    assert small < large and all(point["train_seconds"] > 0 for point in found["points"])
    for value in (1, 4):
        result = json.loads((done.folder / "runs" / f"lora@{value}" / "1" / "result.json").read_text())
        assert result["seed"] == 1
    names = {row["technique"]: row.get("setting") for row in done.results["rows"]}
    assert names["majority"] is None and names["lora"] in ("lora.rank=1", "lora.rank=4")


def test_examples_name_the_setting(done: Any) -> None:
    """Each value answers for itself, where one of them is made to say something else."""
    scene = Scene.of(configuration.build(CompareConfig, configuration.read_file(done.folder / "comparison.yaml")))
    read = [Answers.read(run, done.folder, 8) for run in done.results["runs"]]
    answers = [each for each in read if each is not None and each.run["kind"] == "technique"]
    for each in answers:
        for line in each.lines:
            line["prediction"] = "positive" if each.run["setting"] == "lora.rank=4" else "negative"
    shown = examples.choose(answers, scene, 3)
    assert [{one["technique"] for one in each["answers"]} for each in shown] == [
        {"lora with lora.rank=1", "lora with lora.rank=4"}
    ] * 3


def test_what_is_shown(done: Any) -> None:
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        for table in study_tables(done.results):
            console.print(table)
    text = capture.get()
    assert "lora.rank (lora)" in text and "accuracy" in text and "±" in text
    page = done.report.read_text(encoding="utf-8")
    assert "lora@4" in page and "Studies" in page and "figure-study-0" in page
    assert sentence(done.results["studies"][0], done.results).replace("'", "&#39;") in page


def test_the_figure_marks_the_knee() -> None:
    curve = {1: [0.60, 0.62], 4: [0.70, 0.72], 16: [0.71, 0.72]}
    found = study.study("lora.rank", "lora", "m", {}, entries(curve, {1: 100, 4: 400, 16: 1600}), True)
    assert found["knee"] == 4  # 0.715 - 0.005 <= 0.71
    results = {"studies": [found], "protocol": {"primary": "accuracy", "grid": {}}, "runs": [], "rows": []}
    (drawn,) = study_figures(results, "accuracy (%)", 100.0)
    figure = drawn["figure"]
    line = next(trace for trace in figure["data"] if trace.get("role") == "study")
    assert line["y"] == pytest.approx([61, 71, 71.5]) and line["marker"]["rings"] == [0, 2.5, 0]
    assert line["error_y"]["array"][0] == pytest.approx(12.706 * 2**0.5 / 2**0.5, rel=1e-3)  # t(0.975, 1) s / sqrt(2)
    assert [label["text"] for label in figure["labels"]] == ["knee 4"]
    assert figure["layout"]["xaxis"]["type"] == "log" and figure["layout"]["yaxis2"]["type"] == "log"
    second = next(trace for trace in figure["data"] if trace.get("yaxis") == "y2")
    assert second["y"] == [100, 400, 1600]
    assert "figure-study-0" in render({**results, "protocol": {**results["protocol"], "techniques": ["lora"]}})
    words = study.study("lora.targets", "lora", "m", {}, entries({"q": [0.1, 0.2], "v": [0.3, 0.3]}), True)
    (drawn,) = study_figures({**results, "studies": [words]}, "accuracy (%)", 100.0)
    assert drawn["figure"]["layout"]["xaxis"]["type"] == "category" and "yaxis2" not in drawn["figure"]["layout"]
