"""Settings from file, --set and flags become one checked configuration, with every mistake named at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith import registry
from tunesmith.cli import flags
from tunesmith.config import (
    CompareConfig,
    RunConfig,
    assignments,
    build,
    dump,
    merge,
    options_of,
    parse_assignment,
    read_file,
)
from tunesmith.errors import ConfigError, UserError


def problems(raw: dict[str, Any], cls: type[RunConfig] = RunConfig) -> dict[str, str]:
    with pytest.raises(ConfigError) as error:
        build(cls, raw)
    assert error.value.exit_code == 2
    return dict(error.value.problems)


# ---- layers


def test_flags_win_over_set_and_set_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: file\nseed: 1\nbatch_size: 1\ntraining: {warmup: 1, log_every: 1}\n")
    raw = flags.layered(
        str(path), ["model=set", "seed=2", "training.warmup=2"], {"model": "flag", "seed": None, "overwrite": False}
    )
    config = build(RunConfig, raw)
    assert (config.model, config.seed, config.batch_size) == ("flag", 2, 1)
    assert (config.training.warmup, config.training.log_every) == (2, 1)


def test_a_flag_of_zero_is_a_value(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: m\nseed: 7\n")
    assert build(RunConfig, flags.layered(str(tmp_path / "a.yaml"), None, {"seed": 0})).seed == 0


def test_the_last_of_two_sets_wins_and_neighbours_stay() -> None:
    assert assignments(["lora.rank=4", "lora.alpha=8", "lora.rank=2"]) == {"lora": {"rank": 2, "alpha": 8}}


@pytest.mark.parametrize("key", ["max_length", "max-length"])
@pytest.mark.parametrize("section", ["text_classification", "text-classification"])
def test_dashes_and_underscores_are_alike(key: str, section: str) -> None:
    config = build(RunConfig, {"model": "m", key: 99, section: {"problem": "regression"}})
    assert config.max_length == 99
    assert options_of(config, "task", "text-classification").problem == "regression"


def test_dashes_and_underscores_are_one_key_across_layers() -> None:
    assert merge({"max-length": 1}, {"max_length": 2}) == {"max_length": 2}


def test_the_user_s_own_words_are_not_rewritten(tmp_path: Path) -> None:
    """Column names and labels are data: a dash in them is a dash."""
    (tmp_path / "a.yaml").write_text(
        "model: m\ncolumns: {text: my-review}\ntext-classification: {class_weights: {very-bad: 2, 1: 3}}\n"
    )
    config = build(RunConfig, flags.layered(str(tmp_path / "a.yaml"), None, {"columns": {"label": "how-good"}}))
    assert config.columns == {"text": "my-review", "label": "how-good"}
    assert options_of(config, "task", "text-classification").class_weights == {"very-bad": 2, "1": 3}
    again = build(RunConfig, read_text(tmp_path, dump(config)))
    assert again.model_dump() == config.model_dump()


def read_text(folder: Path, text: str) -> dict[str, Any]:
    (folder / "again.yaml").write_text(text, encoding="utf-8")
    return read_file(folder / "again.yaml")


# ---- numbers and nothing


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4", ".1e-3", "1.e-4"])
def test_numbers_are_numbers_in_files_and_in_set(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"model: m\nlearning_rate: {text}\npeft: {{some_rate: {text}}}\n")
    for raw in (
        read_file(tmp_path / "a.yaml"),
        assignments(["model=m", f"learning_rate={text}", f"peft.some_rate={text}"]),
    ):
        assert build(RunConfig, raw).learning_rate == pytest.approx(1e-4)
        assert raw["peft"]["some_rate"] == pytest.approx(1e-4), "an option that nobody checks must be a number too"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=8", 8), ("a=0.5", 0.5), ("a=true", True), ("a=null", None), ("a=", None), ("a=[q, v]", ["q", "v"]), ("a=x=y", "x=y"),
        ("a=nan", "nan"), ("a=infinity", "infinity"), ("a=1e", "1e"), ("a=a: b: c", "a: b: c"), ("a='1e-4'", "1e-4"), ("a=e5", "e5"),
    ],
)  # fmt: skip
def test_values_of_set(text: str, value: Any) -> None:
    assert parse_assignment(text) == (["a"], value)


@pytest.mark.parametrize("text", ["lora.rank", "", "=8", " =8"])
def test_set_without_a_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--set takes key=value.*lora\.rank=8"):
        parse_assignment(text)


def test_null_means_the_default_only_where_nothing_is_allowed() -> None:
    config = build(RunConfig, {"model": "m", "max_steps": None, "learning_rate": None, "lora": None})
    assert config.max_steps is None
    assert options_of(config, "technique", "lora").rank > 0
    assert "batch_size" in problems({"model": "m", "batch_size": None})


# ---- everything that is wrong, at once


def test_all_mistakes_are_reported_together() -> None:
    found = problems(
        {
            "technique": "lorra", "batch_size": 0, "lora": {"rnk": 8}, "training": {"warmup": -1, "wurmup": 1}, "leraning_rate": 1,
            "task": "text-clasification", "seed": "x",
        }
    )  # fmt: skip
    assert set(found) == {
        "technique", "batch_size", "lora.rnk", "training.warmup", "training.wurmup", "leraning_rate", "task", "seed", "model",
    }  # fmt: skip
    assert "did you mean `lora`" in found["technique"]
    assert "did you mean `rank`" in found["lora.rnk"]
    assert "did you mean `warmup`" in found["training.wurmup"]
    assert "did you mean `learning_rate`" in found["leraning_rate"]
    assert "got `0`" in found["batch_size"]
    assert "required" in found["model"]


def test_several_mistakes_are_one_message_with_a_line_each() -> None:
    with pytest.raises(ConfigError) as error:
        build(RunConfig, {"model": "m", "seed": -1, "epochs": -1})
    lines = str(error.value).splitlines()
    assert lines[0] == "2 settings are wrong:"
    assert sorted(line.split(":")[0].strip(" -") for line in lines[1:]) == ["epochs", "seed"]


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ({"lora": 8}, "lora", "mapping"),
        ({"options": 5}, "options", "option sets"),
        ({"options": {"lora": 5}}, "options", "option sets"),
        ({"training": 5}, "training", "got `5`"),
        ({"model": {"x": 1}}, "model", "string"),
        ({"report_to": ["nobody"]}, "report_to.0", "tensorboard"),
        ({"quantization": "nf5"}, "quantization", "nf4"),
        ({"dtype": "fp32"}, "dtype", "float32"),
        ({"epochs": 0}, "epochs", "greater than 0"),
        ({"epochs": "many"}, "epochs", "number"),
        ({"max_length": 3}, "max_length", "4"),
        ({"objective": "nothing"}, "objective", "supervised"),
        ({"columns": 5}, "columns", "got `5`"),
    ],
)
def test_one_mistake_says_where_and_what(raw: dict[str, Any], path: str, words: str) -> None:
    found = problems({"model": "m", **raw})
    assert list(found) == [path]
    assert words in found[path], found[path]


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ({"techniques": ["lora", "lorra"]}, "techniques", "did you mean `lora`"),
        ({"techniques": "lora"}, "techniques", "list"),
        ({"baselines": 5}, "baselines", "list"),
        ({"baselines": ["tf-idf"]}, "baselines", "did you mean `tfidf`"),
        ({"seeds": [0, -1]}, "seeds.1", "greater than or equal to 0"),
        ({"seeds": [1, 1]}, "seeds", "`1` is named twice; name it once."),
        ({"techniques": ["lora", "full", "lora"]}, "techniques", "`lora` is named twice"),
    ],
)
def test_mistakes_of_a_comparison(raw: dict[str, Any], path: str, words: str) -> None:
    found = problems({"model": "m", **raw}, CompareConfig)
    assert list(found) == [path]
    assert words in found[path], found[path]


def test_a_word_that_is_far_from_everything_gets_no_hint() -> None:
    assert "did you mean" not in problems({"model": "m", "zzzzzzzz": 1})["zzzzzzzz"]


# ---- files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1\nb: 2\n", ["not valid YAML", "line 2"]),
        (b"- a\n- b\n", ["key: value", "list"]),
        (b"just words\n", ["key: value", "str"]),
        (b"a: \xff\n", ["not UTF-8"]),
        (b"a: !!python/object/apply:os.system [true]\n", ["not valid YAML"]),
        (b"a: \x01\n", ["not valid YAML"]),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(content: bytes, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_file(tmp_path / "a.yaml")
    assert all(word in str(error.value) for word in ["a.yaml", *words]), str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_file(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_file(tmp_path / "empty.yaml") == {}


# ---- a resolved configuration gives itself again


def test_every_registered_thing_survives_a_dump(tmp_path: Path) -> None:
    for technique in registry.names("technique"):
        config = build(RunConfig, {"model": "m", "technique": technique if technique != "peft" else "peft:LOHA"})
        assert build(RunConfig, read_text(tmp_path, dump(config))).model_dump() == config.model_dump()


names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    model=names | st.sampled_from(["1e5", "2024", "null", "true", "-", "[a", "1_0", "0x1f", ".5e3"]),
    train=st.none() | names,
    columns=st.dictionaries(names, names, max_size=2),
    rate=st.none() | st.floats(1e-30, 1e30, allow_nan=False),
    epochs=st.none() | st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**62),
    separator=st.none() | names,
)
def test_any_configuration_survives_a_dump(tmp_path_factory: pytest.TempPathFactory, **fields: Any) -> None:
    separator = fields.pop("separator")
    raw = {{"rate": "learning_rate"}.get(key, key): value for key, value in fields.items()}
    config = build(RunConfig, {**raw, "text-classification": {"separator": separator}})
    again = build(RunConfig, read_text(tmp_path_factory.getbasetemp(), dump(config)))
    assert again.model_dump() == config.model_dump()
    assert yaml.safe_load(dump(config))["model"] == fields["model"], "any YAML reader must read the same"


def test_config_and_registry_load_without_torch() -> None:
    code = "import sys, tunesmith, tunesmith.config, tunesmith.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_where_a_name_belongs_are_not_printed_whole() -> None:
    rows = [{"text": f"private words {number}", "label": "a"} for number in range(1000)]
    with pytest.raises(ConfigError) as error:
        build(RunConfig, {"model": "m", "train": rows})
    assert "private words 0" in str(error.value) and len(str(error.value)) < 600


def test_what_is_null_is_not_part_of_a_runs_identity() -> None:
    """A later version's new setting leaves the hash of older runs as it was; any value changes it."""
    from tunesmith.run_folder import config_sha256

    plain = build(RunConfig, {"model": "m", "train": "a.csv"})
    same = build(RunConfig, {"model": "m", "train": "a.csv", "training": {"best_metric": None}})
    other = build(RunConfig, {"model": "m", "train": "a.csv", "training": {"best_metric": "loss"}})
    assert config_sha256(plain) == config_sha256(same) != config_sha256(other)
    dumped = plain.model_dump(mode="json", exclude_none=True)
    assert "best_metric" not in dumped["training"] and "validation" not in dumped
