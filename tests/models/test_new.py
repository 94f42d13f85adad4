"""Models from nothing: the tokenizer, the weights, the defaults, and a run that is like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import tunesmith
from tunesmith import config as configuration
from tunesmith.config import RunConfig
from tunesmith.data.sources import Rows
from tunesmith.models.new import make, texts, tokenizer_for, train_tokenizer
from tunesmith.testing import tiny_model
from tunesmith.testing.models import WORDS
from tunesmith.testing.rows import toy_rows

SMALL: dict[str, Any] = {"hidden": 12, "vocabulary": 300}
LINES = [*([" ".join(WORDS)] * 4), *(["the film was good", "phim này hay", "the plot was good 😀"] * 4)]


class Plain:
    """What making a model needs of a task."""

    inputs = ("text",)
    targets = ("label",)
    owns_head = True


def rows_of(values: list[Any], column: str = "text") -> Rows:
    return Rows(Dataset.from_dict({column: values}), "toy", json.dumps(values))


def settings(model: str = "new:lstm", **more: Any) -> RunConfig:
    return configuration.build(RunConfig, {"model": model, "train": "x.csv", **more})


def test_tokenizer_knows_every_text() -> None:
    tokenizer = train_tokenizer(iter(LINES), 320)
    for text in (*LINES, "日本 \x00 ÿ\n  two", ""):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert tokenizer("the film")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer("the film", "good")["input_ids"].count(tokenizer.eos_token_id) == 2
    assert len(tokenizer) <= 320 and tokenizer.unk_token is None
    found = tokenizer("the film", return_offsets_mapping=True, add_special_tokens=False)
    assert "".join("the film"[a:b] for a, b in found["offset_mapping"]) == "thefilm"  # spaces belong to no word
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    again = train_tokenizer(iter(LINES), 320)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert len(train_tokenizer(iter(LINES), 300)) == 300 < len(tokenizer)


def test_words_are_read_as_after_a_space() -> None:
    tokenizer = train_tokenizer(iter(LINES), 320, words=True)
    apart = tokenizer(["the", "film"], is_split_into_words=True, add_special_tokens=False)
    assert apart["input_ids"] == tokenizer("the film", add_special_tokens=False)["input_ids"]
    assert apart.word_ids()[-1] == 1


def test_texts_of_every_form() -> None:
    messages = json.dumps([{"role": "user", "content": "hello"}])
    assert list(texts(rows_of(["[a", "b"]), ["text"])) == ["[a", "b"]
    assert list(texts(rows_of([["one", "two"]], "tokens"), ["tokens"])) == ["one two"]
    assert list(texts(rows_of([messages], "messages"), ["messages"])) == ["user", "hello"]


def test_the_tokenizer_is_trained_once_on_the_inputs_alone() -> None:
    table = Dataset.from_dict({"text": LINES, "label": ["zqzqzq"] * len(LINES)})
    tokenizer = tokenizer_for(settings(new=SMALL), Plain(), Rows(table, "toy", "labels"))
    assert not any("zq" in token for token in tokenizer.get_vocab())
    other = tokenizer_for(settings("new:gru", seed=4, new=SMALL), Plain(), Rows(table, "toy", "labels"))
    assert other.get_vocab() == tokenizer.get_vocab()


def test_an_existing_tokenizer(models: Path, tmp_path: Path) -> None:
    folder = str(tiny_model("bert", models / "bert"))
    source = make(settings(new={**SMALL, "tokenizer": folder}), Plain(), rows_of(LINES), tmp_path)
    config = json.loads((Path(source.path) / "config.json").read_text())
    assert config["vocab_size"] == len(tokenizer_for(settings(new={"tokenizer": folder}), Plain(), rows_of(LINES)))
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (2, 3, 0)


@pytest.mark.parametrize(
    ("name", "value", "entry"),
    [
        ("layers", 1, "num_hidden_layers"), ("hidden", 16, "hidden_size"), ("embedding", 8, "embedding_size"), ("dropout", 0.5, "dropout"),
        ("bidirectional", True, "bidirectional"), ("tie_weights", False, "tie_word_embeddings"), ("vocabulary", 310, "vocab_size"),
    ],
)  # fmt: skip
def test_each_option_reaches_the_model(name: str, value: Any, entry: str, tmp_path: Path) -> None:
    found = []
    for number, more in enumerate(({}, {name: value})):
        source = make(settings(new={**SMALL, **more}), Plain(), rows_of(LINES), tmp_path / str(number))
        found.append(json.loads((Path(source.path) / "config.json").read_text())[entry])
    assert found[1] == value != found[0]


def test_weights_follow_the_seed(tmp_path: Path) -> None:
    shas = []
    for number, seed in enumerate((0, 0, 1)):
        torch.randn(number + 1)  # what was drawn before does not matter
        shas.append(make(settings(seed=seed, new=SMALL), Plain(), rows_of(LINES), tmp_path / str(number)).sha256)
    assert shas[0] == shas[1] != shas[2]
    place = tmp_path / "0" / "base_model" / "model.safetensors"
    written = place.stat().st_mtime_ns
    make(settings(new=SMALL), Plain(), rows_of(LINES), tmp_path / "0")
    assert place.stat().st_mtime_ns == written  # what is there is kept
    assert make(settings("new:gru", new=SMALL), Plain(), rows_of(LINES), tmp_path / "0").sha256 != shas[0]


def trained(out: Path, model: str = "new:lstm", **more: Any) -> tunesmith.RunResult:
    given = {"task": "language-modeling", "max_steps": 4, "batch_size": 4, "max_length": 32, "new": SMALL, **more}
    return tunesmith.train(model, train=toy_rows(24), eval=toy_rows(6), output=out, **given)


def test_a_run_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything learns by default, the artifact stands alone, and an interrupted run ends as an unbroken one."""
    run = trained(tmp_path / "run", training={"checkpoint_every": 2})
    assert "everything learns" in capsys.readouterr().err
    assert (run.result["technique"], run.result["model"]) == ("full", "new:lstm")
    assert run.result["training"]["learning_rate"] == 5e-3
    assert run.result["cost"]["trainable_parameters"] == run.result["cost"]["total_parameters"]
    assert run.metrics["bits_per_byte"] < run.result["metrics"]["before"]["bits_per_byte"]
    artifact = json.loads((run.artifact / "tunesmith.json").read_text())
    assert artifact["base_model"]["path"] == str((tmp_path / "run" / "base_model").resolve())
    assert "import tunesmith.models.recurrent" in (run.artifact / "README.md").read_text()
    broken = tmp_path / "run"
    for name in ("result.json", "predictions.jsonl"):
        (broken / name).unlink()
    shutil.rmtree(broken / "artifact")
    max((broken / "checkpoints").glob("step-*")).unlink()
    assert tunesmith.resume(broken)["metrics"]["after"] == run.metrics


