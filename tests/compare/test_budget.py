"""A time box: what fits into it by hand, a race on a made-up clock, and pauses that change no bit of a run."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

import tunesmith
from tunesmith import config as configuration
from tunesmith import processes
from tunesmith.compare import budget, contender, halving, runner
from tunesmith.compare.checks import Identity
from tunesmith.config import CompareConfig
from tunesmith.errors import ConfigError, Interrupted, UserError
from tunesmith.run_folder import config_sha256
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90s", (90, None)),
        ("20m", (1200, None)),
        ("1h30m", (5400, None)),
        ("1.5h", (5400, None)),
        ("3x", (None, 3)),
        ("2h 5s", (7205, None)),
    ],
)
def test_lengths(text: str, found: Any) -> None:
    assert budget.parse(text) == found


@pytest.mark.parametrize("text", ["", "20", "m", "-5m", "0s", "0.5x", "x", "20 minutes", "5m1h"])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(UserError, match="--budget takes"):
        budget.parse(text)


def cost_of(fit: budget.Fit, opening: float, per_step: float) -> float:
    """The plan's seconds, added up run by run."""
    total, before = 0.0, 0.0
    for place, share in enumerate(fit.shares):
        for _ in range(math.ceil(fit.runs / 3**place)):
            total += opening + (share - before) * fit.steps * per_step
            if share == 1:
                total += opening
        before = share
    return total


def test_what_fits_is_what_the_sum_says() -> None:
    for left, runs in itertools.product((60.0, 200.0, 1000.0), (1, 3, 10)):
        fit = budget.fit(left, 4.0, 0.5, 400, runs)
        assert cost_of(fit, 4.0, 0.5) <= budget.SLACK * left + 1e-6
        assert fit.shares[-1] == 1
    assert budget.fit(10_000, 4.0, 0.5, 400, 10) == budget.Fit(400, [1 / 3, 1], 10)  # nothing has to be cut
    short, long = budget.fit(150, 4.0, 0.5, 400, 10), budget.fit(600, 4.0, 0.5, 400, 10)
    assert short.steps < long.steps <= 400
    assert budget.fit(40, 4.0, 0.5, 400, 10).runs < 10
    assert budget.fit(1, 4.0, 0.5, 400, 10) == budget.Fit(20, [1 / 3, 1.0], 1)


def test_what_does_not_go_together() -> None:
    given = {"model": "m", "train": "a.csv", "techniques": ["lora"], "budget": "20m"}
    for more, says in (
        ({"seeds": [0, 1]}, "seeds"), ({"jobs": 2}, "jobs"), ({"search": "halving"}, "search"), ({"ray": "auto"}, "ray"), ({"grid": {"lora.rank": [1, 2]}}, "grid"),
        ({"budget": "3x"}, "full must be among"), ({"budget": "soon"}, "--budget takes"),
    ):  # fmt: skip
        with pytest.raises((ConfigError, UserError), match=says):
            budget.check(configuration.build(CompareConfig, {**given, **more}))
    config = configuration.build(CompareConfig, given)
    budget.check(config)
    assert config.seeds == [0] and config.training.hold_out_validation and config.training.evaluations == 1


# ---- a race on a clock that only runs take time of

SPEED = {"full": 1.0, "lora": 0.6, "bitfit": 0.5, "ia3": 0.5, "adapter": 0.6, "prompt-tuning": 0.7}
SKILL = {"full": 0.9, "lora": 0.85, "adapter": 0.8, "bitfit": 0.7, "ia3": 0.6, "prompt-tuning": 0.5}
STEPS, OPENING = 300, 3.0


