"""Several models in one comparison: a row each, techniques where they make sense, baselines once, the report's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith import config as configuration
from tunesmith.compare.models import labelled
from tunesmith.compare.planning import plan
from tunesmith.config import CompareConfig
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows


def settings(**more: Any) -> CompareConfig:
    return configuration.build(
        CompareConfig,
        {"task": "text-classification", "train": "x.csv", "techniques": ["lora", "bitfit"], "seeds": [0, 1], **more},
    )


def test_eras_side_by_side(models: Path, tmp_path: Path) -> None:
    """n-gram, recurrent and pretrained models on one text in bits per byte, with the untouched model where there is one."""
    llama = str(tiny_model("llama", models / "llama"))
    done = tunesmith.compare(
        models=["new:rnn", llama], train=toy_rows(24), eval=toy_rows(6), task="language-modeling", techniques=["lora"], baselines=["ngram"],
        seeds=[0], max_steps=2, batch_size=8, max_length=32, new={"hidden": 8, "vocabulary": 300}, output=tmp_path,
    )  # fmt: skip
    rows = {(row["technique"], row["model"]): row for row in done.results["rows"]}
    assert set(rows) == {("ngram", "new:rnn"), ("full", "new:rnn"), ("lora", llama), ("untouched", llama)}
    assert all(row["status"] == "finished" and row["metrics"]["bits_per_byte"]["mean"] > 0 for row in rows.values())
    assert done.results["protocol"]["models"] == ["new:rnn", llama]
    report = done.report.read_text(encoding="utf-8")
    assert "full, new:rnn" in report and f"lora, {llama}" in report
    assert (tmp_path / "runs" / "new-rnn" / "full" / "0" / "result.json").is_file()
    again = configuration.build(CompareConfig, configuration.read_file(tmp_path / "comparison.yaml"))
    assert again.models == ["new:rnn", llama]
    from tunesmith.compare.runner import execute

    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    assert execute(again).results["rows"] == done.results["rows"]  # everything was there
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}


def test_new_models_learn_in_full_and_baselines_run_where_they_differ() -> None:
    config = settings(
        models=["new:gru", "asset:bert-tiny", "asset:minilm"], baselines=["majority", "linear-probe"], new={"hidden": 8}
    )
    config.epochs = 1
    found = [(each.kind, each.name, each.run.model, each.run.seed) for each in plan(config, Path("out"))]
    assert [entry for entry in found if entry[0] == "baseline"] == [
        ("baseline", "majority", "new:gru", 0),
        ("baseline", "linear-probe", "asset:bert-tiny", 0),
        ("baseline", "linear-probe", "asset:minilm", 0),
    ]
    trained = {(name, model) for kind, name, model, seed in found if kind == "technique" and seed == 1}
    assert trained == {
        ("full", "new:gru"), *((t, m) for t in ("lora", "bitfit") for m in ("asset:bert-tiny", "asset:minilm")),
    }  # fmt: skip
    places = [str(each.run.output) for each in plan(config, Path("out"))]
    assert len(set(places)) == len(places)
    hidden = {each.run.model: each.run.new.hidden for each in plan(config, Path("out"))}
    assert (hidden["new:gru"], hidden["asset:minilm"]) == (8, 512)  # others have no use for it
    for run in (each.run for each in plan(config, Path("out"))):
        assert configuration.build(configuration.RunConfig, json.loads(run.model_dump_json())).model == run.model


def test_one_model_keeps_its_names_and_places() -> None:
    config = settings(model="new:gru", baselines=["majority"])
    places = {(each.name, each.run.output) for each in plan(config, Path("out"))}
    assert ("lora", "out/runs/lora/0") in places and ("majority", "out/runs/majority/0") in places
    results = {"protocol": {"techniques": ["lora"]}, "rows": [{"technique": "lora", "kind": "technique"}], "runs": []}
    assert labelled(results) == results


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"models": ["new:gru", "new:gru"]}, "named twice"),
        ({"models": ["new:gur", "asset:minilm"]}, "did you mean `new:gru`"),
        ({"model": "asset:minilm", "models": ["new:gru", "asset:minilm"]}, "give one of them"),
        ({"models": ["asset:minilm"], "new": {"hidden": 8}}, "describes a model that starts from random weights"),
        ({}, "model: is required"),
    ],
)
def test_wrong_models(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(tunesmith.UserError, match=sentence):
        settings(**given)


def test_a_comparison_needs_a_model() -> None:
    with pytest.raises(tunesmith.UserError, match="needs a model"):
        tunesmith.compare(train=toy_rows(8))
