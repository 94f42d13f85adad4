"""A run that is there is taken for the one asked for only where adapters, teachers and further rows are the same, too, and not only their names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith import config as configuration
from tunesmith.compare.runner import execute
from tunesmith.config import CompareConfig, RunConfig
from tunesmith.errors import UserError
from tunesmith.inputs import sha256_of_inputs
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows


def adapter(model: str, place: Path, seed: int) -> None:
    """A trained adapter, in place of what is there."""
    shutil.rmtree(place, ignore_errors=True)
    given: dict[str, Any] = {"train": toy_rows(16), "eval": toy_rows(4), "technique": "lora", "max_steps": 2}
    tunesmith.train(model, **given, batch_size=8, seed=seed, output=place, device="cpu", doctor=False)


@pytest.mark.parametrize("which", ["init_adapter", "teacher"])
def test_an_adapter_of_the_same_name_is_another(which: str, models: Path, tmp_path: Path) -> None:
    model, place = str(tiny_model("bert", models / "bert")), tmp_path / "first"
    adapter(model, place, 0)
    more = {"teacher": {"objective": "distillation", "teacher": [str(place)]}, "init_adapter": {which: str(place)}}[
        which
    ]
    given: dict[str, Any] = {
        "train": toy_rows(16), "eval": toy_rows(4), "techniques": ["lora"], "baselines": [], "max_steps": 1, "batch_size": 4, "seeds": [0],
        "output": tmp_path / "c", "doctor": False, **more,
    }  # fmt: skip
    first = tunesmith.compare(model, **given).results["runs"][0]
    assert list(first["provenance"]["inputs_sha256"]) == [f"{which} {place}"]
    config = configuration.build(CompareConfig, configuration.read_file(tmp_path / "c" / "comparison.yaml"))
    assert execute(config).results["runs"][0]["cost"] == first["cost"]  # not repeated
    adapter(model, place, 1)
    with pytest.raises(UserError, match="other settings"):
        execute(config)
    again = execute(config, overwrite=True).results["runs"][0]
    assert again["provenance"]["inputs_sha256"] != first["provenance"]["inputs_sha256"]
    assert again["metrics"]["after"]["loss"] != first["metrics"]["after"]["loss"]


def test_further_rows_go_by_what_they_say(tmp_path: Path) -> None:
    """Rows without labels, and the text that generative replay is controlled with."""
    texts = tmp_path / "texts.csv"
    settings = {
        "unlabelled": {"objective": "distillation", "teacher": ["asset:t"], "distillation": {"unlabelled": str(texts)}},
        "texts": {"strategy": "generative-replay", "generative-replay": {"texts": str(texts)}},
    }
    for name, more in settings.items():
        found = []
        for text in ("text\none line\n", "text\nanother line\n", "text\none line\n"):
            texts.write_text(text, encoding="utf-8")
            config = configuration.build(RunConfig, {"model": "m", "train": "a.csv", **more})
            config.teacher = []
            found.append(sha256_of_inputs(config))
        assert list(found[0]) == [f"{name} {texts}"]
        assert found[0] == found[2] != found[1]


def test_a_usual_run_has_none() -> None:
    assert sha256_of_inputs(configuration.build(RunConfig, {"model": "m", "train": "a.csv"})) == {}
