"""The search of learning rates: equal rungs, the lowest validation loss, what diverges loses, eval rows take no part, nothing is done twice."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith import config as configuration
from tunesmith import processes
from tunesmith.compare import search
from tunesmith.compare.planning import plan
from tunesmith.compare.report.searched import search_table
from tunesmith.compare.runner import rates_in_words
from tunesmith.config import CompareConfig, RunConfig
from tunesmith.errors import ConfigError, Interrupted
from tunesmith.run_folder import config_sha256, write_json
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

LOSSES = {5e-5: 0.69, 1.5e-4: 0.6, 5e-4: 0.5, 1.5e-3: 0.3, 5e-3: float("inf")}
"""By rate, as a made-up run of lora ends (default 5e-4)."""


@pytest.fixture
def config(tmp_path: Path) -> CompareConfig:
    rows = [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(toy_rows(640))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {
        "model": "m",
        "train": str(tmp_path / "a.jsonl"),
        "techniques": ["lora"],
        "baselines": [],
        "search": "halving",
    }
    return configuration.build(CompareConfig, {**given, "epochs": 10, "output": str(tmp_path / "out")})


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Runs that end with a made-up loss instead of training."""
    import yaml

    done: list[RunConfig] = []

    def call(target: str, payload: dict[str, Any]) -> dict[str, Any]:
        run = configuration.build(RunConfig, yaml.safe_load(payload["config"]))
        done.append(run)
        loss = LOSSES[float(run.learning_rate or 0)]
        if loss == float("inf"):
            raise processes.ChildError("the loss is not finite at step 3; lower --learning-rate.", 2)
        after = {"accuracy": 1 - loss, "loss": loss}
        result = {"status": "finished", "metrics": {"after": after, "primary": "accuracy"}, "training": {"tokens": round(1000 * (run.epochs or 0))},
                  "cost": {"train_seconds": 1.0}, "provenance": {"config_sha256": config_sha256(run), "inputs_sha256": search.sha256_of_inputs(run)}}  # fmt: skip
        place = Path(str(run.output))
        (place / "artifact").mkdir(parents=True)
        write_json(place / "result.json", result)
        return result

    monkeypatch.setattr(processes, "call", call)
    return done


def test_halving_finds_the_lowest_loss_on_validation_rows(config: CompareConfig, trials: list[RunConfig]) -> None:
    folder = Path(str(config.output))
    (found,) = search.carry_out(config, folder)
    assert found["chosen"] == 1.5e-3 and found["default"] == 5e-4 and found["runs"] == 7
    assert [each["rate"] for each in found["rates"]] == list(LOSSES)
    rungs = {each["rate"]: each["rungs"] for each in found["rates"]}
    assert [len(rungs[rate]) for rate in LOSSES] == [1, 1, 2, 2, 1]
    assert rungs[5e-3][0]["status"] == "failed" and "not finite" in rungs[5e-3][0]["reason"]
    first, second = ({run.epochs for run in some} for some in (trials[:5], trials[5:]))
    assert first == {1.0} and second == {2.5}  # a tenth, a quarter of 10 epochs: 5 x 1 = 2 x 2.5
    assert found["tokens"] == 4 * 1000 + 2 * 2500 and search.rates([found]) == {("m", "lora"): 1.5e-3}
    assert [run.seed for run in trials] == [0] * 5 + [1] * 2  # a rung, a seed
    assert not list(folder.rglob("artifact"))  # only numbers are kept


def test_eval_rows_take_no_part(config: CompareConfig, trials: list[RunConfig]) -> None:
    from datasets import Dataset

    from tunesmith import registry
    from tunesmith.data.splits import load_roles

    search.carry_out(config, Path(str(config.output)))
    task = registry.load("task", config.task)(configuration.options_of(config, "task", config.task))
    roles = load_roles(config, task)
    learned, judged = (Dataset.from_parquet(path)["text"] for path in (trials[0].train, trials[0].eval))
    measured = set(roles.eval.table["text"])
    assert not measured & {*learned, *judged} and not set(learned) & set(judged)
    assert sorted([*learned, *judged]) == sorted(roles.train.table["text"])
    assert 0.05 < len(judged) / len(roles.train) < 0.15


