"""Checks of what is asked of the model, of lengths, labels and sizes, on features written out by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from clean_rows import Writer, examined, model, rows

from tunesmith.cache.ragged import RaggedWriter, open_rows
from tunesmith.config import RunConfig, build
from tunesmith.doctor import checks, question_answering, text_classification, token_classification
from tunesmith.doctor.case import Case, Encoded, Part
from tunesmith.doctor.examination import sample
from tunesmith.doctor.finding import Finding, numbered, rows_that
from tunesmith.doctor.general import size, supervision, vocabulary
from tunesmith.doctor.opening import open_without_weights

NOT = -100


def found(checklist: Any, case: Case) -> dict[str, tuple[int, ...]]:
    return {finding.code: finding.rows for check in checklist for finding in check(case)}


class Tokenizer:
    """Five marks by id: 0 padding and end, 1 start, 2 unknown."""

    pad_token_id = eos_token_id = 0
    bos_token_id, unk_token_id = 1, 2
    bos_token = "<s>"
    all_special_ids = (0, 1)
    all_special_tokens = ("<e>", "<s>")

    def convert_ids_to_tokens(self, token: int) -> str:
        return {0: "<e>", 1: "<s>", 2: "<unk>"}.get(token, "a")

    def convert_tokens_to_ids(self, names: Any) -> Any:
        return self.unk_token_id if isinstance(names, str) else [self.unk_token_id for _ in names]

    def get_added_vocab(self) -> dict[str, int]:
        return {}


def written(features: list[list[dict[str, Any]]], **task: Any) -> Case:
    part = Part.of([{"text": "a"} for _ in features])
    part.encoded = Encoded.of(features)
    return Case("chat", {"train": part}, task=SimpleNamespace(**task), tokenizer=Tokenizer())


def feature(ids: list[int], labels: list[int]) -> dict[str, Any]:
    return {"input_ids": np.asarray(ids), "labels": np.asarray(labels)}


GOOD = feature([1, 5, 6, 0], [NOT, NOT, 6, 0])


def test_supervision_of_sound_rows_is_silent() -> None:
    assert found(supervision.ENCODED_CHECKS, written([[GOOD], [GOOD, GOOD]], stops=[0])) == {}


def test_nothing_trained_is_a_warning_in_some_rows_and_an_error_in_all() -> None:
    idle = feature([1, 5, 6, 0], [NOT] * 4)
    case = written([[GOOD], [idle], [GOOD, idle], []], stops=[0])
    (finding,) = supervision.trained(case)
    assert (finding.level, finding.rows) == ("warning", (2, 4))
    (finding,) = supervision.trained(written([[idle], [idle]]))
    assert (finding.level, finding.rows) == ("error", (1, 2))


def test_a_stop_that_is_no_target_is_seen() -> None:
    without = feature([1, 5, 6], [NOT, NOT, 6])
    assert found([supervision.stop], written([[GOOD], [without]], stops=[0])) == {"stop-not-trained": (2,)}
    assert found([supervision.stop], written([[GOOD], [without]], stops=[])) == {}


def test_a_stop_that_is_hidden_as_padding_is_told_apart() -> None:
    hidden = feature([1, 5, 6, 0], [NOT, NOT, 6, NOT])
    assert found([supervision.stop], written([[GOOD], [hidden]], stops=[0])) == {"pad-hides-stop": (2,)}
    case = written([[GOOD], [hidden]], stops=[0])
    case.tokenizer.pad_token_id = 7
    assert found([supervision.stop], case) == {"stop-not-trained": (2,)}


def test_a_double_start_is_seen() -> None:
    twice = feature([1, 1, 5, 0], [NOT, NOT, 5, 0])
    inside = feature([1, 5, 1, 1], [NOT, 5, NOT, NOT])
    assert found([supervision.double_start], written([[GOOD], [twice], [inside], [GOOD, twice]])) == {
        "double-bos": (2, 4)
    }


def test_unknown_tokens_are_counted_by_row() -> None:
    known, half, few = (
        feature([1, 5, 6, 7, 5, 0], [NOT] * 6),
        feature([1, 2, 2, 2, 5, 0], [NOT] * 6),
        feature([1, 2, 2, 5, 0], [NOT] * 5),
    )
    case = written([[known], [half], [few]])
    assert found(vocabulary.ENCODED_CHECKS, case) == {"unknown-token": (2,)}
    assert case.statistics["train"]["unknown_tokens"] == pytest.approx(5 / 11)
    case.tokenizer.unk_token_id = 0  # GPT-2 calls its end token unknown
    assert found(vocabulary.ENCODED_CHECKS, case) == {}


def test_byte_pieces_are_known_in_both_forms(models: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model("llama", models))
    pieces = set(vocabulary.byte_ids(tokenizer))
    ids = tokenizer("今 x", add_special_tokens=False)["input_ids"]
    assert [token in pieces for token in ids] == [True, True, True, *[False] * (len(ids) - 3)]
    assert not pieces & set(tokenizer("garden được", add_special_tokens=False)["input_ids"])
    assert len(pieces) >= 120
    sentencepiece = SimpleNamespace(
        unk_token_id=0, get_added_vocab=dict,
        convert_tokens_to_ids=lambda names: 0 if names == "Ġ" else [int(name[3:5], 16) for name in names],
    )  # fmt: skip
    assert vocabulary.byte_ids(sentencepiece) == list(range(0x80, 0x100))  # not the line break, <0x0A>


def test_few_rows_by_count_and_by_parameters() -> None:
    def codes(count: int, **more: Any) -> list[str]:
        return list(found(size.ENCODED_CHECKS, Case("chat", {"train": Part.of([{}] * count)}, **more)))

    assert codes(31) == ["few-rows"]
    assert codes(32) == codes(32, learning=3_200_000) == []
    assert codes(32, learning=3_200_001) == ["few-rows"]
    assert codes(10, sampled=True) == []


def test_parameters_are_counted_without_weights(models: Path) -> None:
    """The empty model counts what a loaded one counts, for a technique that trains little and one that trains all."""
    from tunesmith import registry
    from tunesmith.doctor.opening import learning_parameters
    from tunesmith.models.load import load_model, load_tokenizer, locate
    from tunesmith.techniques._base import create

    place = model("llama", models)
    for name in ("lora", "full"):
        config = build(RunConfig, {"model": str(place), "task": "chat", "technique": name})
        cls = registry.load("task", "chat")
        empty = open_without_weights(config, cls(cls.Options()), None)
        assert all(p.device.type == "meta" for p in empty.model.parameters())
        counted = learning_parameters(create(name), empty.backbone)
        source = locate(str(place))
        loaded = load_model(source, load_tokenizer(source), cls(cls.Options()))
        technique = create(name)
        technique.attach(loaded.backbone)
        assert counted == sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)


# ---- labels


def labelled(*labels: Any, held: Any = (), **options: Any) -> dict[str, tuple[int, ...]]:
    parts = {"train": Part.of([{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])}
    if held:
        parts["eval"] = Part.of([{"text": f"held {i}", "label": label} for i, label in enumerate(held)], "eval")
    case = Case(
        "text-classification", parts, ("text", "label"), ("text",), ("label",), options=SimpleNamespace(**options)
    )
    return found(text_classification.ROW_CHECKS, case)


def test_labels_as_a_whole() -> None:
    assert labelled(*"ab" * 10) == {}
    assert labelled(*"a" * 10) == {"one-class": ()}
    assert labelled(*"ab" * 10, held="abc") == {"label-unseen": (3,)}
    assert labelled(*"a" * 105, *"b" * 5) == {"imbalance": ()}
    assert labelled(*"a" * 100, *"b" * 5) == {}
    assert labelled(*range(40)) == {"label-like-id": ()}
    assert labelled(*list(range(25)) * 4) == {
        "label-like-id": ()
    }  # numbers, but no fractions: an amount, read as classes
    assert labelled(*[f"user{i}" for i in range(12)], *["user0"] * 4) == {"label-like-id": ()}
    assert labelled(*[1, 2, 3, 4, 5] * 10) == {}
    assert labelled(*[True, False] * 10) == {}


def test_amounts_are_no_labels() -> None:
    assert labelled(*[i / 7 for i in range(40)], held=[99.5]) == {}
    assert labelled(*[i / 7 for i in range(40)], float("nan")) == {"label-not-finite": (41,)}
    assert labelled(*list(range(25)) * 4, problem="regression") == {}


def test_several_labels_a_row() -> None:
    assert labelled(*[["a", "b"], ["a"], []] * 10, held=[["a", "z"]]) == {"label-unseen": (1,)}
    assert labelled(*["a|b", "b", "a"] * 10, held=["a|z"], separator="|") == {"label-unseen": (1,)}


def test_a_label_that_stands_in_its_rows() -> None:
    def told(negative: str) -> dict[str, tuple[int, ...]]:
        texts = [f"a sports story {i}" if i % 2 else f"{negative} {i}" for i in range(60)]
        part = Part.of([{"text": text, "label": ("world", "sports")[i % 2]} for i, text in enumerate(texts)])
        return found([text_classification.told], Case("text-classification", {"train": part}))

    assert told("some other story") == {"label-in-text": tuple(range(2, 61, 2))}
    assert told("no sports here") == {}  # the word is in the other rows too


# ---- entities and answers, as windows see them


def test_entities_that_windows_break() -> None:
    """labels: O B-X I-X; the second window of row 2 begins inside an entity."""
    whole, first = feature([1, 5, 6, 0], [NOT, 1, 2, NOT]), feature([1, 5, 0], [NOT, 1, NOT])
    second, context = feature([1, 6, 0], [NOT, 2, NOT]), feature([1, 5, 6, 0], [NOT, NOT, 0, NOT])
    case = written([[whole], [first, second], [first, context]], labels=["O", "B-X", "I-X"])
    assert found(token_classification.ENCODED_CHECKS, case) == {"entity-cut": (2,)}


def test_answers_outside_every_window() -> None:
    """labels: first and last token of the answer, 0 and 0 where the window holds none."""
    inside, outside = feature([1, 5, 6, 0], [1, 2]), feature([1, 5, 6, 0], [0, 0])
    case = written([[outside, inside], [outside, outside], [outside]])
    answer = {"text": ["x"], "answer_start": [0]}
    case.train.columns |= {"answers": [answer, answer, {"text": [], "answer_start": []}], "context": ["x"] * 3}
    assert found(question_answering.ENCODED_CHECKS, case) == {"answer-outside-windows": (2,)}
    case.task = SimpleNamespace(null=lambda length: 1)  # a null position elsewhere: now (0, 0) is an answer
    assert found(question_answering.ENCODED_CHECKS, case) == {}


def test_misplaced_answers_are_a_warning_where_they_are_mended() -> None:
    row = {"question": "q", "context": "a b c", "answers": {"text": ["b"], "answer_start": [1]}}
    for offsets, level in (("check", "error"), ("mend", "warning")):
        case = Case("question-answering", {"train": Part.of([row])}, options=SimpleNamespace(offsets=offsets))
        assert [(f.level, f.code) for f in question_answering.offsets(case)] == [(level, "answer-offset")]


def test_tags_as_numbers_and_without_entities() -> None:
    def tagged(*tags: Any, **options: Any) -> dict[str, tuple[int, ...]]:
        part = Part.of([{"tokens": ["a"] * len(row), "ner_tags": row} for row in tags])
        return found(
            token_classification.ROW_CHECKS,
            Case("token-classification", {"train": part}, options=SimpleNamespace(**options)),
        )

    names = ["O", "B-X", "I-X"]
    assert tagged(*[[0, 1, 2]] * 9, labels=names) == {}
    assert tagged(*[[0, 1, 2]] * 9, [0, 2, 0], labels=names) == {"bio": (10,)}
    assert tagged(*[["O", "O"]] * 9) == {"no-entities": ()}
    assert tagged(*[["NOUN", "VERB"]] * 9) == {}  # parts of speech
    assert tagged(*[["B-X", "E-X", "S-X"]] * 9) == {"tag-form": tuple(range(1, 10))}
    assert tagged(*[["B-X", "E-X", "S-X"]] * 9, repair=True) == {}
    assert tagged(*[["PER", "I-X"]] * 9, scheme="plain") == {}
    assert tagged(*['["O", "B-X"]'] * 9) == {
        "tags-and-tokens": tuple(range(1, 10))
    }  # a cell of a CSV is read as its list


def test_bio_violations_are_a_warning_where_they_are_repaired() -> None:
    for repair, level in ((False, "error"), (True, "warning")):
        part = Part.of([{"tokens": ["a", "b"], "ner_tags": ["I-X", "B-X"]}])
        (finding,) = token_classification.scheme(
            Case("token-classification", {"train": part}, options=SimpleNamespace(repair=repair))
        )
        assert finding.level == level


# ---- lengths


def test_the_share_that_is_cut_is_what_was_planted(tmp_path: Path, models: Path) -> None:
    """Ten of 100 rows have some 120 tokens where 60 are kept."""
    train = rows("text-classification", "en", 100)
    writer = Writer("en", 5)
    for i in range(0, 100, 10):
        train[i]["text"] = writer.text(8)
    held = rows("text-classification", "en", 40, 1)
    report = examined("text-classification", train, held, tmp_path, models, max_length=60)
    (finding,) = report.findings
    assert (finding.code, finding.rows) == ("cut", tuple(range(1, 100, 10)))
    assert report.statistics["train"]["rows_cut"] == 0.1
    assert report.statistics["train"]["tokens"]["max"] == 60
    assert report.statistics["eval"]["rows_cut"] == 0.0
    report = examined("text-classification", train, held, tmp_path, models, max_length=400)
    assert report.verdict == "ok"
    assert report.statistics["train"]["tokens"]["max"] > 90


def test_a_completion_that_may_be_cut_is_a_cut_target(tmp_path: Path, models: Path) -> None:
    train, held = rows("instruction", "vi", 60), rows("instruction", "vi", 40, 1)
    train[7]["completion"] = Writer("vi", 5).text(40)
    settings: dict[str, Any] = {"max_length": 160, "instruction": {"max_new_tokens": 160}}
    stopped = examined("instruction", train, held, tmp_path, models, **settings)
    assert [(f.level, f.code, f.rows) for f in stopped.findings] == [("error", "cannot-encode", (8,))]
    settings["instruction"]["long_completion"] = "cut"
    report = examined("instruction", train, held, tmp_path, models, **settings)
    assert ("warning", "target-cut", (8,)) in [(f.level, f.code, f.rows) for f in report.findings]


# ---- the machinery


def test_rows_on_disk_and_in_memory_are_the_same(tmp_path: Path) -> None:
    features = [[GOOD], [feature([1, 9], [NOT, 9]), feature([7], [NOT])], [], [feature([1, 2, 3, 4, 5], [NOT] * 5)]]
    tmp_path.joinpath("rows").mkdir()
    writer = RaggedWriter(tmp_path / "rows")
    for row, several in enumerate(features):
        for each in several:
            writer.append({**each, "row": np.int64(row)})
    writer.close()
    memory, disk = Encoded.of(features), Encoded.ragged(open_rows(tmp_path / "rows"), None, 4)
    some = Encoded.ragged(open_rows(tmp_path / "rows"), [1, 3], 2)
    assert memory.count(memory.ids > 5).tolist() == disk.count(disk.ids > 5).tolist() == [1, 2, 0, 0]
    assert memory.labels is not None and disk.labels is not None and some.labels is not None
    assert (
        memory.count_labels(memory.labels != NOT).tolist()
        == disk.count_labels(disk.labels != NOT).tolist()
        == [2, 1, 0, 0]
    )
    assert memory.per_row(memory.lengths).tolist() == disk.per_row(disk.lengths).tolist() == [4, 3, 0, 5]
    assert some.per_row(some.lengths).tolist() == [3, 5]
    assert some.count_labels(some.labels != NOT).tolist() == [1, 0]


def test_a_sample_is_spread_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.doctor.examination.SAMPLE", 5)
    assert sample(5) is None
    assert sample(101) == [0, 25, 50, 75, 100]


def test_every_file_of_checks_is_read() -> None:
    for task in (
        "text-classification",
        "token-classification",
        "question-answering",
        "summarization",
        "chat",
        "instruction",
    ):
        names = [module.__name__.rsplit(".", 1)[-1] for module in checks.modules(task)]
        assert {"blanks", "duplicates", "leakage", "lengths", "damage", "vocabulary", "size", "supervision"} <= set(
            names
        )
        assert names[-1] == task.replace("-", "_")
    assert "no_such_task" not in [m.__name__ for m in checks.modules("no-such-task")]


def test_a_faulty_check_raises_only_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(case: Case) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("tunesmith.doctor.general.blanks.ROW_CHECKS", [faulty])
    case = Case("no-task", {"train": Part.of([{"text": "same"}, {"text": "same"}])}, ("text",), ("text",))
    for strict, inside in ((True, None), (False, "1")):
        monkeypatch.setenv(checks.STRICT, inside or "")
        with pytest.raises(ZeroDivisionError):
            checks.run(case, "ROW_CHECKS", strict=strict)
    monkeypatch.delenv(checks.STRICT)
    assert [f.code for f in checks.run(case, "ROW_CHECKS", strict=False)] == ["duplicate"]  # the others go on


def test_sentences() -> None:
    assert numbered([3]) == "row 3"
    assert numbered(range(1, 8)) == "rows 1, 2, 3, 4, 5 (and 2 more)"
    assert (rows_that(1, "have"), rows_that(2, "have"), rows_that(1, "hold")) == (
        "1 row has",
        "2 rows have",
        "1 row holds",
    )
    finding = Finding("error", "null", "train", "a.csv", (3, 9), "`text` is null in 2 rows", "fill it in")
    assert finding.sentence == "a.csv, rows 3, 9: `text` is null in 2 rows; fill it in."
    assert finding.as_json() == {
        "level": "error", "code": "null", "role": "train", "file": "a.csv", "rows": [3, 9], "count": 2,
        "message": finding.sentence, "remedy": "fill it in",
    }  # fmt: skip
