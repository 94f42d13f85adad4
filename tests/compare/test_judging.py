"""Ties, self-tests and disagreements of a comparison, from the predictions that its runs wrote."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tunesmith
from tunesmith import config as configuration
from tunesmith.compare import examples, judging, self_tests
from tunesmith.compare.judging import Answers, Scene
from tunesmith.compare.report import render
from tunesmith.compare.report.answer import answer
from tunesmith.compare.table import comparison_table, footnotes
from tunesmith.config import CompareConfig
from tunesmith.metrics.classification import SingleLabel
from tunesmith.metrics.counts import columns_of, row_counts, score
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`full` learns the rows, `lora` at a rate of next to nothing does not."""
    model = str(tiny_model("llama", tmp_path_factory.mktemp("llama")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tunesmith.compare(
            model, train=toy_rows(48), eval=toy_rows(40), techniques=["full", "lora"], baselines=["majority", "tfidf"], seeds=[0, 1], max_steps=24, batch_size=8,
            learning_rates={"full": 1e-3, "lora": 1e-7}, output=tmp_path_factory.mktemp("comparison"),
        )  # fmt: skip


def row_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in results["rows"] if row["technique"] == name)


def test_rows_are_held_against_the_best(done: Any) -> None:
    results = json.loads((done.folder / "results.json").read_text(encoding="utf-8"))
    about = results["protocol"]["judging"]
    assert (about["best"], about["rows"], about["resamples"], about["seeds"]) == ("full", 40, 2000, 2)
    best, worse = row_of(results, "full"), row_of(results, "lora")
    assert best["against_best"] is None and row_of(results, "untouched")["against_best"] is None
    found = worse["against_best"]
    assert set(found) == {"difference", "low", "high", "p", "tie"}
    assert found["difference"] == pytest.approx(worse["primary"]["mean"] - best["primary"]["mean"])
    assert found["low"] <= found["difference"] <= found["high"] and found["difference"] < 0
    assert found["tie"] is (found["high"] >= 0) and found["tie"] is (found["p"] > 0.05)
    above = row_of(results, "tfidf")["against_best"]  # one word decides, and a linear model finds it
    assert above["difference"] == pytest.approx(1 - best["primary"]["mean"]) and above["difference"] > 0


def test_every_run_wrote_what_its_rows_add(done: Any) -> None:
    for name, seed in (("full", 0), ("lora", 1), ("majority", 0)):
        place = done.folder / "runs" / name / str(seed)
        lines = [json.loads(line) for line in (place / "predictions.jsonl").read_text().splitlines()]
        after = json.loads((place / "result.json").read_text())["metrics"]["after"]
        found = score(SingleLabel(), columns_of([line["counts"] for line in lines]), 40)
        assert found == pytest.approx({key: after[key] for key in found})


def test_a_tie_is_called_a_tie(done: Any) -> None:
    from rich.console import Console

    results = json.loads(json.dumps(done.results))
    row_of(results, "lora")["against_best"] |= {"tie": False, "difference": -0.25}
    row_of(results, "tfidf")["against_best"] |= {"tie": True}
    console = Console(width=100)
    with console.capture() as capture:
        console.print(comparison_table(results))
    lines = {line.split()[0]: line for line in capture.get().splitlines() if line.strip()}
    assert " tie " in lines["tfidf"] and "−" in lines["lora"] and " tie " not in lines["lora"]
    assert any(
        "to the best: difference to full" in note and "eval rows and seeds" in note for note in footnotes(results)
    )
    assert "leaves each of them behind" in answer(results).sentences[1]
    assert any("tfidf baseline" in each and "It is a tie" in each for each in answer(results).cautions)
    row_of(results, "lora")["against_best"] |= {"tie": True, "difference": -0.01}
    row_of(results, "lora")["train_seconds"] = 1e-3
    assert "`lora` is a tie with it" in answer(results).sentences[1]
    assert "trains in less time" in answer(results).sentences[1]
    page = render(results)
    assert ">to the best</button>" in page and re.search(r'data-value="-0.01">\s*tie, −1.0', page)


def test_a_run_without_counts_is_not_judged(done: Any) -> None:
    """What an older version wrote is still read, without ties."""
    config = configuration.build(CompareConfig, configuration.read_file(done.folder / "comparison.yaml"))
    runs = [run for run in done.results["runs"] if run["technique"] != "untouched"]
    scene = Scene.of(config)
    answers = [Answers.read(run, done.folder, 40) for run in runs]
    assert all(answers) and Answers.read(runs[0], done.folder, 39) is None
    assert Answers.read({**runs[0], "folder": "nowhere"}, done.folder, 40) is None
    for each in answers:
        if each.run["technique"] == "lora":
            each.columns = {}
    rows, best = judging.against_best(done.results["rows"], answers, scene, "accuracy", True)
    assert best["best"] == "full"
    assert next(row for row in rows if row["technique"] == "lora")["against_best"] is None
    assert judging.against_best(done.results["rows"], [], scene, "accuracy", True)[1] is None


def test_examples_are_rows_that_divide_techniques(done: Any) -> None:
    found = done.results["examples"]
    assert 0 < len(found) <= 6
    for each in found:
        said = {one["technique"]: one["answer"] for one in each["answers"]}
        assert set(said) == {"full", "lora"} and said["full"] != said["lora"]
        assert each["target"] == toy_rows(40)[each["row"] - 1]["label"]
        assert each["input"] == {"text": toy_rows(40)[each["row"] - 1]["text"]}
        assert [one["right"] for one in each["answers"]] == [one["answer"] == each["target"] for one in each["answers"]]
    scene = Scene.of(configuration.build(CompareConfig, configuration.read_file(done.folder / "comparison.yaml")))
    answers = [judging.Answers.read(run, done.folder, 40) for run in done.results["runs"]]
    chosen = [examples.choose([each for each in answers if each], scene, most) for most in (0, 1, 100)]
    assert chosen[0] == [] and len(chosen[1]) == 1 and len(chosen[2]) >= len(found)
    evil = "</p><script>alert(1)</script>"
    results = {**done.results, "examples": [{**found[0], "input": {"text": evil}, "target": evil}]}
    page = render(results)
    assert "Where techniques disagree" in page and evil not in page and "&lt;script&gt;alert(1)" in page


def test_texts_are_cut() -> None:
    assert examples.cut("a" * 400, 10) == "a" * 9 + "…" and examples.cut("abc", 3) == "abc"
    assert examples.as_text(["B-PER", "O"]) == "B-PER O" and examples.as_text("") == "(nothing)"


# ---- self-tests


def world(
    task: str, folder: Path, say: Callable[[Any, random.Random], Any], **more: Any
) -> tuple[list[Answers], Scene, str]:
    """Answers of a made-up technique, without any model."""
    rows = more.pop("rows", None) or rows_for(task, 60)
    path = folder / f"{task}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {"model": "m", "task": task, "train": str(path), "eval": str(path), **more}
    scene = Scene.of(configuration.build(CompareConfig, settings))
    draw, metric = random.Random(4), scene.task.metric()
    shown, values = zip(*[say(true, draw) for true in scene.truths], strict=True)
    for value, true in zip(values, scene.truths, strict=True):
        metric.update(value, true)
    counts = row_counts(metric, values, scene.truths)
    lines = [{"prediction": one, "counts": count} for one, count in zip(shown, counts, strict=True)]
    run = {"technique": "made-up", "kind": "technique", "model": "m", "seed": 0, "metrics": {"after": metric.compute()}}
    return [Answers(run, lines, columns_of(counts))], scene, scene.task.primary


def labels(true: Any, draw: random.Random) -> Any:
    value = int(true) if draw.random() < 0.8 else draw.randint(0, 1)
    return ("negative", "positive")[value], value


def tags(true: Any, draw: random.Random) -> Any:
    guess = [tag if draw.random() < 0.7 else draw.choice(["O", "B-WORK", "I-WORK", "B-WORD"]) for tag in true]
    return guess, guess


def sets(true: Any, draw: random.Random) -> Any:
    value = np.array([bit if draw.random() < 0.8 else 1 - bit for bit in true])
    return [("negative", "positive", "slow")[i] for i in np.flatnonzero(value)], value


def numbers(true: Any, draw: random.Random) -> Any:
    value = np.float32(float(true) + draw.gauss(0, 1))
    return float(value), value


def texts(true: Any, draw: random.Random) -> Any:
    text = true[0] if draw.random() < 0.6 else draw.choice(["The good, film", "awful", ""])
    return text, text


MANY = [{"text": r["text"], "label": [r["label"], *(["slow"] if "slow" in r["text"] else [])]} for r in toy_rows(60)]
WITH_NUMBERS = [{"text": f"{r['text']} {i}", "label": (i % 7) / 3 + 0.5} for i, r in enumerate(toy_rows(60))]
WORLDS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "labels": ("text-classification", labels, {}),
    "label sets": ("text-classification", sets, {"rows": MANY}),
    "numbers": ("text-classification", numbers, {"rows": WITH_NUMBERS}),
    "entities": ("token-classification", tags, {}),
    "answers": ("question-answering", texts, {}),
}


