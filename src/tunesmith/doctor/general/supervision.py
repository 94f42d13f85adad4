"""What is asked of the model in each row: nothing, too little, or a wrong start.

Looked at in the encoded rows, so that what is judged is what will be trained.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tunesmith.doctor.case import IGNORED, Case
from tunesmith.doctor.finding import Finding, counted, rows_that, share


def trained(case: Case) -> Iterator[Finding]:
    """Rows in which no token is learned."""
    for part in case.parts.values():
        encoded = part.encoded
        if encoded is None or encoded.labels is None:
            continue
        counts = encoded.count_labels(encoded.labels != IGNORED)
        case.note(part, trained_tokens=int(counts.sum()))
        nothing = np.flatnonzero(counts == 0)
        if not len(nothing):
            continue
        every = len(nothing) == len(part)
        yield part.finding(
            "error" if every else "warning", "nothing-trained", nothing,
            f"{'in no row' if every else 'in ' + counted(len(nothing)) + ' not'} a single token is learned",
            "look at them with --show, and check which column or role holds what the model should write",
        )  # fmt: skip


def stop(case: Case) -> Iterator[Finding]:
    """Rows whose text has no learned end: the model would not learn to stop."""
    stops = list(getattr(case.task, "stops", None) or [])
    if not stops or case.tokenizer is None:
        return
    for part in case.parts.values():
        encoded = part.encoded
        if encoded is None or encoded.labels is None:
            continue
        asked = encoded.count_labels(encoded.labels != IGNORED) > 0
        learned = encoded.count_labels(np.isin(encoded.labels, stops)) > 0
        without = asked & ~learned
        # The end stands there and is not learned: hidden as padding, which has the same id in many tokenizers.
        hidden = without & (encoded.count(np.isin(encoded.ids, stops)) > 0)
        name = case.tokenizer.convert_ids_to_tokens(stops[0])
        if case.tokenizer.pad_token_id in stops and hidden.any():
            yield part.finding(
                "warning", "pad-hides-stop", np.flatnonzero(hidden),
                f"in {share(int(hidden.sum()), len(part))} rows the end token `{name}` is not learned, because it is the padding token too",
                "mask labels by position, not by token id, or give the tokenizer a padding token of its own",
            )  # fmt: skip
            without &= ~hidden
        if without.any():
            yield part.finding(
                "warning", "stop-not-trained", np.flatnonzero(without),
                f"in {share(int(without.sum()), len(part))} rows the end token `{name}` is never learned, so the model would not learn to stop",
                "end each answer with it, or mend the chat template",
            )  # fmt: skip


def double_start(case: Case) -> Iterator[Finding]:
    """Sequences that begin with the start token twice, which a model has never seen."""
    start = getattr(case.tokenizer, "bos_token_id", None)
    if start is None:
        return
    for part in case.parts.values():
        encoded = part.encoded
        if encoded is None or len(encoded.ids) < 2:
            continue
        first = encoded.offsets[:-1]
        long = encoded.lengths >= 2
        second = np.minimum(first + 1, len(encoded.ids) - 1)
        twice = long & (encoded.ids[np.minimum(first, len(encoded.ids) - 1)] == start) & (encoded.ids[second] == start)
        if twice.any():
            yield part.finding(
                "warning", "double-bos", np.unique(encoded.owner[twice]),
                f"sequences begin with `{case.tokenizer.bos_token}` twice",
                "take it out of the text, or out of the chat template",
            )  # fmt: skip


def marks(case: Case) -> Iterator[Finding]:
    """Text in which the model's own marks stand (`<|im_end|>`): tasks that write read them as the marks they look like."""
    if case.tokenizer is None or not hasattr(case.task, "stops"):
        return
    special = {token for token in case.tokenizer.all_special_tokens if len(token) > 2}
    for part in case.parts.values():
        found = {
            i: mark for i, text in enumerate(case.texts(part)) if "<" in text or "[" in text
            for mark in special if mark in text
        }  # fmt: skip
        if found:
            yield part.finding(
                "warning", "marks-in-text", found, f"{rows_that(len(found), 'hold')} marks of the model's own, such as `{min(found.values())}`",
                "give plain text; the template is applied here",
            )  # fmt: skip


ENCODED_CHECKS = [trained, stop, double_start, marks]
