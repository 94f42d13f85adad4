"""The doctor sees what is planted, names the row, and names no other; on clean rows it says nothing."""

from __future__ import annotations

import copy
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from clean_rows import LANGUAGES, TASKS, Row, Writer, examined, rows

TRAIN, EVAL = 300, 150
PLACES = ("start", "middle", "end")
Planted = set[tuple[str, str, int]]  # (code, role, row number)


def misread(text: str) -> str:
    """UTF-8 read as Windows-1252 (as Latin-1, where that has no character)."""
    return "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in text.encode())


BROKEN = {"en": ["don’t", "déjà", "“so”"], "vi": ["Việt", "không", "được"]}
JUNK = {
    "mojibake": lambda language, i: misread(BROKEN[language][i % 3]),
    "mojibake twice": lambda language, i: misread(misread(BROKEN[language][i % 3])),
    "replacement-character": lambda language, i: "caf\ufffd",
    "html": lambda language, i: ("R&amp;D", "it&#39;s", "one<br/>two")[i % 3],
    "invisible": lambda language, i: ("zero\u200bwidth", "bell\x07", "\ufeffmark")[i % 3],
    "mixed-unicode": lambda language, i: unicodedata.normalize("NFD", ("café", "đường", "été")[i % 3]),
}


def put(text: str, junk: str, place: str) -> str:
    words = text.split(" ")
    at = {"start": 0, "middle": len(words) // 2, "end": len(words)}[place]
    return " ".join([*words[:at], junk, *words[at:]])


def damage(task: str, row: Row, junk: str, place: str) -> None:
    """Write junk into a row's text where that leaves the rest of the row right."""
    if task == "token-classification":
        row["tokens"][{"start": 0, "middle": 5, "end": 11}[place]] = junk
    elif task == "chat":
        message = row["messages"][{"start": -4, "middle": -3, "end": -1}[place]]
        message["content"] = put(message["content"], junk, place)
    else:
        name = {"question-answering": "question", "summarization": "document", "instruction": "completion"}.get(
            task, "text"
        )
        row[name] = put(row[name], junk, place)


def near(task: str, row: Row, place: str) -> Row:
    """A copy that differs in a letter or two."""
    copied = copy.deepcopy(row)
    at = {"start": 1, "middle": 5, "end": 10}[place]
    if task == "token-classification":
        copied["tokens"][at] += "y"
    elif task == "chat":
        copied["messages"][-1]["content"] += " ok"
    else:
        for name in {"question-answering": ["question"], "summarization": ["document"], "instruction": ["prompt"]}.get(
            task, ["text"]
        ):
            words = copied[name].split(" ")
            words[at] += "y"
            copied[name] = " ".join(words)
    return copied


def blank(task: str, row: Row) -> None:
    name = {"token-classification": "tokens", "question-answering": "context", "summarization": "document"}.get(
        task, "text"
    )
    row[name] = [] if name == "tokens" else "  "
    if name == "tokens":
        row["ner_tags"] = []
    if name == "context":
        row["answers"] = {"text": [], "answer_start": []}


class Plan:
    """Clean rows, and what was put into which of them."""

    def __init__(self, task: str, language: str) -> None:
        self.task, self.language = task, language
        self.train, self.eval = rows(task, language, TRAIN), rows(task, language, EVAL, 1)
        self.planted: Planted = set()
        self.writer = Writer(language, 7)
        self.free = {"train": iter(range(40, TRAIN)), "eval": iter(range(10, EVAL))}

    def take(self, code: str, role: str = "train") -> Row:
        """The next row that is still clean, which is about to be spoilt."""
        index = next(self.free[role])
        self.planted.add((code, role, index + 1))
        return getattr(self, role)[index]

    def replace(self, code: str, row: Row, role: str) -> None:
        """A whole new row in the place of a clean one."""
        spoilt = self.take(code, role)
        spoilt.clear()
        spoilt.update(row)


def plan_for(task: str, language: str) -> Plan:
    plan = Plan(task, language)
    for number, place in enumerate(PLACES):
        for code, junk in JUNK.items():
            for role in ("train", "eval"):
                damage(task, plan.take(code.split(" ")[0], role), junk(language, number), place)
        source = plan.train[number]
        plan.replace("duplicate", copy.deepcopy(source), "train")
        plan.replace("leak", copy.deepcopy(plan.train[3 + number]), "eval")
        plan.replace("near-leak", near(task, plan.train[6 + number], place), "eval")
        for role in ("train", "eval"):
            target = plan.take("null", role)
            target[next(iter(target))] = None
        if task not in ("chat", "instruction"):
            blank(task, plan.take("empty"))
        OWN[task](plan, number, place)
    return plan


def classification(plan: Plan, number: int, place: str) -> None:
    row = copy.deepcopy(plan.train[10 + number])
    plan.replace("conflict", {**row, "label": "negative" if row["label"] == "positive" else "positive"}, "train")
    plan.take("label-unseen", "eval")["label"] = f"other {number}"
    plan.take("empty-label")["label"] = " "
    plan.take("label-spelling")["label"] = ("Positive", "NEGATIVE", "positive ")[number]
    plan.take("rare-label")["label"] = "neutral"
    plan.take("unknown-token")["text"] = ("今天 天气 很 好", "мы жили долго", "ทุก คน มา ที่")[number]


def tokens(plan: Plan, number: int, place: str) -> None:
    at = {"start": 0, "middle": 5, "end": 11}[place]
    plan.take("tags-and-tokens")["ner_tags"].pop()
    plan.take("bio")["ner_tags"][at] = "I-PER"
    plan.take("bio", "eval")["ner_tags"][3] = ("I-LOC", "I-ORG", "I-LOC")[number]
    plan.take("tag-unseen", "eval")["ner_tags"][at] = "B-XYZ"
    plan.take("empty-token")["tokens"][at] = " "
    plan.take("rare-type")["ner_tags"][at] = "B-ORG"
    plan.take("tag-form")["ner_tags"][at] = "PER"
    row = copy.deepcopy(plan.train[10 + number])
    plan.replace("conflict", {**row, "ner_tags": ["O"] * 12}, "train")


def answers(plan: Plan, number: int, place: str) -> None:
    for role in ("train", "eval"):
        plan.take("answer-offset", role)["answers"]["answer_start"][0] += (1, -1, 7)[number] if number != 1 else 1
        plan.take("answer-absent", role)["answers"]["text"] = ["nowhere in it"]
        plan.take("answer-outside", role)["answers"]["answer_start"] = [(-3, 100_000, 5_000)[number]]
    plan.take("answer-form")["answers"] = (
        {"text": ["a", "b"], "answer_start": [1]},
        {"answer_start": [1]},
        {"text": [3], "answer_start": [0]},
    )[number]
    plan.take("answer-empty")["answers"]["text"] = [" "]
    row = plan.take("answer-is-context")
    row["answers"] = {"text": [row["context"]], "answer_start": [0]}
    row = copy.deepcopy(plan.train[10 + number])
    plan.replace("conflict", {**row, "answers": {"text": [row["context"][:5]], "answer_start": [0]}}, "train")


def summaries(plan: Plan, number: int, place: str) -> None:
    plan.take("empty-summary")["summary"] = ("", " ", "\n")[number]
    row = plan.take("summary-copied")
    row["summary"] = (row["document"], row["document"].upper(), row["document"][:-10])[number]
    row = plan.take("summary-longer", "eval")
    row["document"] = plan.writer.sentence(9)
    row["summary"] = plan.writer.sentence(10) + " " + plan.writer.sentence(12)
    for role in ("train", "eval"):
        row = plan.take("target-cut", role)
        row["document"], row["summary"] = plan.writer.text(20), plan.writer.text(15)


def completions(plan: Plan, number: int, place: str) -> None:
    plan.take("empty-completion")["completion"] = ("", " ", "\n")[number]
    plan.take("empty-prompt")["prompt"] = ("", " ", "\t")[number]
    row = plan.take("completion-is-prompt")
    row["completion"] = row["prompt"]
    row = plan.take("prompt-tells")
    row["prompt"] = put(row["prompt"], row["completion"], place)
    row = plan.take("completion-repeats")
    row["completion"] = f"{row['prompt']} {row['completion']}"
    plan.take("target-too-long")["completion"] = plan.writer.text(15)
    plan.take("cannot-encode", "eval")["completion"] = plan.writer.text(60)
    plan.take("byte-fallback")["prompt"] = "今天天气很好我们一起去公园散步吧" * 6


def chats(plan: Plan, number: int, place: str) -> None:
    def said(*turns: str) -> list[dict[str, str]]:
        return [{"role": turn, "content": plan.writer.sentence()} for turn in turns]

    plan.take("messages")["messages"] = ("hello", [], [{"content": "no role"}])[number]
    plan.take("assistant-silent")["messages"] = said(*["user"] * 1)
    plan.take("unknown-role")["messages"] = said(
        "user", "assistant", ("narrator", "judge", "agent")[number], "assistant"
    )
    plan.take("late-system")["messages"] = said("user", "assistant", "system", "user", "assistant")
    plan.take("starts-with-assistant")["messages"] = said("assistant", "user", "assistant")
    plan.take("not-alternating")["messages"] = said("user", "user", "assistant")
    plan.take("not-alternating", "eval")["messages"] = said("user", "assistant", "assistant")
    plan.take("ends-with-user")["messages"] = said("user", "assistant", "user")
    row = plan.take("empty-turn")
    row["messages"][-2]["content"] = ("", " ", "\n")[number]
    row = plan.take("marks-in-text")
    row["messages"][-1]["content"] = put(row["messages"][-1]["content"], "<|end|>", place)


def documents(plan: Plan, number: int, place: str) -> None:
    plan.take("short-document")["text"] = ("Ok.", "Yes", "Hm!")[number]
    plan.take("not-text")["text"] = ("\x01\x02\x03\x04" * 20, "aGVsbG8gd29ybGQ" * 40, "\ufffd" * 40)[number]
    for _ in range(8):
        row = plan.take("boilerplate")
        row["text"] = f"{row['text']}\nAll rights reserved by the publisher of these pages."
    line = plan.writer.sentence()
    plan.take("repeated-lines")["text"] = "\n".join([line, plan.writer.sentence(), line, line, line])


OWN: dict[str, Any] = {
    "text-classification": classification, "token-classification": tokens, "question-answering": answers,
    "summarization": summaries, "instruction": completions, "chat": chats, "language-modeling": documents,
}  # fmt: skip


def seen(report: Any) -> Planted:
    return {(f.code, f.role, row) for f in report.findings for row in f.rows}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, models: Path, cache: Path) -> list[tuple[Plan, Planted]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(cache))
        found = []
        for task in TASKS:
            for language in LANGUAGES:
                plan = plan_for(task, language)
                report = examined(task, plan.train, plan.eval, tmp_path_factory.mktemp("planted"), models)
                found.append((plan, seen(report)))
        return found


