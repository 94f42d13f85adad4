"""Checks of summarization: summaries that are short, own, and no longer than the model may write."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.doctor.case import Case, Part, folded, is_blank
from tunesmith.doctor.finding import Finding, counted, rows_that, share

COPIED = 0.8  # share of the document that a verbatim summary may be of it
SHORT = 8  # words of a document below which its summary cannot be much shorter


def _pairs(part: Part) -> Iterator[tuple[int, str, str]]:
    for i, (document, summary) in enumerate(
        zip(part.columns.get("document", []), part.columns.get("summary", []), strict=False)
    ):
        if isinstance(document, str) and isinstance(summary, str) and document.strip() and summary.strip():
            yield i, document, summary


def unusable(case: Case) -> Iterator[Finding]:
    """Summaries that are empty."""
    for part in case.parts.values():
        found = [i for i, value in enumerate(part.columns.get("summary", [])) if is_blank(value)]
        if found:
            yield part.finding(
                "error",
                "empty-summary",
                found,
                f"the summary is empty in {counted(len(found))}",
                "fill it in or remove the rows",
            )


def copied(case: Case) -> Iterator[Finding]:
    """Summaries that are the document, or longer than it."""
    for part in case.parts.values():
        same, longer = [], []
        for i, document, summary in _pairs(part):
            short, long = folded(summary), folded(document)
            if short == long or (len(short) >= COPIED * len(long) and short in long):
                same.append(i)
            elif len(summary.split()) > max(len(document.split()), SHORT) or (
                len(short) > len(long) and len(long) > 60
            ):
                longer.append(i)
        if same:
            yield part.finding(
                "warning", "summary-copied", same, f"{rows_that(len(same), 'have')} the document itself as summary",
                "remove them; copying is what would be learned",
            )  # fmt: skip
        if longer:
            yield part.finding(
                "warning", "summary-longer", longer, f"{rows_that(len(longer), 'have')} a summary longer than the document",
                "check that the columns are not swapped (--columns document=...,summary=...)",
            )  # fmt: skip


def long_summaries(case: Case) -> Iterator[Finding]:
    """Summaries that training cuts, and those that the decoder may not write to their end."""
    if case.task is None or case.tokenizer is None or case.max_length is None:
        return
    limit = int(case.option("max_summary", 128))
    if case.task.kind != "encoder-decoder":
        limit = min(limit, max(8, case.max_length // 4))
    most = int(case.option("max_new_tokens", 128))
    for part in case.parts.values():
        rows = list(_pairs(part))
        ids = case.tokenizer([s for _, _, s in rows], add_special_tokens=False)["input_ids"] if rows else []
        sizes = {row[0]: len(tokens) + 1 for row, tokens in zip(rows, ids, strict=True)}
        cut = [i for i, size in sizes.items() if size > limit]
        beyond = [i for i, size in sizes.items() if limit >= size > most]
        if cut:
            yield part.finding(
                "warning", "target-cut", cut,
                f"the summary of {share(len(cut), len(part))} rows is cut to {limit} tokens (the longest has {max(sizes.values()):,})",
                f"raise --max-length{'' if limit < case.option('max_summary', 128) else ' and summarization.max_summary'}, or shorten them",
            )  # fmt: skip
        if beyond:
            yield part.finding(
                "warning", "target-too-long", beyond,
                f"the summary of {share(len(beyond), len(part))} rows is longer than the {most} tokens that the model may write",
                "raise summarization.max_new_tokens",
            )  # fmt: skip


ROW_CHECKS = [unusable, copied]
ENCODED_CHECKS = [long_summaries]
