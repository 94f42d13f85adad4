"""Rows that are measured on and were trained on: the score then says what was remembered, not what was learned.

Exact: the inputs are the same but for case, white space and Unicode form. Near: their texts share most of their pieces
(`similar`).
"""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.doctor.case import Case, Part, folded
from tunesmith.doctor.finding import Finding, counted
from tunesmith.doctor.similar import LONGEST, THRESHOLD, near

PAIRS = (("eval", "train"), ("validation", "train"), ("eval", "validation"))
QUICK = 4_000_000  # characters in which near rows are looked for while a run waits (about 0.4 s)
REMEDY = "remove these rows from one of the two, and split by what they have in common"


def leak(case: Case) -> Iterator[Finding]:
    """Rows of one role that another has too, exactly or nearly."""
    texts = {role: [tuple(map(folded, key)) for key in case.keys(part)] for role, part in case.parts.items()}
    for role, other in PAIRS:
        if role not in case.parts or other not in case.parts:
            continue
        part, against = case.parts[role], case.parts[other]
        seen: dict[tuple[str, ...], int] = {}
        for i, key in enumerate(texts[other]):
            seen.setdefault(key, i)
        same = {i: seen[key] for i, key in enumerate(texts[role]) if key in seen and any(key)}
        if same:
            yield _found(part, against, same, "leak", "say what")
        size = sum(min(len(text), LONGEST) for r in (role, other) for key in texts[r] for text in key)
        if case.quick and size > QUICK:
            case.note(part, **{f"near_leak_with_{other}": "not looked for; run tunesmith doctor"})
            continue
        rest = [i for i in range(len(part)) if i not in same]
        pairs = near([texts[role][i] for i in rest], texts[other])
        alike = {rest[i]: match for i, (match, _) in pairs.items()}
        if alike:
            yield _found(part, against, alike, "near-leak", f"share at least {THRESHOLD:.0%} of their text with what")


def _found(part: Part, against: Part, pairs: dict[int, int], code: str, verb: str) -> Finding:
    mine, theirs = min(pairs.items())
    one = len(pairs) == 1
    verb = verb.replace("share", "shares").replace("say", "says") if one else verb
    what = (
        f"{counted(len(pairs))} {verb} {'a row' if one else 'rows'} of the {against.role} part "
        f"{'says' if one else 'say'} (row {part.numbers[mine]} is like {against.source}, row {against.numbers[theirs]})"
    )
    return part.finding("warning", code, pairs, what, REMEDY)


ROW_CHECKS = [leak]