def test_planted_defects_are_found(results: list[tuple[Plan, Planted]]) -> None:
    planted, missed = Counter[str](), Counter[str]()
    for plan, found in results:
        for code, role, row in plan.planted:
            kind = f"{plan.task} {plan.language} {code}"
            planted[kind] += 1
            missed[kind] += (code, role, row) not in found
    total, gone = planted.total(), missed.total()
    assert total >= 800
    lost = {kind: f"{missed[kind]} of {planted[kind]}" for kind in planted if missed[kind]}
    assert gone <= 0.05 * total, f"{gone} of {total} missed: {lost}"
    assert all(missed[kind] < planted[kind] for kind in planted), f"kinds that are never seen: {lost}"


def test_no_other_row_is_named(results: list[tuple[Plan, Planted]]) -> None:
    """A warning about a sound row costs a person's time: rows that were left alone are in no finding."""
    named, wrong = 0, []
    for plan, found in results:
        spoilt = {(role, row) for _, role, row in plan.planted}
        named += len(found)
        wrong += [(plan.task, plan.language, *one) for one in found if one[1:] not in spoilt]
    assert len(wrong) <= 0.01 * named, wrong


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("task", TASKS)
def test_clean_rows_are_left_alone(task: str, language: str, tmp_path: Path, models: Path) -> None:
    report = examined(task, rows(task, language, TRAIN), rows(task, language, EVAL, 1), tmp_path, models)
    assert report.verdict == "ok", [f.sentence for f in report.findings]
    assert report.line == f"nothing found in {TRAIN} train and {EVAL} eval rows"
