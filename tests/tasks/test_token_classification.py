"""Token classification: tags from rows, words to tokens, losses against transformers, entities back in the text."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

import tunesmith
from tunesmith.baselines.majority import Majority
from tunesmith.cache import store
from tunesmith.data.encode import encode
from tunesmith.data.sources import Rows, read
from tunesmith.data.splits import Roles
from tunesmith.errors import DataError
from tunesmith.evaluation.evaluate import evaluate
from tunesmith.models.load import load_model, load_tokenizer, locate
from tunesmith.tasks._base import IGNORED
from tunesmith.tasks._tags import check_bio, mend
from tunesmith.tasks._word_pieces import WordPieces, windows
from tunesmith.tasks._words import locate as locate_words
from tunesmith.tasks._words import split
from tunesmith.tasks.token_classification import TokenClassification
from tunesmith.testing import tiny_model
from tunesmith.testing.models import WORDS, tiny_tokenizer

GOOD = ("good", "great", "fine", "love")
SENTENCES: list[list[str]] = [
    ["the", "red", "film", "was", "good"],
    ["one", "red", "blue", "book", "and", "the", "green", "plot"],
    ["a", "dull", "scene", "in", "red"],
    ["you", "love", "the", "blue", "story"],
]


def tag(words: list[str]) -> list[str]:
    """Colours are entities of type COL (several in a row are one), good words of type GOOD."""
    tags: list[str] = []
    for word in words:
        if word in ("red", "blue", "green"):
            tags.append("I-COL" if tags and tags[-1][2:] == "COL" else "B-COL")
        else:
            tags.append("B-GOOD" if word in GOOD else "O")
    return tags


def rows_of(tokens: list[Any], tags: list[Any], source: str = "rows.jsonl", features: Any = None) -> Rows:
    table = Dataset.from_dict({"tokens": tokens, "ner_tags": tags}, features=features)
    return Rows(table, source, store.key_of(tokens=tokens, tags=tags))


def toy() -> Rows:
    return rows_of(SENTENCES, [tag(words) for words in SENTENCES])


def task_of(**options: Any) -> TokenClassification:
    return TokenClassification(TokenClassification.Options(**options))


def fitted(rows: Rows | None = None, **options: Any) -> TokenClassification:
    task = task_of(**options)
    task.fit(rows or toy())
    return task


def pieces_tokenizer() -> Any:
    """Words in letters and pairs of letters, so that most words are several tokens; [CLS] and [SEP] around."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "re"])}
    for letter in "abcdefghijklmnopqrstuvwxyz":
        vocabulary[letter] = len(vocabulary)
        vocabulary[f"##{letter}"] = len(vocabulary)
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def byte_tokenizer(prefix_space: bool) -> Any:
    """Byte-level BPE as in GPT-2 and RoBERTa, trained on a few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )  # fmt: skip
    core.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", add_prefix_space=prefix_space
    )


def features_of(task: TokenClassification, rows: Rows, tokenizer: Any, max_length: int = 32) -> list[list[Any]]:
    return [list(several) for several in task.encode(rows.table.to_list(), tokenizer, max_length)]


# ---- what the tags say


@pytest.mark.parametrize(
    ("tags", "scheme", "labels", "primary"),
    [
        (["B-PER", "I-PER", "O"], "bio", ["O", "B-PER", "I-PER"], "f1"),
        (["B-PER", "O", "B-geo-loc"], "bio", ["O", "B-PER", "I-PER", "B-geo-loc", "I-geo-loc"], "f1"),
        (["NOUN", "VERB", "ADJ"], "plain", ["ADJ", "NOUN", "VERB"], "accuracy"),
        (["O", "PER", "PER"], "plain", ["O", "PER"], "accuracy"),
        ([2, 10, 0], "plain", ["0", "2", "10"], "accuracy"),
    ],
)
def test_scheme_and_tags_are_read_from_the_rows(tags: list[Any], scheme: str, labels: list[str], primary: str) -> None:
    task = fitted(rows_of([["a", "b", "c"]], [tags]))
    assert (task.scheme, task.labels, task.primary) == (scheme, labels, primary)
    overrides = task.config_overrides()
    assert overrides["num_labels"] == len(labels)
    assert overrides["label2id"] == {name: i for i, name in enumerate(labels)}
    again = task_of()
    again.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert again.state_dict() == task.state_dict()
    assert again.primary == primary


def test_numbers_take_their_names_from_the_option_or_the_data_set() -> None:
    tags = [[1, 2, 0]]
    names = ["O", "B-PER", "I-PER"]
    task = fitted(rows_of([["a", "b", "c"]], tags), labels="O, B-PER, I-PER")
    assert (task.scheme, task.labels, task.truth({"tokens": ["a"], "ner_tags": [1]})) == ("bio", names, ["B-PER"])
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    brought = fitted(rows_of([["a", "b", "c"]], tags, features=features))
    assert brought.state_dict() == task.state_dict()
    assert fitted(rows_of([["a", "b", "c"]], tags)).labels == ["0", "1", "2"]


def test_plain_is_what_one_says_it_is() -> None:
    rows = rows_of([["a", "b"]], [["B-PER", "O"]])
    assert fitted(rows, scheme="plain").labels == ["B-PER", "O"]
    assert fitted(rows, scheme="plain").primary == "accuracy"


@pytest.mark.parametrize(
    ("tokens", "tags", "options", "words"),
    [
        ([["a"], ["b", "c"]], [["O"], ["B-X"]], {}, ["row 2", "2 `tokens`", "1 `ner_tags`"]),
        ([["a", "b"]], [["O", "I-X"]], {}, ["row 1", "word 2 (`b`)", "`I-X` after `O`", "repair=true"]),
        ([["a", "b"]], [["B-X", "I-Y"]], {}, ["`I-Y` after `B-X`", "repair=true"]),
        ([["a", "b"]], [["S-X", "O"]], {}, ["`S-X`", "BIOES", "repair=true"]),
        ([["a", "b"]], [["B-X", "PER"]], {}, ["word 2 (`b`)", "`PER`", "scheme=plain"]),
        ([["a", "b"]], [["B-X", "PER"]], {"repair": True}, ["`PER`"]),
        ([["a", "b"]], [["O", "O"]], {}, ["only one tag", "`O`"]),
        ([[]], [[]], {}, ["every row's `tokens` is empty"]),
        (["a b"], [["O", "B-X"]], {}, ["row 1", "`tokens`", "`a b`", '["New", "York"]']),
        ([["a", "b"]], ["O B-X"], {}, ["`ner_tags`", '["B-LOC", "I-LOC"]']),
        ([["a", None]], [["O", "B-X"]], {}, ["`tokens` holds null at place 2"]),
        ([["a", "b"]], [["O", ""]], {}, ["word 2", "a name or a whole number"]),
        ([["a", "b"]], [[0, 3]], {"labels": ["O", "B-X"]}, ["word 2", "tag 3", "0 to 1"]),
        ([["a", "b"]], [[0, 1]], {"scheme": "bio"}, ["numbers without names", "token-classification.labels="]),
        ([["a", "b"]], [["O", "B-PRE"]], {"labels": ["O", "B-PER"]}, ["`B-PRE`", "nearest: `B-PER`", "list of names"]),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused(
    tokens: list[Any], tags: list[Any], options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        fitted(rows_of(tokens, tags), **options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_other_rows_may_only_have_known_tags() -> None:
    task = fitted()
    task.check(rows_of([["x", "y"]], [["B-GOOD", "I-GOOD"]]), "eval")  # an I-X that training did not have
    with pytest.raises(DataError, match=r"rows.jsonl, row 2: word 1 \(`y`\) of the eval rows has the tag `B-DAY`"):
        task.check(rows_of([["x"], ["y"]], [["O"], ["B-DAY"]]), "eval")
    with pytest.raises(DataError, match="repair=true"):
        task.check(rows_of([["x"]], [["I-COL"]]), "eval")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("O I-X I-X O I-Y", "O B-X I-X O B-Y"),  # IOB1
        ("I-X B-X I-X", "B-X B-X I-X"),  # IOB1, two that touch
        ("B-X I-Y I-Y", "B-X B-Y I-Y"),
        ("B-X E-X S-X O B-Y I-Y E-Y", "B-X I-X B-X O B-Y I-Y I-Y"),  # BIOES
        ("B-X L-X U-Y U-Y I-Y", "B-X I-X B-Y B-Y B-Y"),  # BILOU; after a closed entity a new one begins
        ("B-X I-X O B-X", "B-X I-X O B-X"),
    ],
)
def test_mended_tags_are_bio(given: str, wanted: str) -> None:
    found = mend(given.split())
    assert found == wanted.split()
    check_bio(found, found)
    assert mend(found) == found


@given(st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BIESLU" for t in "XY")]), max_size=12))
def test_whatever_is_mended_is_valid(tags: list[str]) -> None:
    check_bio(mend(tags), tags)


def test_repair_reads_what_is_otherwise_refused() -> None:
    rows = rows_of([["a", "b", "c"]], [["I-PER", "I-PER", "O"]])
    assert fitted(rows, repair=True).truth(rows.table[0]) == ["B-PER", "I-PER", "O"]
    with pytest.raises(DataError):
        fitted(rows)


# ---- files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tab.conll", "EU\tB-ORG\nrejects\tO\n\nPeter\tB-PER\nBlackburn\tI-PER\n"),
        ("columns.bio", "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\nBlackburn NNP I-NP I-PER"),
        ("spaces.txt", "EU   B-ORG\r\nrejects O\r\n   \r\nPeter B-PER\r\nBlackburn I-PER\r\n\r\n\r\n"),
        ("hash.iob2", "EU\tB-ORG\nrejects\tO\n\t\nPeter\tx\tB-PER\nBlackburn\tx\tI-PER\n"),
        ("cells.csv", 'words,tags\n"[""EU"", ""rejects""]","[""B-ORG"", ""O""]"\n"[\'Peter\', \'Blackburn\']","[\'B-PER\', \'I-PER\']"\n'),
    ],
)  # fmt: skip
def test_files_of_tagged_words(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    cls = TokenClassification
    rows = read(str(tmp_path / name), {}, cls.required, cls.optional, cls.synonyms, cls.plain_text)
    task = fitted(rows)
    assert [task.words(row) for row in rows.table] == [["EU", "rejects"], ["Peter", "Blackburn"]]
    assert [task.truth(row) for row in rows.table] == [["B-ORG", "O"], ["B-PER", "I-PER"]]


@pytest.mark.parametrize("column", ["tags", "labels", "pos_tags", "upos"])
def test_other_names_of_the_tags(column: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"tokens": ["a", "b"], column: ["X", "Y"]}))
    cls = TokenClassification
    rows = read(str(tmp_path / "rows.jsonl"), {}, cls.required, cls.optional, cls.synonyms, cls.plain_text)
    assert rows.table["ner_tags"][0] == ["X", "Y"]


# ---- words to tokens


@pytest.mark.parametrize(
    "make", [lambda: tiny_tokenizer(True), pieces_tokenizer, lambda: byte_tokenizer(True)], ids=["words", "pieces", "bytes"]
)  # fmt: skip
@pytest.mark.parametrize("label_on", ["first", "last", "all"])
def test_labels_stand_where_the_tokenizer_says_the_words_are(make: Any, label_on: str) -> None:
    """transformers' own way (`is_split_into_words`, `word_ids`), which only fast tokenizers have."""
    tokenizer, task, rows = make(), fitted(label_on=label_on), toy()
    for row, (feature,) in zip(rows.table, features_of(task, rows, tokenizer, 64), strict=True):
        reference = tokenizer(row["tokens"], is_split_into_words=True)
        assert feature["input_ids"].tolist() == reference["input_ids"]
        owners = reference.word_ids()
        for place, (owner, label) in enumerate(zip(owners, feature["labels"].tolist(), strict=True)):
            first, last = place == owners.index(owner), place == len(owners) - 1 - owners[::-1].index(owner)
            if owner is None or (label_on == "first" and not first) or (label_on == "last" and not last):
                assert label == IGNORED
            elif label_on == "all" and not first and row["ner_tags"][owner] != "O":
                assert task.labels[label] == f"I-{row['ner_tags'][owner][2:]}"
            else:
                assert task.labels[label] == row["ner_tags"][owner]
        decided = feature["places"].tolist()
        assert [owners[place] for place in decided] == feature["words"].tolist() == list(range(len(row["tokens"])))


