"""Data sets that are grown or mixed: sentence templates, and instructions made of other data sets."""

from __future__ import annotations

import json
import zipfile

import pytest

from tunesmith.assets.convert import alpaca, intents
from tunesmith.assets.convert.intents import Grammar
from tunesmith.assets.rows import Dropped
from tunesmith.errors import AssetError

RULES = {"off": "(tắt|đóng)", "loop": "<loop>"}
LISTS = {
    "state": {"values": [{"in": "(mở|hé)", "out": "on"}, "khóa"]},
    "level": {"range": {"from": 10, "to": 30, "step": 10}},
    "other": {"wildcard": True},
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("một", {"một"}),
        ("[cái] đèn", {"cái đèn", "đèn"}),
        ("(a|b c) d", {"a d", "b c d"}),
        ("[a|b]c", {"a c", "b c", "c"}),
        ("[thôi][được] không", {"thôi được không", "thôi không", "được không", "không"}),
        ("<off> đèn", {"tắt đèn", "đóng đèn"}),
        ("{state:slot}", {"mở", "hé", "khóa"}),
        ("{level} %", {"10 %", "20 %", "30 %"}),
        ("{level}[ ][%]", {"10", "10 %", "20", "20 %", "30", "30 %", "10%", "20%", "30%"}),
        ("(a;b;[c])", {"a b", "b a"} | {" ".join(p) for p in ("abc", "acb", "bac", "bca", "cab", "cba")}),
        ("x ((a|b) [c]|d)", {"x a", "x b", "x a c", "x b c", "x d"}),
        ("ở {area}", {f"ở {area}" for area in intents.OPEN["area"]}),
        ("khóa {name}", {f"khóa {name}" for name in intents.OPEN["lock"]}),
    ],
)
def test_templates_grow_into_all_their_sentences(template, expected):
    assert set(Grammar(RULES, LISTS, ["lock"]).grow(template)) == expected


def test_growing_is_bounded_distinct_and_repeatable():
    grammar = Grammar(RULES, {"n": {"range": {"from": 0, "to": 999}}}, [])
    first = grammar.grow("số {n}")
    assert len(first) == len(set(first)) == intents.PER_TEMPLATE
    assert Grammar(RULES, {"n": {"range": {"from": 0, "to": 999}}}, []).grow("số {n}") == first
    assert grammar.grow("số {n}", 3) == first[:3]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("<loop>", "calls itself"),
        ("<gone>", "`gone`"),
        ("{gone}", "`gone`"),
        ("{other}", "no words"),
        ("a]", "bracket too many"),
        ("[a", "open bracket"),
    ],
)
def test_templates_that_make_no_sense_are_refused(template, why):
    with pytest.raises(AssetError, match=why):
        Grammar(RULES, LISTS, []).grow(template)


def test_a_sentence_of_two_intents_belongs_to_none(tmp_path):
    def block(*sentences, **more):
        return {"data": [{"sentences": list(sentences), **more}]}

    content = {
        "expansion_rules": RULES,
        "lists": LISTS,
        "intents": {
            "Off": block("<off> [cái] {name}", requires_context={"domain": "lock"}),
            "Close": block("đóng cửa trước", "đóng hết"),
        },
    }
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as file:
        file.writestr("home_assistant_intents/data/vi.json", json.dumps(content))
    rows = list(intents.vietnamese([tmp_path / "x.whl"]))
    assert rows[0] == Dropped("said for several intents")
    labels = {row["text"]: row["label"] for row in rows[1:]}
    assert labels["đóng hết"] == "Close"
    assert "đóng cửa trước" not in labels
    assert labels["tắt cái cổng chính"] == "Off"
    assert len(labels) == 2 * 2 * 3 - 1 + 1


def test_each_kind_of_instruction():
    tags = {"tokens": ["New", "York", "loves", "Ann"], "ner_tags": ["B-geo", "I-geo", "O", "B-person"]}
    assert alpaca.entities(tags)["output"] == "New York (geo)\nAnn (person)"
    assert alpaca.entities({"tokens": ["hi"], "ner_tags": ["O"]})["output"] == "none"
    assert alpaca.sentiment({"text": "fine", "label": "positive"})["output"] == "positive"
    mail = alpaca.spam({"text": "word " * 400, "label": "ham"})
    assert len(mail["input"]) <= alpaca.LONGEST_MAIL + 4
    assert mail["input"].endswith("word ...")
    row = {
        "question": "Who?",
        "context": "Men and women.",
        "answers": {"text": ["Men", "women"], "answer_start": [0, 8]},
    }
    assert alpaca.question(row) == {"instruction": "Who?", "input": "Men and women.", "output": "Men; women"}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "x"},
    ]
    assert (alpaca.reply({"messages": messages})["input"], alpaca.reply({"messages": messages})["output"]) == (
        "hi",
        "yo",
    )
    assert alpaca.intent({"text": "tắt đèn", "label": "Off"})["output"] == "Off"
    wordings = {alpaca.sentiment({"text": str(i), "label": "positive"})["instruction"] for i in range(40)}
    assert len(wordings) == 3


def test_the_mixture_takes_its_share_of_each_and_no_row_twice(tmp_path, monkeypatch):
    recipe = {"a": (3, alpaca.sentiment), "b": (9, alpaca.intent)}
    monkeypatch.setattr(alpaca, "RECIPE", recipe)
    for name in recipe:
        lines = [json.dumps({"text": f"{name} {i // 2}", "label": "positive"}) for i in range(8)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    found = list(alpaca.mixture([tmp_path / name for name in recipe]))
    rows = [row for row in found if not isinstance(row, Dropped)]
    assert len(found) == 3 + 8
    assert sorted(row["input"] for row in rows if row["source"] == "b") == ["b 0", "b 1", "b 2", "b 3"]
    assert list(rows[0]) == ["instruction", "input", "output", "source", "id"]
    assert list(alpaca.mixture([tmp_path / name for name in recipe])) == found