@pytest.mark.parametrize("name", WORLDS)
def test_right_metrics_pass_their_tests(name: str, tmp_path: Path) -> None:
    task, say, more = WORLDS[name]
    found = self_tests.carry_out(*world(task, tmp_path, say, **more))
    names = {test["name"]: test for test in found}
    assert {
        "identity forgets nothing",
        "two ways to compute",
        "counted by hand",
        "shuffled targets give chance",
    } <= set(names)
    assert all(test["passed"] for test in found), found
    assert names["identity forgets nothing"]["found"] == 0
    assert ("a lost answer is forgotten" in names) == (name != "numbers")
    json.dumps(found)


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro"])
def test_rare_answers_are_no_false_alarm(metric: str, tmp_path: Path) -> None:
    """Where 30 shuffles may all miss, a mean of nothing is no proof of another expectation."""
    rows = [{"text": f"mail {number}", "label": "spam" if number in (5, 40, 77) else "ham"} for number in range(100)]
    for place in range(12):
        said = iter(range(100))
        (one,), scene, _ = world(
            "text-classification",
            tmp_path,
            lambda *_, said=said, place=place: ("spam", 1) if next(said) in (place, 50 + place) else ("ham", 0),
            rows=rows,
        )
        found = self_tests.chance(one, scene, metric)
        assert found is not None and found["passed"], found