def test_other_tasks_and_techniques(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(
        tmp_path / "a", "new:gru", task="text-classification", technique="lora", new={**SMALL, "bidirectional": True}
    )
    assert "starts from random weights" in capsys.readouterr().err
    assert run.result["technique"] == "lora"
    assert tunesmith.load(run.artifact).predict([{"text": "the film was good"}])[0]["prediction"] in (
        "positive",
        "negative",
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "new:lsmt"}, "unknown new model `new:lsmt`; did you mean `new:lstm`"),
        ({"model": "asset:bert-tiny", "new": {"hidden": 8}}, "describes a model that starts from random weights"),
        ({"model": "new:rnn", "new": {"hiden": 8}}, "did you mean `hidden`"),
        ({"model": "new:rnn", "new": {"vocabulary": 100}}, "greater than or equal to 300"),
    ],
)
def test_wrong_settings(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(tunesmith.UserError, match=sentence):
        configuration.build(RunConfig, {"train": "x.csv", **given})


@pytest.mark.parametrize(
    ("new", "sentence"), [({"bidirectional": True}, "sees the token"), ({"bidirectional": True, "hidden": 13}, "must be even")]
)  # fmt: skip
def test_models_that_cannot_be(new: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(tunesmith.UserError, match=sentence):
        trained(tmp_path / "run", new={**SMALL, **new})


def test_the_doctor_looks_at_rows_for_a_model_that_is_not_there_yet(tmp_path: Path) -> None:
    from tunesmith.data.sources import write_objects
    from tunesmith.doctor.examination import examine

    file = str(write_objects([{"text": text} for text in [*LINES, "a line of its own"]], tmp_path / "t.jsonl"))
    report = examine(
        configuration.build(RunConfig, {"model": "new:lstm", "task": "language-modeling", "train": file, "new": SMALL})
    )
    assert not report.errors and report.statistics


def test_zero_shot_has_nothing_to_ask() -> None:
    from tunesmith.baselines.zero_shot import Options, ZeroShot

    with pytest.raises(tunesmith.UserError, match="nothing to ask"):
        ZeroShot(Options()).predict(Plain(), None, settings())  # type: ignore[arg-type]