@pytest.mark.parametrize("make", [lambda: byte_tokenizer(False), lambda: transformers.ByT5Tokenizer(extra_ids=0)])
def test_words_look_as_they_do_inside_a_text(make: Any) -> None:
    """GPT-2 and ByT5 see a space before a word; without it every word would be one that they met at the start of texts only."""
    tokenizer = make()
    words = ["the", "film", "was", "good"]
    pieces = WordPieces(tokenizer)
    inside = tokenizer("x the film was good", add_special_tokens=False)["input_ids"]
    start = tokenizer("x", add_special_tokens=False)["input_ids"]
    assert start + [i for ids in pieces.of(words) for i in ids] == inside
    assert pieces.after == ([tokenizer.eos_token_id] if tokenizer.eos_token else [])
    assert pieces.before == []


def test_words_that_look_special_are_words() -> None:
    tokenizer = tiny_tokenizer(segments=True)
    (feature,) = features_of(fitted(), rows_of([["[SEP]", "film"]], [["O", "O"]]), tokenizer)[0]
    assert feature["input_ids"][0] == tokenizer.cls_token_id
    assert (feature["input_ids"] == tokenizer.sep_token_id).sum() == 1


def test_a_python_tokenizer_will_do() -> None:
    tokenizer, task = transformers.ByT5Tokenizer(extra_ids=0), fitted()
    assert not tokenizer.is_fast
    (feature,) = features_of(task, rows_of([["phở", "red"]], [["O", "B-COL"]]), tokenizer)[0]
    text = " phở red"
    assert feature["input_ids"].tolist() == tokenizer(text)["input_ids"]
    assert feature["places"].tolist() == [0, len(" phở".encode())]


