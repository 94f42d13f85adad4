"""One examination: at length for `tunesmith doctor`, briefly at the start of a run.

At length, rows with errors are set aside before the task sees the others, so that one bad row does not hide the next: a
task stops at the first.
"""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith import config as configuration
from tunesmith import registry
from tunesmith.cache import store
from tunesmith.cache.ragged import RaggedRows
from tunesmith.config import RunConfig
from tunesmith.console import nested, say, warn
from tunesmith.data import sources, splits
from tunesmith.data.encode import BLOCK, encode
from tunesmith.data.sources import Rows
from tunesmith.doctor import checks
from tunesmith.doctor.case import Case, Encoded, Part
from tunesmith.doctor.finding import Finding, counted
from tunesmith.doctor.opening import learning_parameters, open_without_weights
from tunesmith.doctor.report import Report, command
from tunesmith.errors import ConfigError, DataError
from tunesmith.models.load import Loaded, pick_max_length, positions
from tunesmith.techniques._base import create

SAMPLE = 20_000  # rows of a role that are looked at while a run waits
REFUSALS = 20  # rows that a task refuses, one after the other, before the doctor stops asking
NUMBER = re.compile(r", row (\d+)")


def examine(config: RunConfig, show: int = 0) -> Report:
    """Everything the doctor can say of a configuration's rows, without weights and without training.

    Raises:
        TunesmithError: a file or the model cannot be opened at all.
    """
    task = registry.load("task", config.task)(configuration.options_of(config, "task", config.task))
    technique = create(config.technique, config.options.get(registry.resolve("technique", config.technique).name))
    case = replace(blank_case(config, task), parts=read_parts(config, task))
    findings = checks.run(case, "ROW_CHECKS")
    case = replace(case, parts=without_errors(case.parts, findings))
    findings += refusals(task, case, findings)
    case = replace(case, parts=without_errors(case.parts, findings))
    report = Report(findings, case.statistics)
    if not task_is_ready(task, case):
        return finish(report, case)
    loaded = open_without_weights(config, task, case.train.origin or as_rows(case.train))
    taken = technique.extra_positions(loaded.backbone)
    task.positions = positions(loaded, taken)
    max_length = pick_max_length(config.max_length, task.default_max_length, loaded, taken)
    case = replace(
        case,
        task=task,
        tokenizer=loaded.tokenizer,
        max_length=max_length,
        learning=learning_parameters(technique, loaded.backbone),
    )
    for role, part in list(case.parts.items()):
        case.parts[role], refused = encode_part(case, part)
        findings += refused
    if len(case.train):
        findings += checks.run(case, "ENCODED_CHECKS")
    if show:
        from tunesmith.doctor.marking import marked

        report.shown = marked(case, show)
    return finish(report, case)


def glance(
    config: RunConfig, task: Any, roles: Any, encoded: dict[str, RaggedRows] | None, loaded: Loaded | None,
    max_length: int | None, technique: Any,
) -> Report:  # fmt: skip
    """What can be said in a moment of rows that a run has read and encoded already."""
    case = blank_case(config, task)
    case.quick = True
    for role, rows in roles.present():
        chosen = sample(len(rows))
        case.sampled |= chosen is not None
        case.parts[role] = part = part_of(role, rows, chosen)
        if encoded is not None:
            part.encoded = Encoded.ragged(encoded[role], chosen, len(part))
    findings = checks.run(case, "ROW_CHECKS", strict=False)
    if loaded is not None:
        case.task, case.tokenizer, case.max_length = task, loaded.tokenizer, max_length
        case.learning = learning_parameters(technique, loaded.backbone)
        findings += checks.run(case, "ENCODED_CHECKS", strict=False)
    return finish(Report(findings, case.statistics), case)


def at_start(
    config: RunConfig, task: Any, roles: Any, encoded: dict[str, RaggedRows] | None = None, loaded: Loaded | None = None,
    max_length: int | None = None, technique: Any = None,
) -> None:  # fmt: skip
    """One line at the start of a run; errors stop it, a fault of the doctor's own does not.

    Raises:
        DataError: with every error that was found.
    """
    if not config.doctor:
        return
    try:
        report = glance(config, task, roles, encoded, loaded, max_length, technique)
    except Exception:
        if os.environ.get(checks.STRICT):
            raise
        say(f"doctor: failed:\n{traceback.format_exc()}", level=1)
        return
    if report.errors:
        raise DataError(
            f"the doctor found {counted(len(report.errors), 'error')} in the rows:\n"
            + "\n".join(f"  - {finding.sentence}" for finding in report.errors)
        )
    if not report.findings:
        say(f"doctor: {report.line}.")
    elif not nested():  # a comparison has said it once
        warn(f"doctor: {report.line}; see {command(config)}")


# ---- rows


def blank_case(config: RunConfig, task: Any) -> Case:
    """What is known before any row is read."""
    return Case(
        name=task.name, parts={}, required=task.required, inputs=task.inputs, targets=task.targets, options=task.options,
        technique=config.technique, reader=checks.reader_of(task.name), cuts=checks.cuts(task.name, task.options),
    )  # fmt: skip


