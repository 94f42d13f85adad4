"""What the doctor says in the end: errors, warnings, numbers, and one line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.config import RunConfig
from tunesmith.doctor.finding import Finding, counted

NAMED = 3  # findings that one line names


@dataclass
class Report:
    """Findings, worst first, and the numbers behind them.

    Attributes:
        findings: all of them.
        statistics: numbers by role.
        shown: marked rows (`--show`).
    """

    findings: list[Finding] = field(default_factory=list)
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """What stops a run."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """What does not."""
        return [finding for finding in self.findings if finding.level == "warning"]

    @property
    def verdict(self) -> Literal["ok", "warnings", "errors"]:
        """The worst level that occurs."""
        return "errors" if self.errors else "warnings" if self.warnings else "ok"

    @property
    def line(self) -> str:
        """`2 errors, 1 warning (null in 3 rows, ...)`, or `nothing found in 90 train and 10 eval rows`."""
        if not self.findings:
            rows = " and ".join(f"{numbers['rows']:,} {role}" for role, numbers in self.statistics.items())
            return f"nothing found in {rows} rows"
        errors, warnings = _by_code(self.errors), _by_code(self.warnings)
        counts = ", ".join(
            counted(len(found), word) for found, word in ((errors, "error"), (warnings, "warning")) if found
        )
        named = [f"{code} in {counted(rows)}" if rows else code for code, rows in [*errors.items(), *warnings.items()]]
        more = f", {len(named) - NAMED} more" if len(named) > NAMED else ""
        return f"{counts} ({', '.join(named[:NAMED])}{more})"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        content: dict[str, Any] = {
            "verdict": self.verdict,
            "errors": [finding.as_json() for finding in self.errors],
            "warnings": [finding.as_json() for finding in self.warnings],
            "statistics": self.statistics,
        }
        return {**content, "shown": self.shown} if self.shown else content


def _by_code(findings: Sequence[Finding]) -> dict[str, int]:
    """Rows of each kind of finding, over all files."""
    rows: dict[str, int] = {}
    for finding in findings:
        rows[finding.code] = rows.get(finding.code, 0) + finding.count
    return dict(sorted(rows.items(), key=lambda item: -item[1]))


def command(config: RunConfig) -> str:
    """The command that says the same at length."""
    words = ["tunesmith", "doctor", "--task", config.task, "--model", config.model]
    for role in ("train", "validation", "eval"):
        if getattr(config, role):
            words += [f"--{role}", getattr(config, role)]
    if config.columns:
        words += ["--columns", ",".join(f"{ours}={theirs}" for ours, theirs in config.columns.items())]
    if config.max_length:
        words += ["--max-length", str(config.max_length)]
    return " ".join(shlex.quote(word) for word in words)