def test_words_without_tokens_get_no_label_and_the_usual_tag() -> None:
    tokenizer, task = tiny_tokenizer(segments=True), fitted()
    rows = rows_of([["", "red", " ", "film"], ["\u3000"]], [["O", "B-COL", "O", "O"], ["B-COL"]])
    some, none = features_of(task, rows, tokenizer)
    assert none == []
    assert some[0]["words"].tolist() == [1, 3]
    assert (some[0]["labels"] != IGNORED).sum() == 2
    record = (np.asarray([1, 3]), np.asarray([1, 0]), np.asarray([0.75, 0.5], np.float32))
    answer = task.join([record], rows.table[0])
    assert answer.value == ["O", "B-COL", "O", "O"]
    assert answer.numbers == [0.625, 0.5]
    assert task.join([], rows.table[1]).value == ["O"]


def test_a_row_that_never_reaches_the_model_counts_as_missed(models: Path) -> None:
    task, loaded = opened("bert", models)
    rows = rows_of([["", " "]], [["B-COL", "O"]])
    encoded = encode(task, rows, loaded.tokenizer, 32)
    assert len(encoded) == 0
    rows = rows_of([["", " "], ["red"]], [["B-COL", "O"], ["B-COL"]])
    found = scored(task, loaded, rows)
    assert found.metrics["recall"] <= 0.5
    assert found.answers[0].value == ["O", "O"]