def test_what_is_there_is_not_done_again(config: CompareConfig, trials: list[RunConfig]) -> None:
    folder = Path(str(config.output))
    before = search.carry_out(config, folder)
    count = len(trials)
    again = search.carry_out(config, folder)
    assert len(trials) == count + 1  # the one that failed has no result
    assert again[0]["chosen"] == before[0]["chosen"] and again[0]["tokens"] == before[0]["tokens"]
    search.carry_out(config, folder, {"m": "another model in the same place"})
    assert len(trials) == count + 1 + 7
    config.batch_size = 8  # other trials
    search.carry_out(config, folder)
    assert len(trials) == count + 1 + 7 + 7


def test_an_adapter_that_was_trained_again_is_searched_again(
    config: CompareConfig, trials: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it holds, under the same name."""
    for content, expected in (("first", 7), ("first", 7 + 1), ("second", 8 + 7)):  # the trial that failed has no result
        monkeypatch.setattr(search, "sha256_of_inputs", lambda run, content=content: {"init_adapter a": content})
        search.carry_out(config, Path(str(config.output)))
        assert len(trials) == expected


def test_jobs_search_techniques_beside_each_other(config: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each first trial waits for that of the other technique; what is found is the same as one after the other."""
    import yaml

    both, lock = threading.Barrier(2, timeout=30), threading.Lock()
    seen: set[str] = set()

    def call(target: str, payload: dict[str, Any], **_: Any) -> dict[str, Any]:
        run = configuration.build(RunConfig, yaml.safe_load(payload["config"]))
        with lock:
            first = str(run.technique) not in seen
            seen.add(str(run.technique))
        if first and config.jobs == 2:
            both.wait()
        after = {"accuracy": 0.5, "loss": float(run.learning_rate or 0)}
        return {
            "metrics": {"after": after, "primary": "accuracy"},
            "training": {"tokens": 10},
            "cost": {"train_seconds": 1.0},
        }

    monkeypatch.setattr(processes, "call", call)
    config.techniques = ["lora", "ia3"]
    found = []
    for jobs in (1, 2):
        config.jobs = jobs
        seen.clear()
        folder = Path(f"{config.output}-{jobs}")
        found.append([(each["technique"], each["chosen"], each["runs"]) for each in search.carry_out(config, folder)])
    assert found[0] == found[1] == [("lora", 5e-5, 7), ("ia3", 1e-3, 7)]


def test_an_interrupt_ends_it(config: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(target: str, payload: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "call", call)
    with pytest.raises(Interrupted, match="the same command goes on"):
        search.carry_out(config, Path(str(config.output)))


def test_where_nothing_learns_the_default_stands(config: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, why, runs in (
        ("", "no rate learned, so the default stands (every trial: the model has no biases.)", 5),
        ("TechniqueError", "no biases", 1),
    ):

        def call(target: str, payload: dict[str, Any], kind: str = kind) -> dict[str, Any]:
            raise processes.ChildError("the model has no biases.", 2, kind)

        monkeypatch.setattr(processes, "call", call)
        (found,) = search.carry_out(config, Path(str(config.output)))
        assert found["chosen"] == found["default"] and why in found["why"] and found["runs"] == runs
        assert search.rates([found]) == {}


def test_a_given_rate_is_never_searched(config: CompareConfig, trials: list[RunConfig]) -> None:
    config.learning_rates = {"lora": 0.1}
    assert search.carry_out(config, Path(str(config.output))) == [] and trials == []
    config.learning_rates, config.learning_rate = {}, 0.2
    assert search.carry_out(config, Path(str(config.output))) == [] and trials == []
    assert rates_in_words(config) == "the same for all, given"


def test_runs_learn_with_what_was_found(config: CompareConfig, tmp_path: Path) -> None:
    """Before the technique's own, after what is given; a baseline has none."""
    config.techniques, config.baselines, config.seeds = ["lora", "full"], ["tfidf"], [0, 1]
    found = {("m", "lora"): 3e-3, ("m", "full"): 1e-3, ("m", "tfidf"): 9.0}
    config.learning_rates = {"lora": 0.25}
    planned = list(plan(config, tmp_path, None, found))
    assert {(each.name, each.run.learning_rate) for each in planned} == {
        ("tfidf", None),
        ("lora", 0.25),
        ("full", 1e-3),
    }
    assert rates_in_words(config).startswith("successive halving on validation rows")


def test_short_runs_get_longer_rungs(config: CompareConfig, trials: list[RunConfig]) -> None:
    config.epochs = None
    for steps, expected, count in ((1000, [100, 250], 7), (100, [20, 50], 7), (30, [20, 30], 7), (10, [10], 5)):
        config.max_steps = steps
        trials.clear()
        (found,) = search.carry_out(config, Path(str(config.output)) / str(steps))
        assert list(dict.fromkeys(run.max_steps for run in trials)) == expected and len(trials) == count
        assert found["chosen"] == 1.5e-3


def test_a_trial_is_measured_on_few_rows(config: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three validation rows a row of the first rung at most, a hundred at least, a thousand at most; rung 1 is 20 steps or a tenth."""
    config.epochs, config.batch_size = 1, 2
    assert search.most_rows(config, 256) == 3 * 20 * 2
    config.batch_size = 16
    assert search.most_rows(config, 2000) == 3 * 20 * 16
    assert search.most_rows(config, 100_000) == 1000
    config.epochs, config.max_steps, config.batch_size = None, 400, 1
    assert search.most_rows(config, 10_000) == 3 * 40
    config.max_steps = 10
    assert search.most_rows(config, 10_000) == 100
    config.max_steps, config.epochs, config.batch_size = None, 1, 1
    whole = search.Data.cut(config, Path(str(config.output))).counts
    monkeypatch.setattr(search, "FEW_ROWS", 1)
    monkeypatch.setattr(search, "ROWS", 1)
    fewer = search.Data.cut(config, Path(str(config.output))).counts
    assert (
        fewer == {**whole, "validation": search.most_rows(config, whole["train"])}
        and fewer["validation"] < whole["validation"]
    )


def test_a_rung_on_the_plateau_is_followed_by_a_longer_one(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of one answer is log 2. After 4 of 10 epochs a rate comes off it; the slowest had not come down to it, but is the next lower one."""
    first = {5e-5: 0.9, 1.5e-4: 0.694, 5e-4: 0.693, 1.5e-3: 0.6929, 5e-3: 0.6935}
    done: list[tuple[float, float]] = []

    def measure(run: RunConfig, *_: Any) -> dict[str, Any]:
        rate, epochs = float(run.learning_rate or 0), float(run.epochs or 0)
        done.append((epochs, rate))
        loss = {5e-5: 0.8, 1.5e-4: 0.65, 5e-4: 0.5, 1.5e-3: 0.6929, 5e-3: 0.6935}[rate] if epochs >= 4 else first[rate]
        return {
            "status": "finished",
            "reason": None,
            "loss": loss,
            "score": 0.5,
            "tokens": round(100 * epochs),
            "seconds": 1.0,
        }

    monkeypatch.setattr(search, "measure", measure)
    (found,) = search.carry_out(config, Path(str(config.output)))
    assert [[rate for epochs, rate in done if epochs == length] for length in (1, 2, 4, 10)] == [
        list(first), [1.5e-3, 5e-4, 5e-3, 1.5e-4, 5e-5], [1.5e-3, 5e-4, 5e-3, 1.5e-4, 5e-5], [5e-4, 1.5e-4],
    ]  # fmt: skip
    assert found["chosen"] == 5e-4 and found["why"] == search.LOWEST and found["tokens"] == 500 + 1000 + 2000 + 2000
    table = search_table({"search": [found]})
    assert table is not None and "twice as long" in table["notes"][0]


def test_the_only_rate_off_the_plateau_is_not_tried_again(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two wait after the first rung, and one of them comes off it in the second."""
    losses = {5e-5: 3.0, 1.5e-4: 0.8, 5e-4: 0.693, 1.5e-3: 2.0, 5e-3: 3.0}

    def measure(run: RunConfig, *_: Any) -> dict[str, Any]:
        rate = float(run.learning_rate or 0)
        loss = 0.5 if rate == 1.5e-4 and float(run.epochs or 0) > 1 else losses[rate]
        return {"status": "finished", "reason": None, "loss": loss, "score": 0.5, "tokens": 1, "seconds": 1.0}

    monkeypatch.setattr(search, "measure", measure)
    (found,) = search.carry_out(config, Path(str(config.output)))
    assert found["chosen"] == 1.5e-4 and found["runs"] == 5 + 2


def test_what_is_taken_in_place_of_the_lowest_loss_is_said(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1.5e-3 ends lowest, and stood on log 2 in the first rung, which 5e-4 had left."""
    losses = {5e-5: (0.9, 0), 1.5e-4: (0.8, 0), 5e-4: (0.6, 0.401), 1.5e-3: (0.693, 0.400), 5e-3: (2.0, 0)}

    def measure(run: RunConfig, *_: Any) -> dict[str, Any]:
        loss = losses[float(run.learning_rate or 0)][float(run.epochs or 0) > 1]
        return {"status": "finished", "reason": None, "loss": loss, "score": 0.5, "tokens": 1, "seconds": 1.0}

    monkeypatch.setattr(search, "measure", measure)
    (found,) = search.carry_out(config, Path(str(config.output)))
    assert found["chosen"] == 5e-4 and found["why"] == search.BORNE in capsys.readouterr().err
    losses[1.5e-3] = (0.64, 0.400)
    (found,) = search.carry_out(config, Path(str(config.output)))
    assert found["chosen"] == 1.5e-3 and found["why"] == search.LOWEST


def test_rates_that_wait_on_the_plateau() -> None:
    """All that have come down to it, and the highest below them that has not; not one that went up, nor one far below."""

    def kept(**losses: float) -> list[float]:
        scored = [{"rate": float(name[1:]), "rungs": [{"loss": loss}]} for name, loss in losses.items()]
        return sorted(each["rate"] for each in search.waiting(scored, 0.37))

    assert kept(r1=2.7, r3=0.77, r10=0.37, r30=0.372, r100=0.377) == [3, 10, 30, 100]
    assert kept(r1=2.7, r3=0.77, r10=0.37, r30=0.372, r100=5.0) == [3, 10, 30]
    assert kept(r1=0.371, r3=0.37) == [1, 3]
    assert kept(r1=2.7, r3=0.77) == [1, 3]


def test_a_rate_that_one_of_two_seeds_could_not_bear_is_not_taken() -> None:
    """In the first rung it stood on the plateau (0.37), which a lower one had left; a lower one on its way down is no such rate."""

    def rate(value: float, *losses: float) -> dict[str, Any]:
        return {"rate": value, "rungs": [{"loss": loss} for loss in losses]}

    low, high = rate(6e-4, 0.322, 0.2594), rate(2e-3, 0.380, 0.2588)
    assert search.picked([high, low], 0.37) is low
    assert search.picked([high, low], None) is high  # a task without a plateau
    assert search.picked([high, rate(6e-4, 0.38, 0.2594)], 0.37) is high  # neither had left it
    assert search.picked([low, rate(2e-3, 0.30, 0.27)], 0.37) is low
    assert search.picked([high, rate(6e-4, 0.322, 0.372)], 0.37) is high  # which went back there
    assert search.picked([rate(6e-4, 0.64, 0.25), rate(2e-3, 0.32, 0.26)], 0.37)["rate"] == 6e-4


def test_where_no_rate_comes_off_the_plateau_the_default_stands(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(run: RunConfig, *_: Any) -> dict[str, Any]:
        loss = 0.6929 + 1e-4 * float(run.learning_rate or 0)
        return {"status": "finished", "reason": None, "loss": loss, "score": 0.5, "tokens": 1, "seconds": 1.0}

    monkeypatch.setattr(search, "measure", measure)
    (found,) = search.carry_out(config, Path(str(config.output)))
    assert found["chosen"] == found["default"] and "one answer for every row (0.69" in found["why"]
    assert [rung["share"] for rung in found["rates"][0]["rungs"]] == [0.1, 0.2, 0.4, 0.8, 1.0]
    table = search_table({"search": [found]})
    assert table is not None and found["why"] in table["notes"][-1]


def test_the_plateau_is_the_loss_of_the_shares_of_labels(tmp_path: Path) -> None:
    """Against closed forms; a task whose answers are texts has none."""
    import math

    from tunesmith import registry
    from tunesmith.compare.plateau import plateau
    from tunesmith.data.splits import load_roles

    def found(task: str, train: list[Any], validation: list[Any], **options: Any) -> float | None:
        for name, rows in (("train", train), ("validation", validation), ("eval", validation)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation", "eval")}
        given = configuration.build(RunConfig, {"model": "m", "task": task, "technique": "lora", **options, **files})
        built = registry.load("task", task)(configuration.options_of(given, "task", task))
        return plateau(built, load_roles(given, built), given)

    def texts(labels: list[Any]) -> list[dict[str, Any]]:
        return [{"text": f"row {number} {label}", "label": label} for number, label in enumerate(labels)]

    entropy = -(math.log(0.75) + math.log(0.25)) / 2
    assert found("text-classification", texts(["a", "a", "a", "b"]), texts(["b", "a"])) == pytest.approx(entropy)
    weighted = {"text-classification": {"class_weights": "balanced"}}  # its loss is another
    assert found("text-classification", texts(["a", "a", "a", "b"]), texts(["b", "a"]), **weighted) is None
    assert found("text-classification", texts([1.5, 2.5, 3.5, 4.5]), texts([2.0, 5.0])) == pytest.approx((1 + 4) / 2)
    tags = [{"tokens": ["x", "y", "z"], "tags": ["O", "O", "B-A"]}]
    expected = -(math.log(3 / 6) + math.log(2 / 6)) / 2  # one added to each count of O, B-A and I-A
    assert found("token-classification", tags, [{"tokens": ["p", "q"], "tags": ["O", "B-A"]}]) == pytest.approx(
        expected
    )
    pairs = [{"question": "q", "context": "c d", "answer": "c"}]
    assert found("question-answering", pairs, pairs) is None


def test_a_stream_has_no_search() -> None:
    with pytest.raises(ConfigError, match="looks at one data set"):
        stages = {"stages": [{"name": "a", "train": "a.csv"}]}
        configuration.build(CompareConfig, {"model": "m", "stream": stages, "search": "halving"})


def test_the_report_shows_every_rate_and_the_cost(config: CompareConfig, trials: list[RunConfig]) -> None:
    found = search.carry_out(config, Path(str(config.output)))
    table = search_table({"search": found})
    assert table is not None and search_table({}) is None
    assert table["heads"][1:6] == ["× 0.1", "× 0.3", "× 1", "× 3", "× 10"]
    row = table["rows"][0]
    assert row[:6] == ["lora", "0.690", "0.600", "0.500 → 0.500", "◆ 0.300 → 0.300", "failed"]
    assert row[6:8] == ["5e-4 → 1.5e-3", "9.00 k"] and len(row) == len(table["heads"])
    assert "7 trials" in table["notes"][0]


def test_a_comparison_searches_and_then_learns(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """End to end with three rates: the one with the lowest loss is what the runs learn with."""
    monkeypatch.setattr(search, "FACTORS", (1e-4, 1.0, 8.0))
    monkeypatch.setattr(search, "KEPT", (1,))
    rows = [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(toy_rows(64))]
    done = tunesmith.compare(
        str(tiny_model("llama", models / "llama")), train=rows, eval=toy_rows(8), techniques=["lora"], baselines=[], seeds=[1], max_steps=6, batch_size=8,
        search="halving", output=tmp_path / "c",
    )  # fmt: skip
    (found,) = done.results["search"]
    assert found["runs"] == 3 and found["tokens"] > 0 and found["seconds"] > 0 and found["rows"]["validation"] > 0
    assert found["chosen"] == min(found["rates"], key=lambda each: each["rungs"][0]["loss"])["rate"]
    (run,) = [each for each in done.results["runs"] if each["kind"] == "technique"]
    trial = json.loads(next((tmp_path / "c" / "search").rglob("result.json")).read_text(encoding="utf-8"))
    kept = json.loads((tmp_path / "c" / run["folder"] / "result.json").read_text(encoding="utf-8"))
    assert (
        trial["verification"] is None and trial["plan"] is None and kept["verification"]["rows"] == 8 and kept["plan"]
    )
    assert run["learning_rate"] == found["chosen"] == done.results["rows"][0]["learning_rate"]
    page = done.report.read_text(encoding="utf-8")
    assert "Search of learning rates" in page and "successive halving" in page
