"""Text classification: labels from rows, loss against closed forms and transformers, metrics against a second library."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tmc
import torchmetrics.functional.regression as tmr
import transformers
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.cache import store
from tunesmith.data.encode import encode, tokenizer_fingerprint
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError
from tunesmith.evaluation.evaluate import evaluate
from tunesmith.metrics.classification import MultiLabel, SingleLabel
from tunesmith.metrics.regression import Regression
from tunesmith.models.load import load_model, load_tokenizer, locate, pick_max_length
from tunesmith.tasks.text_classification import TextClassification
from tunesmith.testing import tiny_model
from tunesmith.testing.models import tiny_tokenizer

TEXTS = ["good film", "a very bad plot and slow", "fine", "awful book", "great actor", "dull"]


def rows_of(labels: list[Any], texts: list[str] | None = None, **others: list[Any]) -> Rows:
    found = (texts or [TEXTS[i % len(TEXTS)] for i in range(len(labels))])[: len(labels)]
    return Rows(
        Dataset.from_dict({"text": found, "label": labels, **others}),
        "rows.csv",
        store.key_of(labels=labels, others=others),
    )


def fitted(labels: list[Any], **options: Any) -> TextClassification:
    task = TextClassification(TextClassification.Options(**options))
    task.fit(rows_of(labels))
    return task


def batch_of(
    task: TextClassification, rows: Rows, max_length: int = 32, tokenizer: Any = None
) -> dict[str, torch.Tensor]:
    tokenizer = tokenizer or tiny_tokenizer(segments=True)
    return task.collate(
        [f for several in task.encode(rows.table.to_list(), tokenizer, max_length) for f in several],
        tokenizer.pad_token_id,
    )


# ---- what the labels say


@pytest.mark.parametrize(
    ("labels", "problem", "names"),
    [
        (["pos", "neg", "pos"], "single-label", ["neg", "pos"]),
        ([2, 0, 10], "single-label", ["0", "2", "10"]),
        ([1.0, 0.0, 3.0], "single-label", ["0", "1", "3"]),
        ([True, False], "single-label", ["false", "true"]),
        (["1", "0", "1"], "single-label", ["0", "1"]),
        (["1", "x"], "single-label", ["1", "x"]),
        ([0.5, 1.0, 2.0], "regression", []),
        ([1.0, 2.0, 2.5], "regression", []),
        (["4.5", "3", "2"], "regression", []),
        ([["a", "b"], [], ["b"]], "multi-label", ["a", "b"]),
        ([[3, 1], [2], [1]], "multi-label", ["1", "2", "3"]),
    ],
)
def test_the_problem_and_the_labels_are_read_from_the_rows(labels: list[Any], problem: str, names: list[str]) -> None:
    task = fitted(labels)
    assert task.problem == problem
    assert task.labels == names
    assert task.primary == {"regression": "pearson", "multi-label": "f1_macro"}.get(problem, "accuracy")
    overrides = task.config_overrides()
    assert overrides["num_labels"] == max(len(names), 1)
    if names:
        assert [overrides["id2label"][i] for i in range(len(names))] == names
        assert all(overrides["label2id"][name] == i for i, name in enumerate(names))


def test_whole_numbers_can_be_a_regression_when_one_says_so() -> None:
    assert fitted([1, 2, 3], problem="regression").problem == "regression"


def test_a_separator_makes_several_labels_of_a_cell() -> None:
    task = fitted(["a; b", "b", ""], separator=";")
    assert task.problem == "multi-label"
    assert task.labels == ["a", "b"]
    assert task.target("b;a").tolist() == [1, 1]
    assert task.target("").tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (["a", "a"], {}, ["only one label", "`a`"]),
        (["a", " "], {}, ["row 2", "label is empty"]),
        ([1.0, math.nan, 2.0], {}, ["row 2", "nan"]),
        ([1.5, math.inf], {}, ["row 2", "inf"]),
        ([1.0, math.inf, 2.0], {}, ["row 2", "inf"]),
        (["1.5", "x"], {"problem": "regression"}, ["row 2", "`x`", "finite number"]),
        ([2, 2], {"problem": "regression"}, ["every label is 2"]),
        ([1, 2], {"problem": "multi-label"}, ["row 1", "list of labels", "`1`"]),
        ([["a"], ["b"]], {"problem": "single-label"}, ["row 1", "list", "multi-label"]),
        ([[], []], {}, ["only one label", "none"]),
        (["a", "b"], {"class_weights": {"c": 2.0}}, ["`c`", "a, b"]),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(
    labels: list[Any], options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        fitted(labels, **options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_too_many_labels_are_a_wrong_column() -> None:
    with pytest.raises(DataError, match="--columns label="):
        fitted([f"id {i}" for i in range(10_001)])


def test_other_rows_may_only_have_known_labels() -> None:
    task = fitted(["pos", "neg"])
    task.check(rows_of(["neg", "neg"]), "eval")
    with pytest.raises(DataError) as error:
        task.check(rows_of(["neg", "maybe"]), "eval")
    assert all(word in str(error.value) for word in ("rows.csv, row 2", "`maybe`", "eval rows", "neg, pos"))


def test_a_text_that_is_a_list_is_refused() -> None:
    table = Dataset.from_dict({"text": [["good", "film"], ["bad"]], "label": ["a", "b"]})
    with pytest.raises(DataError, match=r"row 1.*`text`"):
        TextClassification(TextClassification.Options()).fit(Rows(table, "rows.csv", "x"))


# ---- rows to batches


def test_a_batch_is_padded_and_masked() -> None:
    task = fitted(["p", "n"])
    batch = batch_of(task, rows_of(["p", "n"], ["good film", "a very bad plot"]))
    assert batch["input_ids"].shape == (2, 6)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert batch["input_ids"][0, 4:].tolist() == [0, 0]
    assert batch["labels"].tolist() == [1, 0]
    assert "labels" not in task.model_inputs(batch)


def test_rows_are_cut_to_the_length_and_keep_the_end_mark() -> None:
    batch = batch_of(fitted(["p", "n"]), rows_of(["p"], ["a very bad plot and slow"]), max_length=4)
    assert batch["input_ids"].shape == (1, 4)
    assert batch["input_ids"][0, -1] == tiny_tokenizer(segments=True).sep_token_id


def test_a_pair_is_two_segments() -> None:
    task = fitted(["p", "n"])
    batch = batch_of(task, rows_of(["p", "n"], ["good", "bad film"], text_pair=["the book", None]))
    #        [CLS] good [SEP] the book [SEP]; a null second text is an empty one
    assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["attention_mask"].sum(1).tolist() == [6, 5]
    assert "token_type_ids" in task.model_inputs(batch)


def test_single_texts_have_no_segments() -> None:
    assert "token_type_ids" not in batch_of(fitted(["p", "n"]), rows_of(["p"]))


def test_a_pair_counts_wherever_it_stands() -> None:
    task, tokenizer = fitted(["p", "n"]), tiny_tokenizer(segments=True)
    plain, pair = {"text": "good"}, {"text": "bad", "text_pair": "the book"}
    for rows in ([plain, pair], [pair, plain]):
        lengths = {
            row["text"]: len(f[0]["input_ids"]) for row, f in zip(rows, task.encode(rows, tokenizer, 32), strict=True)
        }
        assert lengths["bad"] == 6


def test_a_number_is_read_as_its_digits() -> None:
    table = Dataset.from_dict({"text": [1, 2], "label": ["p", "n"]})
    assert len(list(fitted(["p", "n"]).encode(table.to_list(), tiny_tokenizer(segments=True), 8))) == 2


# ---- loss


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0]])


class _Outputs:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def mean_loss(task: TextClassification, logits: torch.Tensor, labels: torch.Tensor) -> float:
    batch = {"labels": labels}
    return float(task.loss(_Outputs(logits), batch)) / task.units(batch)


def test_the_loss_is_a_sum_over_rows() -> None:
    task = fitted(["a", "b", "c"])
    labels = torch.tensor([0, 2, 1])
    whole = task.loss(_Outputs(LOGITS), {"labels": labels})
    parts = sum(task.loss(_Outputs(LOGITS[i : i + 1]), {"labels": labels[i : i + 1]}) for i in range(3))
    torch.testing.assert_close(whole, parts)
    assert task.units({"labels": labels}) == 3


def test_uniform_logits_cost_the_logarithm_of_the_number_of_labels() -> None:
    assert mean_loss(fitted(["a", "b", "c"]), torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])) == pytest.approx(
        math.log(3)
    )


def test_weights_of_classes_act_as_in_the_closed_form() -> None:
    """loss = sum_i w(y_i) (-log p_i(y_i)) / sum_i w(y_i); balanced: w(y) = N / (K N_y)."""
    labels = ["a"] * 6 + ["b"] * 3 + ["c"]
    task = fitted(labels, class_weights="balanced")
    weights = np.asarray([10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)])
    assert task.weights == pytest.approx(weights.tolist())
    picked = np.asarray([0, 2, 2])
    p = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(1, keepdims=True)
    expected = (weights[picked] * -np.log(p[range(3), picked])).sum() / weights[picked].sum()
    assert mean_loss(task, LOGITS, torch.from_numpy(picked)) == pytest.approx(expected, rel=1e-6)
    assert mean_loss(fitted(labels), LOGITS, torch.from_numpy(picked)) != pytest.approx(expected, rel=1e-2)


def test_given_weights_and_one_for_the_others() -> None:
    assert fitted(["a", "b", "c"], class_weights={"b": 5}).weights == [1, 5, 1]


def test_weights_of_a_multi_label_task_scale_the_positive_cells() -> None:
    """BCE with w on the positive term: -(w y log s + (1 - y) log(1 - s)), mean over labels."""
    task = fitted([["a"], ["a", "b"], ["b"], ["b"]], class_weights={"a": 3})
    logits, labels = LOGITS[:, :2], torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    s = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    y, w = labels.numpy(), np.asarray([3.0, 1.0])
    expected = -(w * y * np.log(s) + (1 - y) * np.log(1 - s)).mean()
    assert mean_loss(task, logits, labels) == pytest.approx(expected, rel=1e-6)


KINDS = {
    "single-label": ["p", "n", "x", "p", "n", "x"],
    "multi-label": [["a"], ["b", "a"], [], ["c"], ["b"], ["a", "b", "c"]],
    "regression": [0.5, -1.25, 3.0, 2.0, 0.0, 1.0],
}


@pytest.mark.parametrize("problem", KINDS)
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_loss_is_transformers_own(problem: str, kind: str, models: Path) -> None:
    rows = rows_of(KINDS[problem])
    task = TextClassification(TextClassification.Options())
    task.fit(rows)
    assert task.problem == problem
    source = locate(str(tiny_model(kind, models / kind)))
    tokenizer = load_tokenizer(source)
    loaded = load_model(source, tokenizer, task)
    batch = batch_of(task, rows, tokenizer=tokenizer)
    with torch.no_grad():
        outputs = loaded.model(**task.model_inputs(batch), labels=batch["labels"])
        alone = loaded.model(**task.model_inputs(batch))
    ours = task.loss(alone, batch) / task.units(batch)
    torch.testing.assert_close(ours, outputs.loss, rtol=1e-5, atol=1e-6)  # the same sum in fp32, in another order


def test_scores_do_not_depend_on_the_batch(models: Path) -> None:
    """Padding is masked: rows alone, together, and in another order score the same."""
    rows = rows_of(["p", "n"] * 6)
    task = TextClassification(TextClassification.Options())
    task.fit(rows)
    source = locate(str(tiny_model("bert", models / "bert")))
    tokenizer = load_tokenizer(source)
    loaded = load_model(source, tokenizer, task)
    encoded = encode(task, rows, tokenizer, pick_max_length(None, task.default_max_length, loaded))
    found = [
        evaluate(
            loaded.model,
            task,
            rows.table,
            encoded,
            batch_size=size,
            device=torch.device("cpu"),
            pad_id=tokenizer.pad_token_id,
        )
        for size in (1, 5, 12)
    ]
    for other in found[1:]:
        for one, same in zip(other.answers, found[0].answers, strict=True):
            np.testing.assert_allclose(one.numbers, same.numbers, atol=1e-5)
        assert other.metrics == pytest.approx(found[0].metrics, abs=1e-5)


# ---- predictions


def shown_by(task: TextClassification, value: Any, score: Any) -> dict[str, Any]:
    return task.join([(value, score)], {}).shown


def read(task: TextClassification, logits: torch.Tensor) -> tuple[list[Any], list[Any]]:
    values, scores = zip(*task.read(None, _Outputs(logits), {}, []), strict=True)
    return [np.asarray(v).tolist() for v in values], list(scores)


def test_labels_come_back_as_what_they_were() -> None:
    assert shown_by(fitted([3, 7]), 1, 0.9) == {"prediction": 7, "score": 0.9}
    assert shown_by(fitted(["3", "7"]), 1, 0.9)["prediction"] == "7"
    assert shown_by(fitted(["n", "p"]), 0, 0.5)["prediction"] == "n"
    assert shown_by(fitted([0.5, 1.5]), np.float32(2.5), np.float32(2.5)) == {"prediction": 2.5}
    multi = fitted([[3], [5], [9]])
    shown = shown_by(multi, np.asarray([1, 0, 1]), np.asarray([0.9, 0.1, 0.6]))
    assert shown["prediction"] == [3, 9]
    assert list(shown["score"]) == ["3", "5", "9"]


def test_decoding_gives_the_most_likely_label_and_its_probability() -> None:
    predicted, score = read(fitted(["a", "b", "c"]), LOGITS)
    assert predicted == [0, 0, 1]
    p = torch.softmax(LOGITS, -1).max(-1).values
    np.testing.assert_allclose(score, p.numpy(), rtol=1e-6)


def test_the_threshold_decides_which_labels_of_a_row_are_predicted() -> None:
    logits = torch.tensor([[-1.0, 0.0, 1.0]])  # probabilities 0.27, 0.5, 0.73
    labels: list[Any] = [["a"], ["b"], ["c"]]
    assert read(fitted(labels), logits)[0] == [[0, 1, 1]]
    assert read(fitted(labels, threshold=0.2), logits)[0] == [[1, 1, 1]]
    assert read(fitted(labels, threshold=0.7), logits)[0] == [[0, 0, 1]]


# ---- metrics


def add(metric: Any, predicted: Any, true: Any) -> None:
    for one, other in zip(predicted, true, strict=True):
        metric.update(one, other)


def test_single_label_metrics_by_hand() -> None:
    """Two labels. true 1 1 1 0, predicted 1 1 0 1: tp 2, fp 1, fn 1, tn 0."""
    metric = SingleLabel()
    add(metric, np.asarray([1, 1]), np.asarray([1, 1]))
    add(metric, np.asarray([0, 1]), np.asarray([1, 0]))
    found = metric.compute()
    assert found["accuracy"] == 0.5
    assert found["f1_macro"] == pytest.approx((2 * 2 / (2 * 2 + 1 + 1) + 0) / 2)
    assert found["mcc"] == pytest.approx((2 * 0 - 1 * 1) / math.sqrt(3 * 3 * 1 * 1))


def test_multi_label_metrics_by_hand() -> None:
    """Label 0: tp 2 fp 0 fn 0; label 1: tp 0 fp 1 fn 1. One row of three is exactly right."""
    metric = MultiLabel()
    add(metric, np.asarray([[1, 0], [1, 1], [0, 0]]), np.asarray([[1, 0], [1, 0], [0, 1]]))
    found = metric.compute()
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["f1_macro"] == pytest.approx(0.5)


def test_regression_metrics_by_hand() -> None:
    metric = Regression()
    add(metric, np.asarray([1.0, 2.0]), np.asarray([1.0, 4.0]))
    add(metric, np.asarray([3.0]), np.asarray([9.0]))
    found = metric.compute()
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(8 / math.sqrt(2 * 98 / 3))  # cov 8 over spreads 2 and 98/3


@pytest.mark.parametrize("side", ["true", "predicted"])
def test_a_constant_side_correlates_with_nothing(side: str) -> None:
    metric = Regression()
    pair = (np.asarray([1.0, 2.0]), np.asarray([5.0, 5.0]))
    add(metric, *(pair if side == "true" else pair[::-1]))
    assert metric.compute() == {"pearson": 0.0, "spearman": 0.0}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(10, 60))
def test_metrics_agree_with_a_second_library(seed: int, classes: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    true, predicted = generator.integers(0, classes, rows), generator.integers(0, classes, rows)
    metric = SingleLabel()
    add(metric, predicted, true)
    found, a, b = metric.compute(), torch.from_numpy(predicted), torch.from_numpy(true)
    assert found["accuracy"] == pytest.approx(float(tmc.multiclass_accuracy(a, b, classes, average="micro")), abs=1e-6)
    seen = set(true) | set(predicted)
    each = tmc.multiclass_f1_score(a, b, classes, average=None)
    assert found["f1_macro"] == pytest.approx(float(each[sorted(seen)].mean()), abs=1e-6)
    if len(set(true)) > 1 and len(set(predicted)) > 1:  # a constant side is 0 here; torchmetrics puts an epsilon there
        assert found["mcc"] == pytest.approx(float(tmc.multiclass_matthews_corrcoef(a, b, classes)), abs=1e-5)

    cells = [(generator.random((rows, classes)) < 0.5).astype(np.int64) for _ in range(2)]
    many = MultiLabel()
    add(many, *cells)
    found, (a, b) = many.compute(), map(torch.from_numpy, cells)
    assert found["accuracy"] == pytest.approx(float(tmc.multilabel_exact_match(a, b, classes)), abs=1e-6)
    assert found["f1_macro"] == pytest.approx(float(tmc.multilabel_f1_score(a, b, classes, average="macro")), abs=1e-6)
    assert found["mcc"] == pytest.approx(float(tmc.binary_matthews_corrcoef(a.flatten(), b.flatten())), abs=1e-5)

    x, y = generator.standard_normal((2, rows))
    numbers = Regression()
    add(numbers, x, y)
    found, a, b = numbers.compute(), torch.from_numpy(x), torch.from_numpy(y)
    assert found["pearson"] == pytest.approx(float(tmr.pearson_corrcoef(a, b)), abs=1e-6)
    assert found["spearman"] == pytest.approx(float(tmr.spearman_corrcoef(a, b)), abs=1e-5)


# ---- state, tokenizers


@pytest.mark.parametrize("labels", [["p", "n", "n"], [1, 0, 5], [["a"], ["b"]], [0.5, 1.5], ["dở", "hay"]])
def test_what_was_learned_survives_json(labels: list[Any]) -> None:
    import json

    task = fitted(labels, class_weights="none" if isinstance(labels[0], float) else "balanced")
    other = TextClassification(copy.deepcopy(task.options))
    other.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert other.state_dict() == task.state_dict()
    assert other.config_overrides() == task.config_overrides()
    for label in labels:
        assert np.array_equal(other.target(label), task.target(label))


def python_tokenizer() -> Any:
    return transformers.ByT5Tokenizer(extra_ids=0)


def test_a_python_tokenizer_works_like_a_fast_one(tmp_path: Path) -> None:
    python_tokenizer().save_pretrained(tmp_path)
    transformers.BertConfig(vocab_size=300).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(locate_folder(tmp_path))
    assert not tokenizer.is_fast
    rows = rows_of(["p", "n"], ["phim hay", "dở quá là dở"])
    task = fitted(["p", "n"])
    encoded = encode(task, rows, tokenizer, 12)
    assert [len(encoded[i]["input_ids"]) for i in range(2)] == [9, 12]
    assert encoded[0]["input_ids"][-1] == tokenizer.eos_token_id
    assert encoded[1]["input_ids"][-1] == tokenizer.eos_token_id, "a cut row keeps its end mark"
    pairs = [f for fs in task.encode([{"text": "a", "text_pair": "b"}], tokenizer, 12) for f in fs]
    assert len(pairs[0]["input_ids"]) == 4


def locate_folder(path: Path) -> Any:
    from tunesmith.models.load import Source

    return Source(str(path), str(path), "")


def test_the_fingerprint_follows_the_words_not_the_last_call() -> None:
    tokenizer = tiny_tokenizer(segments=True)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "b"], truncation=True, max_length=4, padding=True)
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.add_tokens(["tunesmith"])
    assert tokenizer_fingerprint(tokenizer) != before
    slow = python_tokenizer()
    before = tokenizer_fingerprint(slow)
    slow(["a"], truncation=True, max_length=4)
    assert tokenizer_fingerprint(slow) == before
    slow.add_tokens(["tunesmith"])
    assert tokenizer_fingerprint(slow) != before


def test_special_tokens_in_a_text_are_text(models: Path, tmp_path: Path) -> None:
    """A literal end token must not become one: BART's head counts them and fails in the middle of training."""
    import tunesmith
    from tunesmith.testing import tiny_model
    from tunesmith.testing.rows import toy_rows

    rows = [{**row, "text": row["text"] + (" [SEP] [SEP]" if i % 3 == 0 else "")} for i, row in enumerate(toy_rows(16))]
    run = tunesmith.train(
        str(tiny_model("bart", models / "bart")), train=rows, eval=rows, max_steps=2, output=tmp_path / "run"
    )
    assert run.metrics["loss"] > 0


def test_an_empty_text_is_a_row(models: Path, tmp_path: Path) -> None:
    """With a tokenizer that adds no special tokens (GPT-2, SmolLM2) an empty text must not become an empty tensor."""
    import json
    import shutil

    import tunesmith
    from tunesmith.testing import tiny_model
    from tunesmith.testing.rows import toy_rows

    folder = shutil.copytree(tiny_model("llama", models / "llama"), tmp_path / "bare")
    state = json.loads((folder / "tokenizer.json").read_text())
    state["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(state))
    rows = [*toy_rows(15), {"text": "", "label": "negative"}]
    settings = {"max_steps": 3, "batch_size": 4, "training": {"micro_batch_size": 1}}
    run = tunesmith.train(str(folder), train=rows, eval=rows, output=tmp_path / "run", **settings)
    assert run.load().predict([{"text": ""}])[0]["prediction"] in ("positive", "negative")