# ---- windows


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(9, 30), st.integers(0, 40), st.booleans())
def test_windows_hold_every_word_and_decide_it_once(sizes: list[int], room: int, overlap: int, causal: bool) -> None:
    found = windows(sizes, room, overlap, causal)
    assert sorted(word for window in found for word in window.owned) == list(range(len(sizes)))
    for window in found:
        assert sum(sizes[window.first : window.last]) <= room
        assert all(window.first <= word < window.last for word in window.owned)
        assert window.owned
    if sum(sizes) <= room:
        assert [(w.first, w.last) for w in found] == [(0, len(sizes))]


def test_words_are_decided_where_most_is_seen_around_them() -> None:
    # Ten words of one token in windows of six that share three: 0-6, 3-9, and the last filled from the left, 4-10. Word 5 is the
    # edge of the first; word 6 sees two words on its nearer side in the second and in the third, and goes to the earlier.
    found = windows([1] * 10, 6, 3)
    assert [(w.first, w.last, list(w.owned)) for w in found] == [
        (0, 6, [0, 1, 2, 3, 4]), (3, 9, [5, 6]), (4, 10, [7, 8, 9]),
    ]  # fmt: skip
    # A model that looks back only has most in the window that starts first.
    assert [list(w.owned) for w in windows([1] * 10, 6, 3, causal=True)] == [[0, 1, 2, 3, 4, 5], [6, 7, 8], [9]]
    # Words that are shared are context only.
    assert [(w.first, w.last) for w in windows([1] * 10, 6, 0)] == [(0, 6), (4, 10)]


