"""Question answering: windows and characters, answers that do not fit, loss and decoding against closed forms, whole runs."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import tunesmith
from tunesmith import assets, registry, seeding
from tunesmith.cache import store
from tunesmith.cli.main import run as command_line
from tunesmith.data import sources
from tunesmith.data.sources import Rows
from tunesmith.data.splits import assign
from tunesmith.errors import DataError, ModelError
from tunesmith.models.load import load_model, load_tokenizer, locate
from tunesmith.tasks import _windows
from tunesmith.tasks._base import Answer
from tunesmith.tasks.question_answering import QuestionAnswering, Window
from tunesmith.testing import tiny_model
from tunesmith.testing.models import WORDS, tiny_tokenizer

TOKENIZER = tiny_tokenizer(segments=True)
QUESTION = "was the film good"


def answers(*found: tuple[str, int]) -> dict[str, Any]:
    return {"text": [text for text, _ in found], "answer_start": [start for _, start in found]}


def row(context: str, *texts: str, question: str = QUESTION) -> dict[str, Any]:
    return {"question": question, "context": context, "answers": answers(*((t, context.index(t)) for t in texts))}


def rows_of(records: list[dict[str, Any]]) -> Rows:
    return Rows(Dataset.from_list(records), "rows.jsonl", store.key_of(rows=records))


def fitted(records: list[dict[str, Any]] | None = None, **options: Any) -> QuestionAnswering:
    task = QuestionAnswering(QuestionAnswering.Options(**options))
    task.fit(rows_of(records or [row("the plot was very good", "very good")]))
    return task


def encode(task: QuestionAnswering, record: dict[str, Any], length: int = 64, tokenizer: Any = TOKENIZER) -> list[Any]:
    return list(next(task.encode([record], tokenizer, length)))


def answer_of(feature: dict[str, Any], context: str) -> str | None:
    """The text that a feature's labels point to."""
    start, end = feature["labels"]
    return None if start == end == 0 else context[feature["begins"][start] : feature["ends"][end]]


# ---- windows and characters


def test_a_short_row_is_one_window() -> None:
    (feature,) = encode(fitted(), row("the plot was very good .", "very good"))
    #  [CLS] was the film good [SEP] the plot was very good . [SEP]
    assert len(feature["input_ids"]) == 13
    assert feature["token_type_ids"].tolist() == [0] * 6 + [1] * 7
    assert feature["labels"].tolist() == [9, 10]
    assert answer_of(feature, "the plot was very good .") == "very good"
    assert (feature["begins"] >= 0).tolist() == [False] * 6 + [True] * 6 + [False]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), st.data())
