"""Which technique is advised: the regression by hand, every rule flipped, and what the package's evidence amounts to."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli
from tunesmith import dry_run
from tunesmith.config import RunConfig, build
from tunesmith.errors import UserError
from tunesmith.plan import evidence
from tunesmith.plan.advice import NEEDS, Advice, advise
from tunesmith.plan.evidence import Case, Measured, Outcome, expected, leave_one_out, order
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for

ROOT = Path(__file__).parent.parent.parent
CASE = Case("text-classification", "encoder", 1_000_000, 1000)


def one(name: str, case: Case, **behind: float) -> Measured:
    outcomes = {key.replace("_", "-"): Outcome(value, value == 0, 1.0, 1.0) for key, value in behind.items()}
    return Measured(name, case, outcomes)


def planned(technique: str, **more: Any) -> dict[str, Any]:
    given = {"status": "planned", "reason": None, "technique": technique, "rows": 1000, "architecture": "encoder", "total_parameters": 1_000_000,
             "trainable_parameters": 10_000, "seconds": 5.0, "memory_bytes": 2**30, "available_bytes": 2**34,
             "artifact_bytes": 2**20, "fits": True, "largest_batch": 64}  # fmt: skip
    return {**given, **more}


def names(advice: Advice) -> list[str]:
    return [each.technique for each in advice.ranked]


def test_what_is_expected_is_the_weighted_mean() -> None:
    near = Measured("near", CASE, {"lora": Outcome(1.0, False, 3.0, 1.0)})
    far = Measured("far", Case("chat", "encoder", 1_000_000, 100), {"lora": Outcome(7.0, False, 0.1, 1.0)})
    found = expected(CASE, "lora", [far, near])
    weights = [1.0, math.exp(-2 * 2)]  # another task, a tenth of the rows
    assert found is not None and found.nearest == ("near", "far") and found.cases == 2
    assert found.behind == pytest.approx((weights[0] * 1 + weights[1] * 7) / sum(weights))
    assert math.log(found.factor) == pytest.approx(
        (weights[0] * math.log(3) + weights[1] * math.log(0.1)) / sum(weights)
    )
    assert expected(CASE, "full", [far, near]) is None


@pytest.mark.parametrize(
    ("other", "distance"),
    [
        (CASE, 0),
        (Case("text-classification", "encoder", 1_000_000, 10), 2),
        (Case("text-classification", "encoder", 10_000_000, 1000), 1),
        (Case("text-classification", "decoder", 1_000_000, 1000), 1),
        (Case("token-classification", "encoder", 1_000_000, 1000), 1),
        (Case("text-classification", "encoder", 1_000_000, 10_000, num_labels=10), 0),  # as many rows a label
        (Case("text-classification", "encoder", 1_000_000, 1000, num_labels=10), 1),
    ],
)
def test_distance(other: Case, distance: float) -> None:
    assert CASE.distance(other) == other.distance(CASE) == pytest.approx(distance)


def test_within_half_a_point_the_cheaper_comes_first() -> None:
    expectations = {
        name: expected(CASE, name, [one("a", CASE, full=0.0, lora=0.4, ia3=0.6)]) for name in ("full", "lora", "ia3")
    }
    assert order(expectations, {"full": 9.0, "lora": 3.0, "ia3": 1.0}) == ["lora", "full", "ia3"]
    assert order(expectations, {"full": 2.0, "lora": 3.0, "ia3": 1.0}) == ["full", "lora", "ia3"]
    assert order({**expectations, "new": None}, {})[-1] == "new"


def test_a_case_does_not_advise_on_itself() -> None:
    odd = one("odd", CASE, full=9.0, lora=0.0)
    plain = [one(f"plain {number}", CASE, full=0.0, lora=9.0) for number in range(2)]
    found = {each["case"]: each for each in leave_one_out([odd, *plain])}
    assert found["odd"]["advised"] == "full" and found["odd"]["within_noise"] is False and found["odd"]["behind"] == 9
    assert found["odd"]["best"] == "lora" and found["odd"]["ties_with_the_best"] == ["lora"]


KNOWN = [one("a", CASE, full=0.0, lora=2.0, adapter=1.0, feature_based=3.0)]
ALL = [planned(name) for name in ("adapter", "feature-based", "full", "lora")]


def test_ranking_by_what_is_expected() -> None:
    found = advise("text-classification", ALL, evidence=KNOWN)
    assert names(found) == ["full", "adapter", "lora", "feature-based"]
    assert found.best is not None and found.best.technique == "full"
    assert [each.behind for each in found.ranked] == [0.0, 1.0, 2.0, 3.0]


def test_what_counts_is_rows_a_label() -> None:
    """1,000 rows of 100 labels are advised on as 10 of one, and the reason says so."""
    few = Case("text-classification", "encoder", 1_000_000, 10)
    known = [*KNOWN, one("few", few, full=9.0, lora=5.0, adapter=7.0, feature_based=0.0)]
    assert names(advise("text-classification", ALL, evidence=known))[0] == "full"
    many = advise("text-classification", [planned(each["technique"], num_labels=100) for each in ALL], evidence=known)
    assert names(many)[0] == "feature-based" and many.case.num_labels == 100
    (reason,) = (reason for reason in many.ranked[0].reasons if reason.rule == "rows")
    assert reason.says.endswith("; 10 rows a label")


@pytest.mark.parametrize(
    ("need", "first", "lacking"),
    [
        ("merge", "full", {"adapter", "feature-based"}),
        ("switch", "adapter", {"full"}),
        ("latency", "full", {"adapter"}),
        ("keep", "adapter", {"full"}),
    ],
)
def test_each_need_moves_what_does_not_give_it(
    need: str, first: str, lacking: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        evidence.content(), "latency", {"adapter": 1.3, "feature-based": 1.02, "lora": 1.6, "full": 1.0}
    )
    found = advise("text-classification", ALL, [need], evidence=KNOWN)
    assert found.ranked[0].technique == first
    assert {each.technique for each in found.ranked if each.unmet} == lacking
    assert names(found)[-len(lacking) :] == [name for name in names(found) if name in lacking]
    for each in found.ranked:
        (reason,) = (reason for reason in each.reasons if reason.rule == need)
        assert reason.against == (each.technique in lacking) and reason.says and reason.evidence


def test_every_need_is_checked() -> None:
    with pytest.raises(UserError, match="swich"):
        advise("text-classification", ALL, ["swich"], evidence=KNOWN)
    assert set(NEEDS) == {"merge", "switch", "latency", "keep"}


def test_what_does_not_fit_is_not_advised() -> None:
    large = [planned("full", fits=False, largest_batch=4), planned("lora"), planned("adapter", fits=None)]
    found = advise("text-classification", large, evidence=KNOWN)
    assert names(found) == ["adapter", "lora", "full"] and not found.ranked[-1].possible
    (memory,) = (reason for reason in found.ranked[-1].reasons if reason.rule == "memory")
    assert memory.against and "4 rows" in memory.says
    none = advise("text-classification", [planned("full", fits=False)], evidence=KNOWN)
    assert none.best is None and none.as_json()["technique"] is None


def test_what_is_refused_and_what_nobody_measured() -> None:
    refused = {"status": "refused", "reason": "no bias terms", "technique": "bitfit"}
    found = advise("text-classification", [refused, planned("ia3"), planned("lora")], evidence=KNOWN)
    assert names(found) == ["lora", "ia3", "bitfit"]
    assert found.ranked[1].behind is None and found.ranked[2].reasons[0].says == "no bias terms"
    with pytest.raises(UserError, match="no bias terms"):
        advise("text-classification", [refused], evidence=KNOWN)


def test_four_bits_are_measured_as_what_they_are() -> None:
    found = advise("text-classification", [planned("qlora"), planned("full")], evidence=KNOWN)
    assert {each.technique: each.behind for each in found.ranked} == {"full": 0.0, "qlora": 2.0}


def test_a_stream_gets_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"none": {"average": 40.0, "forgetting": 20.0}, "ewc": {"average": 60.0, "forgetting": 1.0}}
    monkeypatch.setitem(evidence.content(), "strategies", kept)
    assert advise("text-classification", ALL, evidence=KNOWN).strategies == ()
    found = advise("text-classification", ALL, evidence=KNOWN, stages=3)
    assert [each["strategy"] for each in found.strategies] == ["ewc", "none"]
    assert any(reason.rule == "switch" for reason in found.ranked[0].reasons)
    assert not any(each.unmet for each in found.ranked)  # nobody said that it is needed


def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("advice_benchmark", ROOT / "benchmarks" / "advice.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "advice_benchmark", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_package_carries_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = benchmark(monkeypatch)
    results = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    assert module.carried(results) == json.loads(evidence.FILE.read_text(encoding="utf-8"))
    assert results["strategies"] == module.strategies()
    assert leave_one_out(evidence.measured()) == results["leave_one_out"]


def test_the_command_proposes_what_train_takes(
    cli: Cli, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_for("text-classification", 40)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    given = [
        "--model",
        str(tiny_model("bert", models / "bert")),
        "--train",
        "rows.jsonl",
        "--batch-size",
        "8",
        "--no-doctor",
    ]
    asked = ["plan", *given, "--techniques", "full,lora,adapter", "--advise"]
    said = cli(*asked, "--needs", "switch,merge", "--output", "run.yaml")
    assert said.code == 0, said.err
    assert re.search(r"3\d rows with 2 labels", " ".join(said.out.split()))
    assert "technique: lora" in said.out and "tunesmith train --config run.yaml" in said.out
    lacks = dict(re.findall(r"^\d +(\w+) .* yes +(.*?) *$", said.out, re.M))
    assert next(iter(lacks)) == "lora" and lacks == {"lora": "", "full": "switch", "adapter": "merge"}
    done = cli("train", "--config", "run.yaml", "--epochs", "1", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["technique"] == "lora"
    again = cli(*asked, "--output", "run.yaml")
    assert again.code == 2 and "--overwrite" in again.err
    kept = cli(*asked, "--needs", "keep", "--json", "--output", "run.yaml", "--overwrite")
    content = json.loads(kept.out)
    assert content["advice"]["config"] == (tmp_path / "run.yaml").read_text(encoding="utf-8")
    assert content["advice"]["technique"] in ("lora", "adapter") and len(content["techniques"]) == 3
    alone = cli("plan", *given, "--needs", "merge")
    assert alone.code == 2 and "--advise" in alone.err


def test_where_nothing_fits_four_bits_are_tried(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[str]] = []

    def predicted(config: RunConfig, techniques: Any = ()) -> list[dict[str, Any]]:
        tried.append(list(techniques))
        return [planned("qlora") if techniques == ["qlora"] else planned("lora", fits=False)]

    monkeypatch.setattr(dry_run, "predict_all", predicted)
    own = build(RunConfig, {"model": "somewhere", "train": "rows.jsonl"})
    assert names(dry_run.advise_on(own).advice) == ["qlora", "lora"] and tried == [[], ["qlora"]]
    assert names(dry_run.advise_on(own, ["lora"]).advice) == ["lora"]


def test_the_command_that_settles_it_is_one(
    cli: Cli, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed at the end is a comparison that is taken, of rows and of a stream."""
    from tunesmith.cli import flags
    from tunesmith.config import CompareConfig

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_for("text-classification", 30)), encoding="utf-8")
    stages = "".join(f"  - {{name: {name}, task: text-classification, train: rows.jsonl}}\n" for name in ("a", "b"))
    (tmp_path / "stages.yaml").write_text(f"stages:\n{stages}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = str(tiny_model("bert", models / "bert"))
    for name, source in (("plain", ["--train", "rows.jsonl"]), ("stream", ["--stream", "stages.yaml"])):
        said = cli(
            "plan",
            "--model",
            model,
            *source,
            "--techniques",
            "lora,bitfit",
            "--advise",
            "--no-doctor",
            "--output",
            f"{name}.yaml",
        )
        command = re.search(r"See for yourself: tunesmith compare (.*?runs/compared)", " ".join(said.out.split()))
        assert said.code == 0 and command, said.out + said.err
        words = shlex.split(command[1])
        given: dict[str, Any] = {
            word[2:]: value for word, value in itertools.pairwise(words) if word.startswith("--") and word != "--set"
        }
        lists = {key: flags.words(given.pop(key)) for key in ("techniques", "strategies") if key in given}
        assigned = [value for word, value in itertools.pairwise(words) if word == "--set"]
        built = build(CompareConfig, flags.layered(given.pop("config"), assigned, {**given, **lists}))
        assert sorted(built.techniques) == ["bitfit", "lora"]
        assert name == "stream" or built.learning_rate is None  # which is searched for each
        assert (built.search == "halving") is (name == "plain") and bool(built.strategies) is (name == "stream")