def test_long_rows_are_windowed_and_every_word_is_answered(models: Path) -> None:
    words = [WORDS[i % len(WORDS)] for i in range(50)]
    rows = rows_of([words, ["red", "film"]], [tag(words), ["B-COL", "O"]])
    task, loaded = opened("bert", models)
    seen = {}
    for max_length, stride in ((64, 64), (16, 0), (16, 6)):
        task = fitted(stride=stride)
        features = features_of(task, rows, loaded.tokenizer, max_length)
        assert max(len(f["input_ids"]) for several in features for f in several) <= max_length
        batch = task.collate([f for several in features for f in several], 0)
        assert task.units(batch) == 52  # no word is trained twice
        found = scored(task, loaded, rows, max_length)
        assert [len(answer.value) for answer in found.answers] == [50, 2]
        seen[max_length, stride] = (len(features[0]), found.metrics["loss"])
    assert seen[64, 64][0] == 1
    assert seen[16, 0][0] < seen[16, 6][0]
    assert seen[16, 0][1] != seen[16, 6][1]


def test_a_word_longer_than_a_window_is_cut() -> None:
    task, tokenizer = fitted(), pieces_tokenizer()
    features = features_of(task, rows_of([["abcdefghij", "red"]], [["O", "B-COL"]]), tokenizer, 6)[0]
    assert [len(f["input_ids"]) for f in features] == [6, 4]
    assert [f["words"].tolist() for f in features] == [[0], [1]]


# ---- loss


def opened(kind: str, models: Path, task: TokenClassification | None = None) -> tuple[TokenClassification, Any]:
    task = task or fitted()
    source = locate(str(tiny_model(kind, models / kind)))
    return task, load_model(source, load_tokenizer(source), task)


def scored(task: TokenClassification, loaded: Any, rows: Rows, max_length: int = 32) -> Any:
    encoded = encode(task, rows, loaded.tokenizer, max_length)
    return evaluate(
        loaded.model, task, rows.table, encoded, batch_size=3, device=torch.device("cpu"), pad_id=loaded.tokenizer.pad_token_id
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "t5"])
def test_the_loss_is_transformers_own_and_padding_is_nothing(kind: str, models: Path) -> None:
    task, loaded = opened(kind, models)
    features = [f for several in features_of(task, toy(), loaded.tokenizer) for f in several]
    batch = task.collate(features, loaded.tokenizer.pad_token_id)
    with torch.no_grad():
        own = loaded.model(**task.model_inputs(batch), labels=batch["labels"])
        outputs = task.forward(loaded.model, batch)
        alone = loaded.model(**task.model_inputs(task.collate(features[:1], loaded.tokenizer.pad_token_id))).logits
    assert outputs.logits.shape == (*batch["input_ids"].shape, len(task.labels))
    assert task.units(batch) == sum(map(len, SENTENCES))
    torch.testing.assert_close(task.loss(outputs, batch) / task.units(batch), own.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone[0], outputs.logits[0, : alone.shape[1]], rtol=1e-4, atol=1e-5)


def test_what_is_labelled_changes_the_loss(models: Path) -> None:
    rows, tokenizer = toy(), pieces_tokenizer()
    units = {}
    for label_on in ("first", "last", "all"):
        task = fitted(label_on=label_on)
        batch = task.collate([f for several in features_of(task, rows, tokenizer, 64) for f in several], 0)
        units[label_on] = (task.units(batch), batch["labels"].tolist())
    assert units["first"][0] == units["last"][0] == sum(map(len, SENTENCES))
    assert units["first"][1] != units["last"][1]
    inner = (batch["input_ids"] > 3).sum()
    assert units["all"][0] == int(inner)


# ---- raw text


