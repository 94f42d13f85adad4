"""Harder questions on the same abstracts of drug trials: several a text, distractors, some without an answer.

    context    two abstracts that stand side by side in the source (often of one drug), a paragraph each: longer than a window
               of 384 tokens, and whatever is asked of one abstract has its like in the other
    questions  who was studied, what the aim was, what was concluded in the trial with this title; what an abbreviation means
    no answer  the same questions about trials and abbreviations of other contexts, three in ten rows

The answers to the first kind are the source's; the others are read off the abstract: the first sentence of a section with
such a heading, and the words before an abbreviation in brackets whose initials it consists of. Everything follows from the
source, with no chance in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.assets.convert.population import questions as abstracts
from tunesmith.assets.rows import Dropped, Row

LONGEST_TITLE = 250
SECTIONS = {
    "What was the aim of the trial": r"(?:PURPOSE|OBJECTIVES?|AIMS?)",
    "What was concluded from the trial": r"(?:CONCLUSIONS?|INTERPRETATION)",
}
POPULATION = "Who was studied in the trial"
SHORT = re.compile(r"\(([A-Z]{2,6})\)")
WORD = re.compile(r"[A-Za-z]+")
UNANSWERABLE = 3 / 10  # of all rows


def questions(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """Rows `id`, `question`, `context`, `answers`; both lists of `answers` are empty where there is none."""
    found = [row for row in abstracts(archives) if not isinstance(row, Dropped)]
    pairs = [found[i : i + 2] for i in range(0, len(found) - 1, 2)]
    documents = [_document(pair) for pair in pairs]
    rows = [row for number, document in enumerate(documents) for row in _asked(document, number)]
    yield from rows
    wanted = round(len(rows) * UNANSWERABLE / (1 - UNANSWERABLE))
    yield from _foreign(documents, rows, wanted)


def _document(pair: Sequence[Row]) -> dict[str, Any]:
    """A context and its questions, each with the places of its answers."""
    order = sorted(pair, key=lambda row: hashlib.sha256(row["context"].encode()).digest())
    context = ""
    asked: dict[str, list[tuple[int, int]]] = {}
    for row in order:
        start = len(context)
        for question, spans in _questions(row).items():
            asked.setdefault(question, []).extend((start + a, start + b) for a, b in spans)
        context += row["context"].strip("\n") + "\n\n"
    return {"context": context.rstrip("\n"), "asked": asked}


def _questions(row: Row) -> dict[str, list[tuple[int, int]]]:
    """Questions on one abstract and the characters of their answers."""
    text = row["context"] = row["context"].strip("\n")
    title, cut, _ = text.partition("\n\n")
    found: dict[str, list[tuple[int, int]]] = {}
    if cut and len(title) <= LONGEST_TITLE:
        name = f'"{title.strip().rstrip(".")}"'
        places = ((text.find(answer), answer) for answer in row["answers"]["text"])
        found[f"{POPULATION} {name}?"] = [(at, at + len(answer)) for at, answer in places if at >= 0]
        for question, heading in SECTIONS.items():
            section = re.search(rf"^{heading}: *([^\n]+?[.?!])(?= |\n|$)", text, re.M)
            if section:
                found[f"{question} {name}?"] = [section.span(1)]
    for short in SHORT.finditer(text):
        words = list(WORD.finditer(text, 0, short.start()))[-len(short[1]) :]
        if "".join(word[0][0] for word in words).upper() == short[1]:
            span = (words[0].start(), words[-1].end())
            found.setdefault(f"What does {short[1]} stand for?", []).append(span)
    return {question: spans for question, spans in found.items() if spans}


def _asked(document: dict[str, Any], number: int) -> Iterator[Row]:
    for place, (question, spans) in enumerate(document["asked"].items()):
        texts = [document["context"][a:b] for a, b in spans]
        answers = {"text": texts, "answer_start": [a for a, _ in spans]}
        yield {"id": f"{number}-{place}", "question": question, "context": document["context"], "answers": answers}


def _foreign(documents: Sequence[dict[str, Any]], rows: Sequence[Row], wanted: int) -> Iterator[Row]:
    """Questions of other contexts, spread evenly over all of them."""
    nothing: dict[str, list[Any]] = {"text": [], "answer_start": []}
    step = len(rows) / wanted
    for number in range(wanted):
        source = rows[int(number * step)]
        first = number * 7 + 3
        subject = source["question"].split('"')[1] if '"' in source["question"] else source["question"].split()[2]
        around = ((first + k) % len(documents) for k in range(len(documents)))
        here = next((place for place in around if subject not in documents[place]["context"]), None)
        if here is not None:
            yield {
                "id": f"{here}-none-{number}",
                "question": source["question"],
                "context": documents[here]["context"],
                "answers": nothing,
            }
