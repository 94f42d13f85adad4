"""Checks of token classification: tags that fit their tokens and each other, and entities that windows break."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tunesmith.doctor.case import IGNORED, Case, Part, is_blank
from tunesmith.doctor.finding import Finding, counted, rows_that
from tunesmith.doctor.general.duplicates import conflict

RARE = 5
OUTSIDE = "O"
BIO = re.compile(r"[BI]-.+", re.S)
MARKED = re.compile(r"[BIESLU]-.+", re.S)  # BIOES and BILOU too


def cuts(options: Any) -> bool:
    """Long rows become windows."""
    return False


def words(value: Any) -> list[Any]:
    """A cell as a list; JSON text of one is read."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return []
    return list(value) if isinstance(value, (list, tuple)) else []


def texts(row: Mapping[str, Any]) -> list[str]:
    """The sentence; tags are no text."""
    return [" ".join(str(word) for word in words(row.get("tokens")))]


def tags(case: Case, part: Part) -> list[list[str]]:
    """The tags of each row by name; numbers through the option `labels`, if it is there."""
    names = case.option("labels") or []
    return [[_tag(tag, names) for tag in words(value)] for value in part.columns.get("ner_tags", [])]


def _tag(tag: Any, names: Any) -> str:
    return str(names[tag]) if isinstance(tag, int) and not isinstance(tag, bool) and 0 <= tag < len(names) else str(tag)


def is_bio(case: Case, rows: list[list[str]]) -> bool:
    """Whether tags mark entities, and are not a tag a word, as parts of speech are."""
    if case.option("scheme", "auto") != "auto":
        return bool(case.option("scheme") == "bio")
    seen = {tag for row in rows for tag in row} - {OUTSIDE}
    return any(tag[:2] in ("B-", "I-") for tag in seen) or (bool(seen) and all(MARKED.fullmatch(tag) for tag in seen))


def shape(case: Case) -> Iterator[Finding]:
    """As many tags as tokens, and tokens that hold something."""
    for part in case.parts.values():
        tokens = [words(value) for value in part.columns.get("tokens", [])]
        if "ner_tags" in part.columns:
            there = [i for i, value in enumerate(part.columns["ner_tags"]) if value is not None]
            given = tags(case, part)
            found = [i for i in there if len(given[i]) != len(tokens[i])]
            if found:
                first = found[0]
                yield part.finding(
                    "error", "tags-and-tokens", found,
                    f"{rows_that(len(found), 'have')} another number of tags than of tokens ({len(given[first])} and {len(tokens[first])} in row {part.numbers[first]})",
                    "give every token one tag",
                )  # fmt: skip
        found = [i for i, row in enumerate(tokens) if any(is_blank(token) for token in row)]
        if found:
            yield part.finding(
                "warning", "empty-token", found, f"{rows_that(len(found), 'have')} tokens that are empty or white space",
                "remove them together with their tags",
            )  # fmt: skip


def violations(row: list[str]) -> list[int]:
    """Positions of I-X that no B-X or I-X stands before."""
    return [
        i for i, tag in enumerate(row)
        if tag.startswith("I-") and (i == 0 or row[i - 1] not in (f"B-{tag[2:]}", f"I-{tag[2:]}"))
    ]  # fmt: skip


def scheme(case: Case) -> Iterator[Finding]:
    """BIO violations, and tags that are of no scheme."""
    for part in case.parts.values():
        rows = tags(case, part)
        if not is_bio(case, rows):
            continue
        found = {i: places[0] for i, row in enumerate(rows) if (places := violations(row))}
        if found:
            row, place = next(iter(found.items()))
            before = f"after `{rows[row][place - 1]}`" if place else "at the start"
            yield part.finding(
                "warning" if case.option("repair", False) else "error", "bio", found,
                f"in {counted(len(found))} an entity goes on that has not begun (`{rows[row][place]}` {before}, token {place + 1} of row {part.numbers[row]})",
                "begin every entity with B-, or set token-classification.repair=true",
            )  # fmt: skip
        repairs = case.option("repair", False)  # reads BIOES and BILOU too
        odd = {
            i: tag for i, row in enumerate(rows) for tag in row
            if tag != OUTSIDE and not (MARKED if repairs else BIO).fullmatch(tag)
        }  # fmt: skip
        if odd:
            yield part.finding(
                "error", "tag-form", odd, f"tags such as `{next(iter(odd.values()))}` are neither `O` nor `B-` or `I-` and a type",
                "write all tags in BIO, or set token-classification.repair=true where they are BIOES or BILOU",
            )  # fmt: skip


def _kinds(row: list[str]) -> set[str]:
    return {tag[2:] if MARKED.fullmatch(tag) else tag for tag in row} - {OUTSIDE}


def types(case: Case) -> Iterator[Finding]:
    """Types that only one part has, types with few entities, and training rows without any."""
    if case.sampled:
        return
    train = tags(case, case.train)
    bio = is_bio(case, train)
    counts = Counter(
        tag[2:] if bio else tag for row in train for tag in row if not bio or tag[:2] in ("B-", "S-", "U-")
    )
    case.note(case.train, types=dict(counts.most_common(50)))
    known = {kind for row in train for kind in _kinds(row)}
    listed = _kinds([str(name) for name in case.option("labels") or []])
    if not known and train:
        yield case.train.finding(
            "error",
            "no-entities",
            [],
            "every token of every row is tagged `O`",
            "map the right column with --columns ner_tags=NAME",
        )
        return
    for part in case.parts.values():
        if part.role == "train":
            continue
        found = {i: min(new) for i, row in enumerate(tags(case, part)) if (new := _kinds(row) - known - listed)}
        if found:
            names = ", ".join(f"`{name}`" for name in sorted(set(found.values()))[:5])
            yield part.finding(
                "error", "tag-unseen", found, f"the type {names} does not occur in the training rows",
                "add training rows of it, or list every tag under token-classification.labels",
            )  # fmt: skip
    rare = {kind for kind in known if counts[kind] < RARE}
    found_rows = [i for i, row in enumerate(train) if _kinds(row) & rare] if bio else []
    if found_rows:
        names = ", ".join(f"`{name}`" for name in sorted(rare)[:5])
        yield case.train.finding(
            "warning", "rare-type", found_rows, f"{counted(len(rare), 'type')} with fewer than {RARE} entities ({names})",
            "add rows, or merge them into another type",
        )  # fmt: skip


def windows(case: Case) -> Iterator[Finding]:
    """Entities whose words are decided in two windows: what the second says of its beginning is not heard."""
    names = getattr(case.task, "labels", None)
    if not names:
        return
    inside = [i for i, name in enumerate(names) if str(name).startswith("I-")]
    for part in case.parts.values():
        encoded = part.encoded
        if encoded is None or encoded.labels is None or encoded.label_offsets is None:
            continue
        cut = []
        for feature in np.flatnonzero(np.diff(encoded.owner, prepend=-1) == 0).tolist():  # second and later windows
            asked = encoded.labels[encoded.label_offsets[feature] : encoded.label_offsets[feature + 1]]
            asked = asked[asked != IGNORED]
            if len(asked) and asked[0] in inside:
                cut.append(int(encoded.owner[feature]))
        if cut:
            yield part.finding(
                "warning", "entity-cut", cut, f"in {counted(len(set(cut)))} the border of two windows goes through an entity",
                "raise --max-length, or split long rows into sentences",
            )  # fmt: skip


ROW_CHECKS = [shape, scheme, types, conflict]
ENCODED_CHECKS = [windows]
