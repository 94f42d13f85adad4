"""Rows with every token marked: trained, context, or cut away.

    [trained]   what the loss is about        context   what is read        {cut}   what the model never sees

Tokens are kept apart by a middle dot. Marks come from the encoded rows, so that what is shown is what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tunesmith.doctor.case import IGNORED, Array, Case, Part
from tunesmith.doctor.general.lengths import uncut

Mark = Literal["trained", "context", "cut"]
LEGEND = "[trained]  context  {cut}; a dot stands between tokens"


def marked(case: Case, count: int) -> list[dict[str, Any]]:
    """The first training rows as lines of segments: {"row", "label", "lines": [{"name", "segments": [{"mark", "tokens"}]}]}."""
    part = case.train
    return [_row(case, part, index) for index in range(min(count, len(part)))]


def _row(case: Case, part: Part, index: int) -> dict[str, Any]:
    encoded = part.encoded
    assert encoded is not None
    features = np.flatnonzero(encoded.owner == index).tolist()
    lines: list[dict[str, Any]] = []
    whole = uncut(case, part, index)
    for number, feature in enumerate(features, 1):
        ids = encoded.ids[encoded.offsets[feature] : encoded.offsets[feature + 1]]
        labels = None
        if encoded.labels is not None and encoded.label_offsets is not None:
            labels = encoded.labels[encoded.label_offsets[feature] : encoded.label_offsets[feature + 1]]
        window = f"window {number}" if len(features) > 1 else "input"
        aligned = labels is not None and _is_aligned(case, ids, labels)
        marks: list[Mark] = [
            "trained" if aligned and labels is not None and labels[i] != IGNORED else "context" for i in range(len(ids))
        ]
        if labels is not None and _is_span(case, labels) and int(labels[0]) != case.task.null(len(ids)):
            marks[int(labels[0]) : int(labels[1]) + 1] = ["trained"] * (int(labels[1]) - int(labels[0]) + 1)
        tags = _tags(case, labels) if aligned and labels is not None else None
        if len(features) == 1 and whole is not None and len(whole.lengths) == 1:
            ids, marks, tags = _with_cut(ids, whole.ids, marks, tags)
        lines.append({"name": window, "segments": segments(case.tokenizer, ids, marks, tags)})
        if labels is not None and not aligned and not _is_span(case, labels):
            target = labels[labels != IGNORED]
            lines.append({"name": "target", "segments": segments(case.tokenizer, target, ["trained"] * len(target))})
    shown: dict[str, Any] = {"row": int(part.numbers[index]), "lines": lines}
    if encoded.labels is None:
        shown["label"] = next((part.columns[name][index] for name in case.targets if name in part.columns), None)
    return shown


def _is_aligned(case: Case, ids: Array, labels: Array) -> bool:
    """Whether labels belong to the tokens of the input: tags, or the same tokens; an encoder-decoder's are another text."""
    if len(labels) != len(ids) or _is_span(case, labels):
        return False
    asked = labels != IGNORED
    return bool(getattr(case.task, "labels", None)) or np.array_equal(labels[asked], ids[asked])


def _is_span(case: Case, labels: Array) -> bool:
    """Whether labels are the first and last token of an answer."""
    return case.name == "question-answering" and len(labels) == 2


def _tags(case: Case, labels: Array) -> list[str] | None:
    """Names of the labels of tokens, where labels are tags and not tokens."""
    names = getattr(case.task, "labels", None)
    return [str(names[label]) if label != IGNORED else "" for label in labels.tolist()] if names else None


def _with_cut(
    ids: Array, whole: Array, marks: list[Mark], tags: list[str] | None
) -> tuple[Array, list[Mark], list[str] | None]:
    """The row as it was, with what was cut put back where it was: after the longest common start, before the common end."""
    lost = len(whole) - len(ids)
    if lost <= 0:
        return ids, marks, tags
    differs = np.flatnonzero(ids != whole[: len(ids)])
    start = int(differs[0]) if len(differs) else len(ids)
    if not np.array_equal(ids[start:], whole[start + lost :]):
        return ids, marks, tags  # shortened in several places
    full = np.concatenate([ids[:start], whole[start : start + lost], ids[start:]])
    cut: list[Mark] = ["cut"] * lost
    return (
        full,
        [*marks[:start], *cut, *marks[start:]],
        None if tags is None else [*tags[:start], *[""] * lost, *tags[start:]],
    )


def segments(
    tokenizer: Any, ids: Any, marks: Sequence[Mark], tags: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Neighbouring tokens of one mark together, each token as text."""
    found: list[dict[str, Any]] = []
    for text, place in spelled(tokenizer, [int(i) for i in ids], marks):
        if tags and tags[place]:
            text = f"{text}/{tags[place]}"
        if not found or found[-1]["mark"] != marks[place]:
            found.append({"mark": marks[place], "tokens": []})
        found[-1]["tokens"].append(text)
    return found


def spelled(tokenizer: Any, ids: Sequence[int], marks: Sequence[Mark]) -> list[tuple[str, int]]:
    """Each token as readable text with its place; bytes of one character, which are no text alone, are put together."""
    found = []
    start = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
        last = end == len(ids) or marks[end] != marks[start] or end - start >= 4
        if "\ufffd" in text and not last:
            continue
        found.append((text.replace("\n", "↵"), start))
        start = end
    return found


def plain(line: dict[str, Any]) -> str:
    """A line as text, readable without colours."""
    frame = {"trained": "[{}]", "context": "{}", "cut": "{{{}}}"}
    return "·".join(frame[segment["mark"]].format("·".join(segment["tokens"])) for segment in line["segments"])
