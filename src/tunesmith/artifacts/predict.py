"""Predictions (or vectors) for a file of rows: a stream in, a stream out, in order, and resumable.

    rows -> windows of 32 batches -> put in order of length, batched, answered -> back in the order of the file -> .OUT.partial -> OUT

Windows begin at fixed places of the data, so that a run that was killed and repeated forms the same batches as one that was not, and
its file has the same bytes. Nothing but a window is held in memory.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.artifacts.use import AUTO, Artifact
from tunesmith.cache.partial import Partial
from tunesmith.cache.store import key_of
from tunesmith.console import progress, say, warn
from tunesmith.data import sources
from tunesmith.data.row_stream import MESSAGES, Digest, RowStream, Survey, line_of
from tunesmith.errors import DataError, Interrupted
from tunesmith.tasks._generation import GenerationTask

WINDOW = 32  # batches that are put in order of length together; at most so many are done again after a kill
WRITING = 4  # the same where the model writes text, which takes seconds a batch


@dataclass(frozen=True)
class Written:
    """What was done.

    Attributes:
        rows: in the file.
        resumed: how many of them an earlier run had answered.
        seconds: that the others took.
    """

    rows: int
    resumed: int
    seconds: float


def predict_file(
    artifact: Artifact,
    data: str,
    output: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    embeddings: bool = False,
    overwrite: bool = False,
) -> Written:
    """Write every row of a data set with its prediction (or `embedding`) added, as JSONL.

    Args:
        artifact: with the head that is to be asked.
        data: file, hub id (`name:split`) or `asset:NAME`.
        output: the file to write; it appears when all rows are answered.
        columns: task column -> the user's column.
        embeddings: add vectors in place of predictions.
        overwrite: begin anew where an unfinished file of another run is in the way.

    Raises:
        DataError: a row cannot be used; whatever can be seen without the model is seen before the first one is answered.
        Interrupted: by the user; the same call goes on.
    """
    output, stream = Path(output), RowStream(data, artifact.task.plain_text)
    survey = stream.survey()
    names = columns_of(artifact, survey, data, columns or {})
    size = artifact.batch_size * (WRITING if _writes(artifact) and not embeddings else WINDOW)
    made_with = {
        "artifact": key_of(**{name: value for name, value in artifact.opened.info.items() if name != "folder"}),
        "head": AUTO if artifact.unsure else artifact.head,
        "output": "embeddings" if embeddings else "predictions",
        "columns": {name: column for column, name in names.items()},
        "batch_size": artifact.batch_size,
        "rows a window": size,
        "dtype": str(next(artifact.opened.heads.parameters()).dtype).removeprefix("torch."),
        "device": artifact.device.type,
        "versions": _versions(),
    }
    with Partial(output, made_with, overwrite=overwrite) as partial:
        rows, digest = _behind(partial, stream)
        resumed, started = partial.rows, time.perf_counter()
        if resumed:
            say(f"going on behind row {resumed:,} of {survey.count:,}: {partial.lines}")
        with _kept(partial), _bar("embed" if embeddings else "predict", survey.count, resumed) as show:
            while window := list(itertools.islice(rows, size)):
                begun = partial.rows

                def watch(done: int, begun: int = begun, most: int = len(window)) -> None:
                    show(done, begun, most)

                answered = list(_answered(artifact, window, names, data, begun, embeddings, watch))
                if not begun:
                    _say_what_is_replaced(window, answered, names)
                for row in window:
                    digest.add(row)
                partial.step(b"".join(map(line_of, answered)), len(window), digest.value)
        partial.finish()
    return Written(survey.count, resumed, time.perf_counter() - started)


def columns_of(artifact: Artifact, survey: Survey, data: str, columns: Mapping[str, str]) -> dict[str, str]:
    """The task's column that each of the user's columns is read as.

    Raises:
        DataError: one that is needed is missing, or null in a row, or no text.
    """
    task, there = artifact.task, list(survey.columns)
    needed = [name for name in task.required if name not in task.targets]
    optional = [name for name in (*task.optional, *task.stand_ins.values()) if name not in task.targets]
    given = {n: c for n, c in columns.items() if n not in task.targets}  # targets need not be there
    full = sources.with_synonyms(there, given, needed, task.synonyms)
    for name, other in task.stand_ins.items():
        if full.get(name, name) not in there and full.get(other, other) in there:
            needed.remove(name)
    full = sources.with_synonyms(there, given, (*needed, *optional), task.synonyms)
    chosen = sources.chosen_columns(there, data, full, needed, [n for n in optional if n in full])
    for name in needed:
        row = survey.columns[chosen[name]].null
        if row is not None:
            raise DataError(f"`{data}`, row {row}: `{name}` is null; fill it in or remove the row.")
    found = {full.get(name, name): name for name in (*needed, *optional) if full.get(name, name) in there}
    for column, name in found.items():
        nested = survey.columns[column].nested
        if nested is not None and nested[1] == MESSAGES and name not in task.structured:
            raise DataError(
                f"{data}, row {nested[0]}: `{name}` holds chat messages, and {task.name} reads text; put them under `messages` and use an "
                "artifact that was trained with --task chat."
            )
        if nested is not None and name not in task.structured:
            raise DataError(f"{data}, row {nested[0]}: `{name}` is {nested[1]}; it must be text.")
    return found


def _answered(
    artifact: Artifact,
    rows: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    data: str,
    first: int,
    embeddings: bool,
    watch: Any,
) -> Iterator[dict[str, Any]]:
    """Rows as the file has them, each with what was asked for."""
    asked = [{name: row[column] for column, name in names.items() if column in row} for row in rows]
    if embeddings:
        vectors = artifact.embed(asked, source=data, first=first, watch=watch)
        heads = artifact.tasks_of(asked) if artifact.unsure else [None] * len(asked)
        for row, vector, head in zip(rows, vectors, heads, strict=True):
            yield {**row, "embedding": shortest(vector), **({} if head is None else {"head": head})}
        return
    for row, given, answer in zip(
        rows, asked, artifact.predict(asked, source=data, first=first, watch=watch), strict=True
    ):
        yield {**row, **{name: value for name, value in answer.items() if name not in given}}


def _say_what_is_replaced(
    rows: Sequence[Mapping[str, Any]], answered: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> None:
    """A column of the data that is called like what is added would vanish silently."""
    both = [
        name for name in answered[0] if name in rows[0] and name not in names and answered[0][name] != rows[0][name]
    ]
    if both:
        warn(f"the data have a column `{both[0]}` too; in the output it holds what was predicted.")


def shortest(vector: np.ndarray[Any, Any]) -> list[float]:
    """Numbers whose shortest decimal form gives the fp32 number back."""
    return [float(text) for text in vector.astype(np.float32).astype(str)]


def _writes(artifact: Artifact) -> bool:
    readings = artifact.opened.readings.values() if artifact.unsure else [artifact.opened.readings[artifact.head]]
    return any(isinstance(reading.task, GenerationTask) for reading in readings)


def _behind(partial: Partial, stream: RowStream) -> tuple[Iterator[dict[str, Any]], Digest]:
    """The rows that are not answered yet, and the hash of those that are."""
    rows, digest = iter(stream), Digest()
    if partial.rows:
        for row in itertools.islice(rows, partial.rows):
            digest.add(row)
        partial.refuse_other_rows(digest.value, stream.spec)
        if not partial.rows:  # they were others, and are written anew
            return iter(stream), Digest()
    return rows, digest


@contextmanager
def _kept(partial: Partial) -> Iterator[None]:
    """What stops the work inside says that what is done is kept."""
    try:
        yield
    except DataError as error:
        if not partial.rows:
            raise
        raise DataError(
            f"{error} The {partial.rows:,} rows before are answered and kept: the same command goes on behind them."
        ) from error
    except KeyboardInterrupt as error:
        if not partial.rows:
            raise
        raise Interrupted(f"{partial.rows:,} rows are answered; the same command goes on behind them.") from error


@contextmanager
def _bar(title: str, total: int, resumed: int) -> Iterator[Any]:
    """Progress in rows, with rows a second."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[info]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    started = time.perf_counter()
    inside = [resumed, 0]  # the window's first row, features done in it

    with progress(*columns) as bar:
        task = bar.add_task(title, total=total, info="")

        def show(done: int, begun: int, most: int) -> None:
            if inside[0] != begun:
                inside[:] = [begun, 0]
            inside[1] += done
            rows = begun + min(inside[1], most)  # a row in several windows has more features than one
            speed = (rows - resumed) / max(time.perf_counter() - started, 1e-9)
            bar.update(task, completed=rows, info=f"{speed:,.0f} rows/s")

        yield show


def _versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))