def test_windows_cover_the_context_with_the_asked_overlap(words: list[str], data: st.DataObject) -> None:
    stride, length = data.draw(st.integers(0, 12)), data.draw(st.integers(16, 40))
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 5, len(words) - 1)))
    context = " ".join(words)
    start = len(" ".join(words[:first])) + (first > 0)
    text = " ".join(words[first : last + 1])
    record = {"question": QUESTION, "context": context, "answers": answers((text, start))}
    features = encode(fitted(stride=stride), record, length)
    room = length - 7  # [CLS] 4 words [SEP] ... [SEP]
    shared = min(stride, room // 2)
    seen = []
    for feature in features:
        assert len(feature["input_ids"]) <= length
        assert feature["input_ids"][1:5].tolist() == TOKENIZER(QUESTION, add_special_tokens=False)["input_ids"]
        real = feature["begins"] >= 0
        pieces = list(zip(feature["begins"][real].tolist(), feature["ends"][real].tolist(), strict=True))
        assert TOKENIZER.convert_tokens_to_ids([context[a:b] for a, b in pieces]) == feature["input_ids"][real].tolist()
        seen.append(pieces)
        found = answer_of(feature, context)
        inside = (start, start + len(text.split()[0])) in pieces and start + len(text) in {b for _, b in pieces}
        assert found == (text if inside else None)
    whole = [match for several in seen for match in several]
    assert len(set(whole)) == len(words)
    for one, other in itertools.pairwise(seen):
        assert len(set(one) & set(other)) == min(shared, len(other))
    if last - first + 1 <= shared:
        assert any(answer_of(f, context) == text for f in features), (
            "an answer no longer than the overlap is in a window"
        )


def test_the_windows_are_those_of_the_library() -> None:
    """A fast tokenizer's own overflowing windows, as transformers' example takes them."""
    context = " ".join(WORDS)
    kept = TOKENIZER(
        QUESTION, context, truncation="only_second", max_length=24, stride=6, return_overflowing_tokens=True, return_offsets_mapping=True
    )  # fmt: skip
    ours = encode(fitted(stride=6), row(context, "film"), 24)
    assert [f["input_ids"].tolist() for f in ours] == kept["input_ids"]
    for i, feature in enumerate(ours):
        inside = [part == 1 for part in kept.sequence_ids(i)]
        assert (feature["begins"] >= 0).tolist() == inside
        expected = [span for span, here in zip(kept["offset_mapping"][i], inside, strict=True) if here]
        assert list(zip(feature["begins"][inside], feature["ends"][inside], strict=True)) == expected


def test_more_overlap_makes_more_windows() -> None:
    record = row(" ".join(WORDS), "film")
    assert [len(encode(fitted(stride=stride), record, 24)) for stride in (0, 6, 100)] == [4, 5, 6]


def test_of_several_answers_a_window_learns_the_first_that_fits() -> None:
    context = " ".join(["good film", *["the"] * 20, "awful plot"])
    features = encode(fitted(stride=0), row(context, "awful plot", "good film"), 20)
    assert [answer_of(f, context) for f in features] == ["good film", "awful plot"]
    (whole,) = encode(fitted(), row(context, "awful plot", "good film"), 64)
    assert answer_of(whole, context) == "awful plot"


def test_unanswerable_rows_point_to_the_null_position() -> None:
    features = encode(fitted(), {"question": QUESTION, "context": " ".join(WORDS), "answers": answers()}, 24)
    assert len(features) > 1
    assert all(f["labels"].tolist() == [0, 0] for f in features)


def test_the_null_position_of_a_decoder_is_an_end_token_that_has_seen_everything() -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = tokenizer.pad_token
    task = fitted()
    task.bind(None, tokenizer, "decoder")
    features = [*encode(task, row("good film", "film"), 100, tokenizer)]
    features += encode(task, {"question": QUESTION, "context": "good", "answers": answers()}, 100, tokenizer)
    assert [answer_of(f, "good film") for f in features[:1]] == ["film"]
    assert features[1]["input_ids"][-1] == tokenizer.eos_token_id
    last = len(features[1]["input_ids"]) - 1
    assert features[1]["labels"].tolist() == [last, last]
    batch = task.collate(features, 0)
    assert batch["candidates"][1].nonzero().flatten().tolist() == [last - 4, last - 3, last - 2, last - 1, last]
    logits = torch.zeros(*batch["input_ids"].shape, 2)
    logits[1, last] = 9.0
    found = task.read(None, _Outputs(logits), batch, features)
    assert found[1].null > -0.01 > found[0].null
    assert task.outside(rows_of([row("good film", "film")]), tokenizer, 100) == []
    other = fitted()
    other.bind(None, tokenizer, "encoder")
    assert other.encoding_key() != task.encoding_key()


def test_an_answer_inside_a_word_takes_its_token() -> None:
    context = "in the 1990s"
    (feature,) = encode(fitted(), {"question": "", "context": context, "answers": answers(("1990", 7))})
    assert answer_of(feature, context) == "1990s"


def test_a_question_that_is_too_long_is_refused_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    record = row("good film", "film", question=" ".join(["was"] * 20))
    with pytest.raises(DataError, match=r"20 tokens.*max_length=24.*long_question=cut"):
        encode(fitted(), record, 24)
    ((feature,),) = fitted(long_question="cut").encode([record], TOKENIZER, 24)
    assert answer_of(feature, "good film") == "film"
    assert len(feature["input_ids"]) == 15 + 3 + 2
    assert "1 questions are cut: max_length=24" in capsys.readouterr().err
    with pytest.raises(DataError, match="max_length=3"):
        encode(fitted(long_question="cut"), record, 3)


def test_marks_in_a_text_are_text() -> None:
    (feature,) = encode(fitted(), row("good [SEP] film", "film", question="[CLS] was"))
    ids = feature["input_ids"].tolist()
    assert ids.count(TOKENIZER.sep_token_id) == 2
    assert ids.count(TOKENIZER.cls_token_id) == 1
    assert answer_of(feature, "good [SEP] film") == "film"


def byte_level(prefix_space: bool = False) -> Any:
    """A byte-level tokenizer without merges: spaces and accents are tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(["<pad>", *sorted(alphabet)])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    core.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>")


VIETNAMESE = "Thủ đô của Việt Nam là Hà Nội, không phải Huế."


@pytest.mark.parametrize("tokenizer", [byte_level(), transformers.ByT5Tokenizer(extra_ids=0)], ids=["fast", "slow"])
def test_vietnamese_answers_come_back_letter_by_letter(tokenizer: Any) -> None:
    record = row(VIETNAMESE, "Hà Nội", question="Thủ đô là gì?")
    features = encode(fitted([record]), record, 200, tokenizer)
    assert len(features) == 1
    found = answer_of(features[0], VIETNAMESE)
    assert found == "Hà Nội" if tokenizer.is_fast else found == "Hà Nội,"  # bytes of an accent stand for their word
    for feature in features:
        real = feature["begins"] >= 0
        spans = zip(feature["begins"][real], feature["ends"][real], strict=True)
        assert all(VIETNAMESE[a:b] == VIETNAMESE[a:b].strip() for a, b in spans)


def test_a_tokenizer_that_puts_nothing_between_texts_gets_a_line_break() -> None:
    tokenizer = byte_level()
    (feature,) = encode(fitted(), row("good film", "film"), 100, tokenizer)
    assert tokenizer.decode(feature["input_ids"]) == f"{QUESTION}\ngood film"
    assert answer_of(feature, "good film") == "film"


def test_a_slow_tokenizer_knows_characters_by_its_pieces(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "fil", "##ms", "x", ",", "2", "##0"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))

    class Pieces(transformers.PythonBackend):
        """A slow WordPiece."""

        def __init__(self, **kwargs: Any) -> None:
            self.known = {w: i for i, w in enumerate(words)}
            super().__init__(unk_token="[UNK]", pad_token="[PAD]", **kwargs)

        @property
        def vocab_size(self) -> int:
            return len(self.known)

        def get_vocab(self) -> dict[str, int]:
            return dict(self.known)

        def _tokenize(self, text: str) -> list[str]:
            table = {"films": ["fil", "##ms"], "20": ["2", "##0"]}
            return [piece for word in text.lower().split() for piece in table.get(word, [word])]

        def _convert_token_to_id(self, token: str) -> int:
            return self.known.get(token, 1)

        def _convert_id_to_token(self, index: int) -> str:
            return words[index]

    tokenizer = Pieces()
    assert not tokenizer.is_fast
    ((ids, spans),) = _windows.pieces(["Good  FILMS éx 20"], tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids) == ["good", "fil", "##ms", "[UNK]", "2", "##0"]
    assert spans == [(0, 4), (6, 9), (9, 11), (12, 14), (15, 16), (16, 17)]


def test_a_tokenizer_that_mixes_texts_is_refused() -> None:
    class Mixing:
        def __call__(self, *texts: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [7] if len(texts) == 1 else [8, 9]}

    with pytest.raises(ModelError, match="does not keep two texts apart"):
        _windows.frame_of(Mixing())


# ---- rows


SAID = "the plot was good and the film was good"


@pytest.mark.parametrize(
    ("value", "extra", "words"),
    [
        (answers(("good", 3)), {}, ["row 2", "`good`", "at 3 stands ` plo`", "stands at 13", "offsets=mend"]),
        (answers(("good", 35)), {}, None),
        (answers(("good", 900)), {}, ["900 is outside the 39 characters", "stands at 35"]),
        (answers(("great", 3)), {}, ["`great` does not occur"]),
        (answers(("good", -1)), {}, ["stands at 13"]),
        ({"text": ["good"], "answer_start": []}, {}, ["1 texts and 0 starts"]),
        ({"text": ["good"]}, {}, ["no answer_start", "stands at 13"]),
        ({"txt": ["good"]}, {}, ["no `text`", "txt"]),
        ({"text": [3], "answer_start": [1]}, {}, ["holds a number"]),
        ({"text": ["good"], "answer_start": [1.5]}, {}, ["`1.5` is not a whole number"]),
        ({"text": ["good"], "answer_start": ["x"]}, {}, ["`x` is not a whole number"]),
        ([{"text": "good", "answer_start": 13}], {}, None),
        (json.dumps(answers(("good", 13))), {}, None),
        ("good", {"answer_start": "13"}, None),
        ("good", {"answer_start": 4}, ["at 4 stands `plot`"]),
        ("good", {}, ["no answer_start"]),
        ("", {}, None),
        ({"text": [], "answer_start": []}, {}, None),
        (["good"], {}, ["`answers` is a list"]),
    ],
)
def test_answers_in_all_their_forms(value: Any, extra: dict[str, Any], words: list[str] | None) -> None:
    class Table(list[Any]):
        column_names = ("question", "context", "answers", *extra)

    good = {**row(SAID, "film"), **dict.fromkeys(extra)}
    rows = Rows(Table([good, {"question": "q", "context": SAID, "answers": value, **extra}]), "rows.jsonl", "x")  # type: ignore[arg-type]
    task = QuestionAnswering(QuestionAnswering.Options())
    if words is None:
        task.fit(rows)
        assert not task.misplaced(rows)
        return
    with pytest.raises(DataError) as error:
        task.fit(rows)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert [i for i, _ in task.misplaced(rows)] == [1]


def test_offsets_are_mended_on_request() -> None:
    record = {"question": QUESTION, "context": SAID, "answers": answers(("good", 30))}
    task = fitted([record], offsets="mend")
    assert [gold.start for gold in task.golds(record)] == [35]
    (feature,) = encode(task, record)
    assert feature["begins"][feature["labels"][0]] == 35


def test_texts_that_are_not_text_and_rows_without_any_answer_are_refused() -> None:
    with pytest.raises(DataError, match=r"row 1: `context` is a list"):
        fitted([{"question": "q", "context": ["a"], "answers": answers()}])
    with pytest.raises(DataError, match="no row with an answer"):
        fitted([{"question": "q", "context": "a", "answers": answers()}])


def test_nested_squad_files_are_one_row_a_question(tmp_path: Path) -> None:
    qas = [
        {"id": "1", "question": "Where?", "answers": [{"text": "Huế", "answer_start": 3}, {"text": "Huế.", "answer_start": 3}]},
        {"id": "2", "question": "Who?", "is_impossible": True, "answers": [], "plausible_answers": [{"text": "Huế", "answer_start": 3}]},
    ]  # fmt: skip
    article = {"title": "t", "paragraphs": [{"context": "In Huế.", "qas": qas}, {"context": "x", "qas": []}]}
    (tmp_path / "squad.json").write_text(json.dumps({"version": "v2.0", "data": [article, article]}), encoding="utf-8")
    task = QuestionAnswering(QuestionAnswering.Options())
    rows = sources.read(str(tmp_path / "squad.json"), {}, task.required, task.optional)
    assert rows.table["question"] == ["Where?", "Who?"] * 2
    assert task.truth(rows.table[0]) == ["Huế", "Huế."]
    assert task.truth(rows.table[1]) == []
    task.fit(rows)
    assert task.unanswerable
    (tmp_path / "bad.json").write_text(json.dumps({"data": [article, {"paragraphs": [{"context": "x"}]}]}))
    with pytest.raises(DataError, match=r"article 2, paragraph 1 has no list of questions"):
        sources.read(str(tmp_path / "bad.json"), {}, task.required, task.optional)


def test_a_flat_csv_works(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "question,context,answer,answer_start\nq,the film was good,film,4\nq,the film,,\n"
    )
    task = QuestionAnswering(QuestionAnswering.Options())
    rows = sources.read(str(tmp_path / "rows.csv"), {}, task.required, task.optional, task.synonyms)
    task.fit(rows)
    assert task.unanswerable
    assert [g.span for g in task.golds(rows.table[0])] == [(4, 8)]


def test_questions_on_one_context_stay_on_one_side_of_a_cut() -> None:
    records = [row(f"{i} good film", "film", question=q) for i in range(40) for q in ("a", "b", "c")]
    roles = assign(rows_of(records), None, None, QuestionAnswering.groups, chooses=True)
    parts = [set(part.table["context"]) for _, part in roles.present()]
    assert len(parts) == 3
    assert not any(one & other for one, other in itertools.combinations(parts, 2))


def test_answers_that_no_window_holds_are_found() -> None:
    long = " ".join(["good", *["very"] * 30, "film"])
    records = [row("good film", "film"), row(long, long), {"question": "q", "context": long, "answers": answers()}]
    assert fitted(records).outside(rows_of(records), TOKENIZER, 24) == [1]
    assert fitted(records).outside(rows_of(records), TOKENIZER, 64) == []


# ---- loss


class _Outputs:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def test_the_loss_by_hand_does_not_depend_on_padding_or_the_question() -> None:
    task = fitted()
    features = [encode(task, row("good film", "film", question="was"))[0], encode(task, row(SAID, "plot was"))[0]]
    #  [CLS] was [SEP] good film [SEP]: candidates 0, 3, 4
    batch = task.collate(features, 0)
    assert batch["candidates"][0].nonzero().flatten().tolist() == [0, 3, 4]
    assert batch["labels"][0].tolist() == [4, 4]
    logits = torch.randn(2, batch["input_ids"].shape[1], 2, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for i, feature in enumerate(features):
        places = [0, *np.flatnonzero(feature["begins"] >= 0).tolist()]
        for side in (0, 1):
            scores = logits[i, places, side]
            target = places.index(int(feature["labels"][side]))
            expected += float(torch.logsumexp(scores, 0) - scores[target]) / 2
    assert float(task.loss(_Outputs(logits), batch)) == pytest.approx(expected, rel=1e-5)
    assert task.units(batch) == 2
    logits[0, 1] += 50.0  # the question
    logits[0, 7:] += 50.0  # padding
    assert float(task.loss(_Outputs(logits), batch)) == pytest.approx(expected, rel=1e-5)


def test_windows_that_miss_their_answer_weigh_less_in_training_alone() -> None:
    """Weights by hand; a row without any answer misses nothing, and what is measured is not weighted."""
    context = " ".join(WORDS)
    task = fitted(missed_weight=0.25, stride=0)
    features = [*encode(task, row(context, WORDS[0]), 24), *encode(task, row("the film was dull"), 24)]
    held = [answer_of(each, context) is not None for each in features[:-1]]
    assert held.count(True) == 1 and len(held) > 2
    batch = task.collate(features, 0, np.random.default_rng(0))
    assert batch["weights"].tolist() == [1.0 if hit else 0.25 for hit in held] + [1.0]
    assert task.units(batch) == 2 + 0.25 * (len(held) - 1)
    assert "weights" not in task.model_inputs(batch)
    logits = torch.randn(len(features), batch["input_ids"].shape[1], 2, generator=torch.Generator().manual_seed(0))
    outputs = _Outputs(logits)
    table = logits.masked_fill(~batch["candidates"][..., None], -math.inf).log_softmax(1)
    each = -torch.stack([table[i, batch["labels"][i], [0, 1]].mean() for i in range(len(features))])
    assert torch.allclose(task.loss(outputs, batch), (each * batch["weights"]).sum())
    assert "weights" not in task.collate(features, 0)
    assert "weights" not in fitted(stride=0).collate(features, 0, np.random.default_rng(0))


def test_the_loss_is_transformers_loss_where_every_position_is_a_candidate() -> None:
    config = transformers.BertConfig(
        vocab_size=90, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForQuestionAnswering(config).eval()
    task = fitted()
    batch = task.collate([encode(task, row(SAID, "plot was"))[0], encode(task, row(SAID, "film"))[0]], 0)
    batch["candidates"] = torch.ones_like(batch["candidates"])
    start, end = batch["labels"].T
    theirs = model(**task.model_inputs(batch), start_positions=start, end_positions=end).loss
    ours = task.loss(task.forward(model, batch), batch) / task.units(batch)
    torch.testing.assert_close(ours, theirs)


# ---- decoding


def read_one(task: QuestionAnswering, record: dict[str, Any], logits: torch.Tensor) -> Window:
    (feature,) = encode(task, record)
    return task.read(None, _Outputs(logits[None]), task.collate([feature], 0), [feature])[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([None, 1, 3]))
def test_n_best_spans_are_those_of_a_search_over_all_pairs(seed: int, count: int, longest: int | None) -> None:
    task = fitted([row(SAID, "good and the")], n_best=count, max_answer=longest)
    record = row(SAID, "film")
    (feature,) = encode(task, record)
    logits = torch.randn(len(feature["input_ids"]), 2, generator=torch.Generator().manual_seed(seed))
    found = read_one(task, record, logits)
    places = np.flatnonzero(feature["begins"] >= 0)
    p = torch.log_softmax(logits[[0, *places.tolist()]], 0).numpy()
    table = []
    for i, j in itertools.product(range(len(places)), repeat=2):
        begin, end = int(feature["begins"][places[i]]), int(feature["ends"][places[j]])
        fits = j - i < longest if longest else end - begin <= len("good and the")
        if i <= j and (fits or i == j):
            table.append((float(p[i + 1, 0] + p[j + 1, 1]), begin, end))
    table.sort(reverse=True)
    assert [span[1:] for span in found.spans] == [span[1:] for span in table[:count]]
    np.testing.assert_allclose([s[0] for s in found.spans], [t[0] for t in table[:count]], rtol=1e-4, atol=1e-5)
    assert found.null == pytest.approx(float(p[0].sum()), rel=1e-4)


CONTEXT = {"context": "the film was good"}
WINDOWS = [Window(-2.0, [(-1.0, 4, 8), (-3.0, 13, 17)]), Window(-0.1, [(-0.5, 13, 17), (-4.0, 0, 3)])]


def test_windows_compete_for_the_row() -> None:
    found = fitted().join(WINDOWS, CONTEXT)
    assert found.value == found.shown["prediction"] == "good"
    assert found.shown["score"] == pytest.approx(math.exp(-0.5))
    assert [(s["text"], s["start"], s["end"]) for s in found.shown["spans"]] == [
        ("good", 13, 17),
        ("film", 4, 8),
        ("the", 0, 3),
    ]
    assert found.numbers == [-0.5, -1.5]  # the window least sure that there is nothing: -2, against -0.5
    assert len(fitted(n_best=2).join(WINDOWS, CONTEXT).shown["spans"]) == 2


def test_only_what_learned_to_be_silent_is_silent() -> None:
    nothing = [Window(-0.01, [(-6.0, 4, 8)])]
    assert fitted().join(nothing, CONTEXT).value == "film"
    records = [row(SAID, "film"), {"question": "q", "context": SAID, "answers": answers()}]
    silent = fitted(records).join(nothing, CONTEXT)
    assert silent.value == silent.shown["prediction"] == ""
    assert silent.shown["score"] == pytest.approx(math.exp(-0.01))
    assert silent.shown["spans"][0]["text"] == "film"
    assert fitted(records, null_threshold=6.0).join(nothing, CONTEXT).value == "film"
    assert fitted(records).join([Window(0.0, [])], {"context": ""}).shown == {
        "prediction": "",
        "score": 1.0,
        "spans": [],
    }


def test_the_threshold_is_tuned_where_there_is_something_to_tune() -> None:
    some = {"question": "q", "context": SAID, "answers": answers()}
    records = [row(SAID, "film"), some]
    task = fitted(records)
    assert task.chooses(rows_of(records))
    assert not task.chooses(rows_of(records[:1]))
    assert not fitted(records, null_threshold=1.0).chooses(rows_of(records))

    def said(margin: float) -> Answer:
        return task.join([Window(margin - 1.0, [(-1.0, SAID.index("film"), SAID.index("film") + 4)])], records[0])

    task.tune([said(3.0), said(4.0)], records)
    assert task.threshold == 3.5
    other = QuestionAnswering(task.options)
    other.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert other.state_dict() == task.state_dict()
    window = [Window(2.0, [(-1.0, 4, 8)])]
    assert other.join(window, CONTEXT).value == "film"
    assert fitted(records).join(window, CONTEXT).value == ""


# ---- whole runs


def toy_rows(count: int = 24, nothing: int = 4) -> list[dict[str, Any]]:
    """The answer is the word after `was`; every `nothing`-th row has no such word."""
    found = []
    for i in range(count):
        lead, tail = " ".join(WORDS[10 + j] for j in range(i % 7)), " ".join(WORDS[40 - j] for j in range(i % 5))
        word = ("good", "bad", "dull", "great", "slow")[i % 5]
        context = f"{lead} {'is' if i % nothing == 0 else 'was'} {word} {tail}".strip()
        found.append(row(context, *([] if i % nothing == 0 else [word]), question="the film was"))
    return found


def test_a_run_learns_tunes_and_predicts(models: Path, tmp_path: Path) -> None:
    rows = toy_rows(120)
    settings = {"max_steps": 200, "batch_size": 16, "learning_rate": 3e-3, "max_length": 16, "eval_batch_size": 32}
    run = tunesmith.train(
        str(tiny_model("bert", models / "bert")), task="question-answering", train=rows, eval=rows[:40], technique="full",
        output=tmp_path / "run", **settings, **{"question-answering": {"stride": 4}},
    )  # fmt: skip
    assert run.metrics["f1"] > 0.8, run.metrics
    assert run.metrics["exact_match_unanswerable"] > 0.5
    assert run.result["provenance"]["rows"]["validation"] > 0
    state = json.loads((run.artifact / "tunesmith.json").read_text())["task_state"]
    assert state["unanswerable"] is True
    assert state["threshold"] != 0.0
    artifact = run.load()
    predicted = artifact.predict([{k: each[k] for k in ("question", "context")} for each in rows[:8]])
    for each in predicted:
        assert 0 <= each["score"] <= 1
        for span in each["spans"]:
            assert each["context"][span["start"] : span["end"]] == span["text"]
        assert each["prediction"] in ("", each["spans"][0]["text"])
    assert artifact.evaluate(rows[:40])["f1"] == pytest.approx(run.metrics["f1"])
    opened = transformers.AutoModelForQuestionAnswering.from_pretrained(run.artifact)
    assert opened.qa_outputs.weight.shape == (2, 32)


def test_features_of_a_frozen_backbone_follow_the_windows(models: Path, tmp_path: Path) -> None:
    """Other windows of the same rows are other rows to the head: features cached for the first must not serve the second."""
    rows = [row(" ".join(WORDS[i : i + 30]), WORDS[i + 20]) for i in range(12)]
    found = {}
    for name, stride, cached in (("first", 0, True), ("second", 4, True), ("without", 4, False)):
        run = tunesmith.train(
            str(tiny_model("bert", models / "bert")), task="question-answering", train=rows, eval=rows, technique="feature-based",
            max_steps=6, max_length=20, learning_rate=0.1, output=tmp_path / name,
            **{"question-answering": {"stride": stride}, "feature-based": {"cache": cached}},
        )  # fmt: skip
        found[name] = run.metrics["loss"]
    assert found["second"] == pytest.approx(found["without"], rel=1e-3)


@pytest.mark.registry
def test_the_documented_command_runs_on_a_slice(tmp_path: Path) -> None:
    try:
        for name in ("bert-tiny", "population-qa-hard"):
            assets.fetch(name)
    except assets.DownloadError as error:
        pytest.skip(f"the registry is down: {error}")
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if "--task question-answering" in line)
    words = shlex.split(command)
    assert words[0] == "tunesmith"
    small = ["--max-train-rows", "24", "--max-eval-rows", "8", "--max-steps", "2", "--output", str(tmp_path / "run")]
    assert command_line([*words[1:], *small]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["primary"] == "f1"
    assert result["provenance"]["rows"]["validation"] > 0


ARCHITECTURES = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "t5", "bart")
TECHNIQUES = [name for name in registry.names("technique") if name != "peft"]
RATE = {"full": 1e-3, "feature-based": 3e-2}  # others: 1e-2


class Cell:
    """One technique on one tiny model under this task's head."""

    def __init__(self, name: str, kind: str, models: Path, seed: int = 0) -> None:
        self.task = fitted(toy_rows())
        self.source = locate(str(tiny_model(kind, models / kind)))
        self.loaded = self.open(self.source, seed)
        technique = registry.load("technique", name)
        self.technique = technique(technique.Options(**({"length": 4} if "tuning" in name else {})), None)
        records = toy_rows()
        features = [f for several in self.task.encode(records, self.loaded.tokenizer, 16) for f in several]
        self.features = features
        self.batch = self.task.collate(features, self.loaded.tokenizer.pad_token_id)

    def open(self, source: Any, seed: int) -> Any:
        return load_model(source, load_tokenizer(source), self.task, seed=seed)

    def attach(self) -> None:
        seeding.seed_everything(1)
        self.technique.attach(self.loaded.backbone)
        self.loaded.model.eval()

    def logits(self, features: Any = None) -> torch.Tensor:
        batch = self.batch if features is None else self.task.collate(features, 0)
        with torch.no_grad():
            return self.task.forward(self.loaded.model, batch).logits.clone()


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_trains_on_every_architecture(name: str, kind: str, models: Path, tmp_path: Path) -> None:
    if name == "bitfit" and kind in ("modernbert", "llama", "qwen3", "t5"):
        return  # refused: no biases (tests/techniques)
    cell = Cell(name, kind, models)
    cell.attach()
    alone = cell.features[min(range(len(cell.features)), key=lambda i: len(cell.features[i]["input_ids"]))]
    place = next(i for i, f in enumerate(cell.features) if f is alone)
    together = cell.logits()[place, : len(alone["input_ids"])]
    torch.testing.assert_close(together, cell.logits([alone])[0], atol=1e-5, rtol=0)
    learning = [p for p in cell.loaded.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE.get(name, 1e-2), weight_decay=0.0)
    losses = []
    for _ in range(4):
        loss = cell.task.loss(cell.task.forward(cell.loaded.model, cell.batch), cell.batch) / len(cell.features)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[3] < losses[0], losses
    trained = cell.logits()
    cell.technique.export(cell.loaded.backbone, tmp_path, cell.source.path)
    again = Cell(name, kind, models, seed=7)
    if cell.technique.saves == "model":
        cell.loaded.tokenizer.save_pretrained(tmp_path)
        again.loaded = again.open(locate(str(tmp_path)), 7)
    else:
        again.attach()
    again.technique.restore(again.loaded.backbone, tmp_path)
    again.loaded.model.eval()
    torch.testing.assert_close(again.logits(), trained, atol=1e-6, rtol=0)