def test_classes_that_are_fractions_are_counted(tmp_path: Path) -> None:
    rows = [{"text": f"film {number}", "label": (number % 5) / 2} for number in range(60)]
    problem = {"text-classification": {"problem": "single-label"}}
    scene = world("text-classification", tmp_path, lambda true, _: (f"{true / 2:g}", true), rows=rows, **problem)
    assert {test["name"] for test in self_tests.carry_out(*scene) if not test["passed"]} == set()


def test_wrong_metrics_fail_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each self-test is failed by the mistake it is there for."""
    from tunesmith.evaluation import forgetting

    def failed(answers: Any, scene: Any, primary: str) -> set[str]:
        return {test["name"] for test in self_tests.carry_out(answers, scene, primary) if not test["passed"]}

    answers, scene, primary = world("text-classification", tmp_path, labels)
    assert failed(answers, scene, primary) == set()
    with monkeypatch.context() as patch:  # the sign is the wrong way round
        patch.setattr(forgetting, "change", lambda metric, before, after: after - before)
        assert failed(answers, scene, primary) == {"a lost answer is forgotten"}
    with monkeypatch.context() as patch:  # forgetting that is there from the start
        patch.setattr(forgetting, "change", lambda metric, before, after: before - after + 1e-9)
        assert "identity forgets nothing" in failed(answers, scene, primary)
    right = SingleLabel.compute
    with monkeypatch.context() as patch:  # a metric that is more generous than it should be
        patch.setattr(SingleLabel, "compute", lambda self: {**right(self), "accuracy": right(self)["accuracy"] + 0.1})
        assert failed(answers, scene, primary) == {"shuffled targets give chance"}
    answers[0].run["metrics"]["after"]["accuracy"] += 0.01  # what was written is not what was predicted
    assert failed(answers, scene, primary) == {"two ways to compute", "counted by hand"}
    answers[0].run["metrics"]["after"]["accuracy"] -= 0.01
    answers[0].lines[0]["prediction"] = {"positive": "negative", "negative": "positive"}[
        answers[0].lines[0]["prediction"]
    ]
    assert "counted by hand" in failed(answers, scene, primary)


def test_a_failed_self_test_is_loud(done: Any) -> None:
    assert {test["passed"] for test in done.results["protocol"]["self_tests"]} == {True}
    assert len(done.results["protocol"]["self_tests"]) == 5
    results = json.loads(json.dumps(done.results))
    results["protocol"]["self_tests"][2] |= {"passed": False}
    assert any("do not trust these numbers" in note for note in footnotes(results))
    assert "Do not trust" in answer(results).cautions[0]
    assert "FAILED" in render(results) and "FAILED" not in render(done.results)