TEXTS = ["Cô Nguyễn Thị Mai-Anh ở Hà Nội, nhé!", "She's at U.S. Steel (3.5 %)…", "xin chào\n\tbạn", "한국어 텍스트"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("text", TEXTS)
def test_words_of_a_text_do_not_depend_on_its_unicode_form(text: str, form: str) -> None:
    given = unicodedata.normalize(form, text)
    words = [given[start:end] for start, end in split(given)]
    plain = unicodedata.normalize("NFC", text)
    assert [unicodedata.normalize("NFC", word) for word in words] == [plain[start:end] for start, end in split(plain)]
    assert "".join(words) == "".join(given.split())


def test_words_and_marks_are_parted() -> None:
    assert [TEXTS[0][a:b] for a, b in split(TEXTS[0])] == [
        "Cô", "Nguyễn", "Thị", "Mai-Anh", "ở", "Hà", "Nội", ",", "nhé", "!",
    ]  # fmt: skip
    assert [TEXTS[1][a:b] for a, b in split(TEXTS[1])] == [
        "She's",
        "at",
        "U.S",
        ".",
        "Steel",
        "(",
        "3.5",
        "%",
        ")",
        "…",
    ]


@given(st.text(max_size=30))
def test_any_text_is_split_into_all_that_is_visible(text: str) -> None:
    places = split(text)
    assert "".join(text[a:b] for a, b in places) == "".join(text.split())
    assert all(a < b for a, b in places)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_given_words_are_found_in_their_text_whatever_its_form(form: str) -> None:
    text = unicodedata.normalize(form, "Ở Hà Nội, bà Mai nói: Hà Nội.")
    words = ["Ở", "Hà", "Nội", ",", "bà", "Mai", "nói", ":", "Hà", "Nội", "."]
    places = locate_words(words, text)
    assert [unicodedata.normalize("NFC", text[a:b]) for a, b in places] == words
    assert all(text[b : b + 1] in ("", " ", ",", ":", ".") for _, b in places)
    with pytest.raises(DataError, match=r"word 2 \(`Huế`\) is not in `text` after character [13];"):
        locate_words(["Ở", "Huế"], text)


def test_entities_have_their_places_in_the_text() -> None:
    task = fitted()
    index = {label: i for i, label in enumerate(task.labels)}
    wanted = ["O", "B-COL", "I-COL", "O", "B-GOOD"]
    words = ["the", "red", "blue", "film", "good"]
    record = (np.arange(5), np.asarray([index[t] for t in wanted]), np.asarray([1.0, 0.5, 0.7, 1.0, 0.9]))
    joined = task.join([record], {"tokens": words}).shown
    assert joined["prediction"] == wanted
    assert joined["spans"] == [
        {"type": "COL", "text": "red blue", "start": 4, "end": 12, "score": pytest.approx(0.6)},
        {"type": "GOOD", "text": "good", "start": 18, "end": 22, "score": pytest.approx(0.9)},
    ]
    text = "the  red\tblue film: good"
    words_too = task.join([record], {"tokens": words, "text": text}).shown
    assert [text[s["start"] : s["end"]] for s in words_too["spans"]] == ["red\tblue", "good"]
    assert words_too["spans"][0]["start"] == 5
    raw = task.join([record], {"text": "the  red\tblue film good"}).shown
    assert raw["tokens"] == words
    assert raw["spans"] == [{**words_too["spans"][0]}, {**words_too["spans"][1], "start": 19, "end": 23}]


def test_plain_tags_have_scores_and_numbers_come_back_as_numbers() -> None:
    task = fitted(rows_of([["a", "b"]], [[3, 7]]))
    record = (np.arange(2), np.asarray([1, 0]), np.asarray([0.5, 1.0]))
    assert task.join([record], {"tokens": ["x", "y"]}).shown == {"prediction": [7, 3], "score": [0.5, 1.0]}


# ---- runs


@pytest.fixture(scope="module")
def trained(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    rng = np.random.default_rng(0)
    sentences = [[WORDS[i] for i in rng.integers(0, len(WORDS), n)] for n in rng.integers(3, 30, 80)]
    rows = [{"tokens": words, "ner_tags": tag(words)} for words in sentences]
    settings = {"technique": "full", "learning_rate": 3e-3, "epochs": 12, "max_length": 24, "batch_size": 8}
    return tunesmith.train(
        str(tiny_model("bert", models / "bert")), task="token-classification", train=rows[:64], eval=rows[64:],
        output=tmp_path_factory.mktemp("ner") / "run", token_classification={"stride": 8}, **settings,
    )  # fmt: skip


def test_a_run_learns_to_tag(trained: Any) -> None:
    metrics = trained.result["metrics"]
    assert metrics["primary"] == "f1"
    assert metrics["after"]["f1"] > 0.9 > metrics["before"]["f1"]
    assert {"precision", "recall", "accuracy", "loss", "f1_COL", "f1_GOOD"} <= metrics["after"].keys()


def test_an_artifact_marks_entities_in_raw_text(trained: Any, tmp_path: Path) -> None:
    artifact = trained.load()
    text = unicodedata.normalize("NFD", "phim hay: the red film, very good")
    (found,) = artifact.predict([{"text": text}])
    assert [(s["type"], s["text"], text[s["start"] : s["end"]]) for s in found["spans"]] == [
        ("COL", "red", "red"), ("GOOD", "good", "good"),
    ]  # fmt: skip
    assert len(found["prediction"]) == len(found["tokens"])
    assert artifact.predict([{"text": ""}, {"tokens": []}])[0]["prediction"] == []
    (given,) = artifact.predict([{"tokens": ["the", "red", "film"], "text": "the red film"}])
    assert given["spans"][0]["start"] == 4
    with pytest.raises(DataError, match=r"rows, row 2: word 1 \(`plot`\) is not in `text`"):
        artifact.predict([{"text": "a"}, {"tokens": ["plot"], "text": "film"}])
    with pytest.raises(DataError, match=r"row 1: `tokens` is missing"):
        artifact.predict([{"words": ["plot"]}])
    assert artifact.evaluate([{"tokens": ["red", "film"], "ner_tags": ["B-COL", "O"]}])["accuracy"] == 1.0


def test_predict_from_files(trained: Any, tmp_path: Path) -> None:
    from tunesmith.cli.main import run

    (tmp_path / "words.jsonl").write_text('{"id": 1, "words": ["red", "film"]}\n')
    (tmp_path / "text.csv").write_text("id,review\n1,a red film\n2,\n")
    out, artifact = tmp_path / "out.jsonl", str(trained.folder / "artifact")
    assert run(["predict", artifact, "--data", str(tmp_path / "words.jsonl"), "--output", str(out), "--quiet"]) == 0
    row = json.loads(out.read_text())
    assert row.keys() == {"id", "words", "prediction", "spans"}
    assert row["prediction"] == ["B-COL", "O"]
    csv = ["predict", artifact, "--data", str(tmp_path / "text.csv"), "--output", str(out), "--quiet"]
    assert run([*csv, "--columns", "text=review"]) == 0
    first, second = map(json.loads, out.read_text().splitlines())
    assert first["tokens"] == ["a", "red", "film"]
    assert first["spans"][0]["text"] == "red"
    assert second["prediction"] == []
    assert run(csv) == 2  # neither tokens nor text


def test_the_artifact_opens_in_a_plain_pipeline(trained: Any) -> None:
    tagger = transformers.pipeline("token-classification", model=str(trained.folder / "artifact"))
    found = {token["word"]: token["entity"] for token in tagger("the red film was good")}
    assert found["red"] == "B-COL"
    assert found["good"] == "B-GOOD"


# ---- baseline


def test_majority_gives_each_word_its_usual_tag() -> None:
    """p(tag | word) = (n(word, tag) + p(tag)) / (n(word) + 1), p(tag) = (n(tag) + 1) / (N + 3)."""
    train = rows_of([["a", "b", "a"], ["b", "b"]], [["B-X", "O", "B-X"], ["O", "B-X"]])
    other = rows_of([["a", "b", "c"]], [["B-X", "B-X", "O"]])
    task = fitted(train)
    guess = Majority(Majority.Options()).predict(task, Roles(train, None, other, {}), None)  # type: ignore[arg-type]
    assert list(guess.values) == [["B-X", "O", "B-X"]]
    share = {"O": 3 / 8, "B-X": 4 / 8}
    expected = [(2 + share["B-X"]) / 3, (1 + share["B-X"]) / 4, share["O"]]
    assert guess.loss == pytest.approx(-np.log(expected).mean())
    assert sum([3, 4, 1]) / 8 == 1.0  # the shares of O, B-X and I-X