class World:
    """Processes and a clock that are made up: a run takes OPENING seconds and then SPEED a step."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 100.0, []
        self.died_at: int | None = None
        self.steps: dict[str, int] = {}
        patch.setattr(budget.time, "perf_counter", lambda: self.now)
        patch.setattr(processes, "call", self.call)

    def baseline(self, text: str) -> dict[str, Any]:
        place = Path(yaml.safe_load(text)["output"])
        place.mkdir(parents=True, exist_ok=True)
        self.now += 1
        run = configuration.build(tunesmith.config.RunConfig, yaml.safe_load(text))
        result = {
            "status": "finished", "metrics": {"before": {}, "after": {"accuracy": 0.5, "loss": 0.7}, "primary": "accuracy"},
            "cost": {"train_seconds": 0.0}, "training": {}, "provenance": {"data_sha256": {}, "config_sha256": config_sha256(run)},
        }  # fmt: skip
        (place / "result.json").write_text(json.dumps(result), encoding="utf-8")
        return result

    def call(self, target: str, payload: dict[str, Any], **_: Any) -> dict[str, Any]:
        if "baseline_payload" in target:
            return self.baseline(payload["config"])
        config = yaml.safe_load(payload["config"])
        name, place = config["technique"], Path(config["output"])
        self.calls.append((name, payload["share"], payload["step"]))
        if len(self.calls) == self.died_at:
            raise processes.ChildError("stopped", 130)
        of = config["max_steps"] or STEPS
        place.mkdir(parents=True, exist_ok=True)
        begun = self.steps.get(str(place), 0) if payload.get("resume") else 0
        at = min(payload["step"] or of, round(payload["share"] * of) if payload["share"] else of)
        self.now += OPENING + (at - begun) * SPEED[name]
        (place / "config.yaml").write_text(payload["config"], encoding="utf-8")
        self.steps[str(place)] = at
        metrics = {"accuracy": 0.4 + (SKILL[name] - 0.4) * at / of, "loss": 1 - SKILL[name] * at / of}
        if at < of:
            return {
                "paused": {"step": at, "of": of, "seconds": at * SPEED[name], "primary": "accuracy", "metrics": metrics}
            }
        self.now += OPENING
        result = {
            "status": "finished", "metrics": {"before": metrics, "after": metrics, "primary": "accuracy"},
            "cost": {"train_seconds": at * SPEED[name]}, "training": {}, "provenance": {"data_sha256": {}},
        }  # fmt: skip
        run = configuration.build(tunesmith.config.RunConfig, config)
        result["provenance"]["config_sha256"] = config_sha256(run)
        (place / "result.json").write_text(json.dumps(result), encoding="utf-8")
        return result


def race(
    folder: Path, world: World, length: str, refuse: Any = None, **more: Any
) -> tuple[halving.Halving, dict[str, dict[str, Any]]]:
    given = {
        "model": "m",
        "train": "a.csv",
        "techniques": list(SPEED),
        "baselines": [],
        "budget": length,
        "output": str(folder),
        **more,
    }
    config = configuration.build(CompareConfig, given)
    halving.check(config)
    folder.mkdir(exist_ok=True)
    box = halving.Halving(config, folder, Identity({"": {}}), world.now)
    return box, {run["technique"]: run for run in box.carry_out_all(refuse)}


def test_everything_is_finished_where_there_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    box, runs = race(tmp_path, world, "1h")
    assert {run["status"] for run in runs.values()} == {"finished"}
    assert box.about()["steps"] == STEPS and len(runs["lora"]["rungs"]) == 1


@pytest.mark.parametrize("length", ["10m", "15m", "5m"])
def test_the_hopeless_are_dropped_and_the_box_is_kept(
    length: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch)
    began = world.now
    box, runs = race(tmp_path, world, length)
    assert world.now - began <= budget.parse(length)[0]
    assert runs["full"]["status"] == "finished"  # the best there is
    assert runs["prompt-tuning"]["status"] == "dropped"
    reason = runs["prompt-tuning"]["reason"]
    assert "validation was" in reason and "that of full" in reason and "time was left for" in reason
    finished = {name for name, run in runs.items() if run["status"] == "finished"}
    assert min(SKILL[name] for name in finished) > max(SKILL[name] for name in set(SKILL) - finished)
    assert box.about()["asked_steps"] == STEPS and 20 <= box.about()["steps"] <= STEPS

    # The same command again repeats nothing, and says the same.
    world.calls.clear()
    _, again = race(tmp_path, world, length)
    assert world.calls == []
    assert {name: (run["status"], run["reason"]) for name, run in again.items()} == {
        name: (run["status"], run["reason"]) for name, run in runs.items()
    }


def test_baselines_are_found_again_where_steps_were_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are run before it is known how many steps fit, so that the same command must not take them for others'."""
    world = World(monkeypatch)
    given: dict[str, Any] = {"refuse": runner.refuse_others, "baselines": ["majority"], "epochs": 3}
    box, runs = race(tmp_path, world, "10m", **given)
    assert box.about()["steps"] < STEPS and runs["majority"]["status"] == "finished"
    world.calls.clear()
    _, again = race(tmp_path, world, "10m", **given)
    assert world.calls == [] and again.keys() == runs.keys()


