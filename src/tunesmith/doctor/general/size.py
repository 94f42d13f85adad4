"""Fewer rows than what learns can be fitted to."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.doctor.case import Case
from tunesmith.doctor.finding import Finding, counted

FEWEST = 32
# Fine-tuning all of BERT-base (110 M) or BERT-large (340 M) on 1,000 rows or fewer is where runs with other seeds part ways
# (Zhang et al. 2021, "Revisiting Few-sample BERT Fine-tuning"): 10^5 parameters a row. A rough bound, not a law.
PARAMETERS_A_ROW = 100_000


def few_rows(case: Case) -> Iterator[Finding]:
    """Fewer than 32 rows, or more than 100,000 learning parameters for each."""
    part, rows = case.train, len(case.train)
    if case.sampled:
        return
    if case.learning:
        case.note(part, parameters_that_learn=case.learning)
    if rows < FEWEST:
        yield part.finding(
            "warning", "few-rows", [], f"there are only {counted(rows)} to learn from",
            "collect more, or compare with --technique feature-based and several seeds",
        )  # fmt: skip
    elif case.learning and case.learning > PARAMETERS_A_ROW * rows:
        yield part.finding(
            "warning", "few-rows", [], f"{case.learning:,} parameters learn from {counted(rows)}",
            "collect more, or let less learn (--technique lora, bitfit or feature-based); compare several seeds in any case",
        )  # fmt: skip


ENCODED_CHECKS = [few_rows]