def read_parts(config: RunConfig, task: Any) -> dict[str, Part]:
    """The rows in the roles that a run would give them; nulls are let in, since the doctor names them all."""
    if not config.train:
        raise ConfigError([("train", "is required: a file, a hub id (name:split) or asset:NAME.")])

    def read(spec: str | None) -> Rows | None:
        return sources.read(spec, config.columns, task.required, task.optional, task.synonyms, task.plain_text, nulls=True) if spec else None  # fmt: skip

    train, validation, evaluation = read(config.train), read(config.validation), read(config.eval)
    assert train is not None
    found: dict[str, Rows | None] = {"train": train, "validation": validation, "eval": evaluation}
    if evaluation is None:
        with contextlib.suppress(DataError):  # too few rows to hold some out: a run says so, and asks for --eval
            chooses = config.training.chooses or _chooses(task, train)
            found = dict(splits.assign(train, validation, None, task.groups or task.inputs, chooses).present())
    limits = {"train": config.max_train_rows, "eval": config.max_eval_rows}
    return {
        role: part_of(role, sources.subset(rows, limits.get(role), role), None)
        for role, rows in found.items() if rows is not None
    }  # fmt: skip


def _chooses(task: Any, train: Rows) -> bool:
    """Whether the task wants validation rows; rows that it cannot read are said to be so later."""
    try:
        return bool(task.chooses(train))
    except DataError:
        return False


def part_of(role: str, rows: Rows, chosen: Sequence[int] | None) -> Part:
    """Rows in memory; `chosen` are those that are looked at (all: None)."""
    table = rows.table if chosen is None else rows.table.select(chosen)
    numbers = [rows.number(i) for i in (range(len(rows)) if chosen is None else chosen)]
    columns = {name: list(values) for name, values in table[:].items()}
    return Part(role, rows.source, columns, numbers, origin=rows if chosen is None else None)


def sample(count: int) -> list[int] | None:
    """Rows evenly spread over a file that is too long for a glance; None for all."""
    return None if count <= SAMPLE else np.linspace(0, count - 1, SAMPLE).astype(int).tolist()


def without_errors(parts: dict[str, Part], findings: Sequence[Finding]) -> dict[str, Part]:
    """The parts less the rows that an error names."""
    bad: dict[str, set[int]] = {role: set() for role in parts}
    for finding in findings:
        if finding.level == "error":
            bad[finding.role] |= set(finding.rows)
    return {
        role: part.without(i for i, number in enumerate(part.numbers) if number in bad[role]) if bad[role] else part
        for role, part in parts.items()
    }


# ---- what the task says of them


def as_rows(part: Part) -> Rows:
    """A part as the task takes rows."""
    from datasets import Dataset

    key = store.key_of(source=part.source, rows=[list(part.numbers), part.columns])
    return Rows(Dataset.from_dict(part.columns), part.source, key, list(part.numbers))


def refusals(task: Any, case: Case, known: Sequence[Finding]) -> list[Finding]:
    """Rows that the task itself refuses, found by asking again without those it has named."""
    found: list[Finding] = []
    for role, part in list(case.parts.items()):
        ask = task.fit if role == "train" else None
        if any(f.level == "error" and not f.rows and f.role in (role, "train") for f in [*known, *found]):
            return found  # what is wrong as a whole is said already
        said: dict[int, str] = {}
        whole: str | None = None  # what is wrong with no single row
        for _ in range(REFUSALS):
            if not len(part):
                break
            try:
                rows = as_rows(part)
                ask(rows) if ask else task.check(rows, role)
                break
            except DataError as error:
                match = NUMBER.search(str(error))
                if match is None or int(match.group(1)) not in part.numbers:
                    whole = str(error).rstrip(".")
                    break
                said[int(match.group(1))] = str(error)
                part = part.without([list(part.numbers).index(int(match.group(1)))])
        if said:
            text = next(iter(said.values())).partition(": ")[2].rstrip(".")
            what, _, remedy = text.rpartition("; ")
            found.append(
                Finding("error", "refused", role, part.source, tuple(sorted(said)), what or text, remedy or "mend it")
            )
        if whole is not None:
            what, _, remedy = whole.removeprefix(f"`{part.source}`").removeprefix(":").strip().rpartition("; ")
            found.append(
                Finding("error", "refused", role, part.source, (), what or remedy, remedy if what else "mend it")
            )
            return found
    return found


def task_is_ready(task: Any, case: Case) -> bool:
    """Whether the task could be fitted to what is left."""
    if not len(case.train):
        return False
    try:
        task.fit(as_rows(case.train))
    except DataError:
        return False
    return True


def encode_part(case: Case, part: Part) -> tuple[Part, list[Finding]]:
    """The part with its features, less the rows that cannot be encoded, which are findings."""
    if part.origin is not None:
        with contextlib.suppress(DataError):  # as a run encodes them, and kept for it
            encoded_rows = encode(
                case.task, part.origin, case.tokenizer, int(case.max_length or 0), f"tokenise {part.role}"
            )
            if len(encoded_rows):
                part.encoded = Encoded.ragged(encoded_rows, None, len(part))
                return part, []
    features: list[Sequence[dict[str, Any]]] = []
    failed: dict[int, str] = {}
    place = 0
    while place < len(part):
        block = [part.row(i) for i in range(place, min(place + BLOCK, len(part)))]
        encoded = case.task.encode(block, case.tokenizer, case.max_length)
        try:
            for several in encoded:
                features.append(several)
                place += 1
        except DataError as error:
            failed[place] = str(error)
            features.append([])
            place += 1
    kept = part.without(failed) if failed else part
    kept.encoded = Encoded.of([several for i, several in enumerate(features) if i not in failed])
    if not failed:
        return kept, []
    what, _, remedy = next(iter(failed.values())).rstrip(".").rpartition("; ")
    return kept, [part.finding("error", "cannot-encode", failed, what, remedy)]


def finish(report: Report, case: Case) -> Report:
    """Findings in order, and how many rows were looked at."""
    for role, part in case.parts.items():
        report.statistics[role] = {"rows": len(part), **report.statistics.get(role, {})}
    order = {role: i for i, role in enumerate(case.parts)}
    report.findings.sort(key=lambda f: (f.level != "error", order.get(f.role, 9), -f.count))
    return report