def test_more_time_finishes_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for length in ("4m", "10m", "30m"):
        _, runs = race(tmp_path / length, World(monkeypatch), length)
        counts.append(sum(run["status"] == "finished" for run in runs.values()))
    assert counts == sorted(counts) and counts[-1] == len(SPEED)


def test_at_least_one_is_finished_however_short_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, runs = race(tmp_path, World(monkeypatch), "5s")
    assert [run["status"] for run in runs.values()].count("finished") == 1
    assert any("not begun" in (run["reason"] or "") for run in runs.values())


def test_a_box_of_three_full_fine_tunings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    began = world.now
    box, runs = race(tmp_path, world, "3x")
    alone = 2 * OPENING + STEPS * SPEED["full"]
    assert box.clock.seconds == pytest.approx(3 * alone)
    assert world.now - began <= 3 * alone
    assert [run["status"] for run in runs.values()].count("finished") >= 2


def test_an_interrupted_race_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.died_at = 4
    with pytest.raises(Interrupted):
        race(tmp_path, world, "10m")
    before = list(world.calls)
    spent = json.loads((tmp_path / "budget.json").read_text())["spent"]
    assert spent == pytest.approx(world.now - 100)
    world.calls.clear()
    world.died_at = None
    world.now += 10_000  # the night between two calls is not of the box
    box, runs = race(tmp_path, world, "10m")
    assert world.calls[0] == before[-1]  # where it stopped
    assert box.clock.spent <= 600 and runs["full"]["status"] == "finished"


# ---- real runs


def test_a_run_that_paused_is_the_same_run(models: Path, tmp_path: Path) -> None:
    """What is finished in a box is, bit for bit, what the same settings give without one."""
    given: dict[str, Any] = {
        "train": toy_rows(60), "eval": toy_rows(8), "seeds": [0], "baselines": [], "batch_size": 4, "max_steps": 9,
    }  # fmt: skip
    model = str(tiny_model("bert", models / "bert"))
    boxed = tunesmith.compare(model, techniques=["bitfit", "lora"], budget="20m", output=tmp_path / "boxed", **given)
    training = {"hold_out_validation": True, "evaluations": 1}
    plain = tunesmith.compare(model, techniques=["lora"], output=tmp_path / "plain", training=training, **given)
    ours, theirs = ({run["technique"]: run for run in each.results["runs"]} for each in (boxed, plain))
    assert [ours[name]["status"] for name in ("bitfit", "lora")] == ["finished", "finished"]
    assert ours["lora"]["rungs"][0]["step"] == 3
    assert ours["lora"]["metrics"] == theirs["lora"]["metrics"]
    files = [tmp_path / each / "runs" / "lora" / "0" / "predictions.jsonl" for each in ("boxed", "plain")]
    assert files[0].read_bytes() == files[1].read_bytes()
    about = boxed.results["protocol"]["budget"]
    assert (about["given"], about["steps"], about["judged_on"]) == ("20m", 9, "validation")
    assert boxed.results["protocol"]["rows"]["validation"] > 0
    assert "20m" in boxed.report.read_text(encoding="utf-8")


def test_a_box_that_is_shorter_than_anything_finishes_one(models: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "train": toy_rows(60),
        "eval": toy_rows(8),
        "seeds": [0],
        "baselines": [],
        "batch_size": 4,
        "max_steps": 4,
    }
    for _ in range(2):  # the second call finds it there
        done = tunesmith.compare(
            str(tiny_model("bert", models / "bert")),
            techniques=["lora"],
            budget="1s",
            output=tmp_path / "short",
            **given,
        )
        assert [run["status"] for run in done.results["runs"] if run["technique"] == "lora"] == ["finished"]


def test_a_child_is_stopped_when_its_time_is_over() -> None:
    limited = contender.Limited(0.2)
    with pytest.raises(processes.ChildError) as error:
        limited.plain("builtins:eval", "__import__('time').sleep(60)")  # type: ignore[arg-type]
    assert error.value.exit_code == 130 and limited.expired
