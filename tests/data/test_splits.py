"""Which rows serve for what: cuts by content, and eval rows that are only ever measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.config import RunConfig
from tunesmith.data.sources import Rows
from tunesmith.data.splits import SHARE, assign, cut, load_roles, position
from tunesmith.errors import ConfigError, DataError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

INPUTS = ("text", "text_pair")


def rows_of(texts: Sequence[str], labels: Sequence[Any] | None = None) -> Rows:
    table = Dataset.from_dict({"text": list(texts), "label": list(labels or [0] * len(texts))})
    return Rows(table, "rows.csv", hashlib.sha256("\0".join(texts).encode()).hexdigest())


def texts(rows: Rows) -> list[str]:
    return list(rows.table["text"])


MANY = [f"text number {i}" for i in range(400)]


def test_a_cut_keeps_every_row_once_and_takes_about_its_share() -> None:
    kept, off = cut(rows_of(MANY), INPUTS, "eval")
    assert sorted(texts(kept) + texts(off)) == sorted(MANY)
    assert 0.05 < len(off) / len(MANY) < 0.16
    assert texts(off) == texts(cut(rows_of(MANY), INPUTS, "eval")[1])


def test_the_cut_follows_content_not_order() -> None:
    off = cut(rows_of(MANY), INPUTS, "eval")[1]
    assert set(texts(off)) == set(texts(cut(rows_of(MANY[::-1]), INPUTS, "eval")[1]))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(MANY), min_size=20, max_size=120).filter(lambda found: len(set(found)) > 5))
def test_duplicates_never_straddle_a_cut(found: list[str]) -> None:
    kept, off = cut(rows_of(found, list(range(len(found)))), INPUTS, "eval")
    assert not set(texts(kept)) & set(texts(off))
    assert len(kept) + len(off) == len(found)
    assert len(off) > 0


def test_a_label_does_not_move_a_row() -> None:
    """Duplicates with another label are still duplicates: neither may be trained on if the other is measured."""
    a = cut(rows_of(MANY, [0] * len(MANY)), INPUTS, "eval")[1]
    b = cut(rows_of(MANY, [1] * len(MANY)), INPUTS, "eval")[1]
    assert texts(a) == texts(b)


def test_both_texts_of_a_pair_count() -> None:
    table = Dataset.from_dict({"text": ["same"] * 200, "text_pair": MANY[:200], "label": [0] * 200})
    kept, off = cut(Rows(table, "pairs.csv", "x"), INPUTS, "eval")
    assert 0 < len(off) < len(kept)


def test_adding_rows_never_moves_the_old_ones() -> None:
    before = set(texts(cut(rows_of(MANY[:200]), INPUTS, "eval")[1]))
    after = set(texts(cut(rows_of(MANY), INPUTS, "eval")[1]))
    assert before <= after
    assert not (after - before) & set(MANY[:200])


def test_eval_and_validation_are_independent_draws() -> None:
    off_eval = set(texts(cut(rows_of(MANY), INPUTS, "eval")[1]))
    off_validation = set(texts(cut(rows_of(MANY), INPUTS, "validation")[1]))
    assert off_eval != off_validation


def test_a_position_is_a_share_of_one() -> None:
    places = [position({"text": text}, "eval") for text in MANY]
    assert all(0 <= place < 1 for place in places)
    assert len(set(places)) == len(MANY)
    assert sum(places) / len(places) == pytest.approx(0.5, abs=0.05)  # 3.5 standard errors of a uniform mean


def test_few_rows_still_give_an_eval_row() -> None:
    kept, off = cut(rows_of(["a", "b", "c"]), INPUTS, "eval")
    assert len(off) >= 1
    assert len(kept) >= 1


@pytest.mark.parametrize("found", [["a"], ["a", "a", "a"]])
def test_rows_that_cannot_be_cut_are_refused(found: list[str]) -> None:
    with pytest.raises(DataError, match="--eval"):
        cut(rows_of(found), INPUTS, "eval")


# ---- roles


def test_the_eval_cut_is_the_same_whether_or_not_something_is_chosen() -> None:
    plain = assign(rows_of(MANY), None, None, INPUTS, chooses=False)
    choosing = assign(rows_of(MANY), None, None, INPUTS, chooses=True)
    assert plain.validation is None
    assert choosing.validation is not None
    assert texts(plain.eval) == texts(choosing.eval)
    assert plain.eval.sha256 == choosing.eval.sha256
    parts = [set(texts(part)) for part in (choosing.train, choosing.validation, choosing.eval)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(MANY)


def test_no_rows_are_cut_off_for_a_part_that_is_given() -> None:
    given_rows = rows_of(["v1", "v2"]), rows_of(["e1", "e2"])
    roles = assign(rows_of(MANY), *given_rows, INPUTS, chooses=True)
    assert len(roles.train) == len(MANY)
    assert roles.validation is given_rows[0]
    assert roles.eval is given_rows[1]
    assert set(roles.origins) == {"train", "validation", "eval"}
    assert roles.describe() == {"train": 400, "validation": 2, "eval": 2, "origins": roles.origins}


def test_validation_is_cut_only_from_training_rows_when_eval_is_given() -> None:
    roles = assign(rows_of(MANY), None, rows_of(MANY[:5]), INPUTS, chooses=True)
    assert roles.validation is not None
    assert texts(roles.eval) == MANY[:5]
    assert f"{SHARE:.0%}" in roles.origins["validation"]


class _Task:
    required, optional, inputs, groups = ("text", "label"), ("text_pair",), INPUTS, ()
    synonyms: ClassVar[dict[str, tuple[str, ...]]] = {}
    plain_text = None

    def chooses(self, train: Any) -> bool:
        return False


def _file(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _config(**settings: Any) -> RunConfig:
    return RunConfig.model_validate({"model": "m", **settings})


def test_subsets_do_not_depend_on_the_seed_of_the_run(tmp_path: Path) -> None:
    data = _file(tmp_path / "a.jsonl", [{"text": text, "label": i % 2} for i, text in enumerate(MANY)])
    found = [load_roles(_config(train=data, max_train_rows=30, max_eval_rows=7, seed=seed), _Task()) for seed in (0, 5)]
    assert len(found[0].train) == 30
    assert len(found[0].eval) == 7
    assert texts(found[0].train) == texts(found[1].train)
    assert texts(found[0].eval) == texts(found[1].eval)
    whole = load_roles(_config(train=data), _Task())
    assert set(texts(found[0].eval)) <= set(texts(whole.eval)), "a limit on training rows may not move eval rows"


def test_training_rows_are_required() -> None:
    with pytest.raises(ConfigError, match="train"):
        load_roles(_config(), _Task())


def test_eval_rows_never_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permuting the labels of the eval rows changes what is measured and not one bit of what is kept."""
    from tunesmith import run as runs
    from tunesmith.cache.store import file_sha256

    monkeypatch.setattr(runs, "verify_run", lambda folder: {}, raising=False)
    monkeypatch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
    rows = toy_rows(48)
    train, validation = _file(tmp_path / "t.jsonl", rows[:24]), _file(tmp_path / "v.jsonl", rows[24:36])
    other = {"positive": "negative", "negative": "positive"}
    evals = {"as-is": rows[36:], "flipped": [{**row, "label": other[row["label"]]} for row in rows[36:]]}
    shared: dict[str, Any] = {
        "technique": "full", "max_steps": 6, "batch_size": 8, "learning_rate": 3e-3, "device": "cpu",
        "training": {"evaluate_every": 1, "keep_best": True, "early_stopping": 5},
    }  # fmt: skip
    found = {}
    for name, part in evals.items():
        found[name] = runs.train(
            str(tiny_model("bert", tmp_path / "bert")), train=train, validation=validation, output=tmp_path / name,
            eval=_file(tmp_path / f"{name}.jsonl", part), **shared,
        )  # fmt: skip
    a, b = found["as-is"], found["flipped"]
    assert a.metrics["accuracy"] == pytest.approx(1 - b.metrics["accuracy"]), "the eval rows were not measured"
    assert a.result["training"]["best_step"] == b.result["training"]["best_step"] is not None
    assert file_sha256(a.artifact / "model.safetensors") == file_sha256(b.artifact / "model.safetensors")
    lines = [json.loads(line) for line in (a.folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines if line["event"] == "evaluate"} == {"validation"}
