"""Read rows from a file, an asset, a hub id or Python objects into one memory-mapped table.

Errors name the file and the row. Rows are numbered from 1 as a person counts them: the line of a JSONL file,
the record after the header of a CSV file.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import durable, hub
from tunesmith.cache import store
from tunesmith.data.columns import to_arrow
from tunesmith.data.formats import VERSION, endings, kind_of, records
from tunesmith.errors import DataError, SaveError, nearest
from tunesmith.seeding import derive

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Rows:
    """A table in the task's column names, with what is needed to name a row in an error and to repeat the run.

    Attributes:
        table: the rows (memory-mapped).
        source: what the user called it.
        sha256: hash of the file's bytes and the column mapping.
        numbers: the row numbers in the source (after a split they are not consecutive), or None for 1, 2, ...
    """

    table: Dataset
    source: str
    sha256: str
    numbers: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.table)

    def number(self, index: int) -> int:
        """The row number in the source."""
        return int(self.numbers[index]) if self.numbers is not None else index + 1

    def where(self, index: int) -> str:
        """`file.csv, row 7`."""
        return f"{self.source}, row {self.number(index)}"

    def select(self, indices: Sequence[int], label: str) -> Rows:
        """Some of the rows; their hash changes with the selection."""
        chosen = [int(i) for i in indices]
        return Rows(
            self.table.select(chosen),
            self.source,
            store.key_of(parent=self.sha256, label=label, rows=chosen),
            [self.number(i) for i in chosen],
        )


def read(
    spec: str,
    columns: Mapping[str, str],
    required: Sequence[str],
    optional: Sequence[str] = (),
    synonyms: Mapping[str, Sequence[str]] | None = None,
    plain: str | None = None,
    *,
    nulls: bool = False,
) -> Rows:
    """Read a data set and rename its columns to the task's.

    Args:
        spec: a file, `asset:NAME`, or a hub id as `name` or `name:split`.
        columns: task column -> the user's column.
        required: task columns that must be there and hold no null.
        optional: task columns that are taken when present.
        synonyms: task column -> other common names, taken when the column is not there.
        plain: how a plain text file is read ("lines", "conll"), if it can be.
        nulls: let null values in, for who names them all (the doctor).

    Raises:
        DataError: with the file and the row.
    """
    table, sha = open_table(spec, plain)
    if len(table) == 0:
        raise DataError(f"`{spec}` holds no rows; give a file with at least one row of data.")
    mapping = with_synonyms(table.column_names, columns, (*required, *optional), synonyms or {})
    table = rename(table, spec, mapping, required, optional)
    rows = Rows(table, spec, store.key_of(file=sha, columns=mapping, kept=table.column_names))
    if not nulls:
        _refuse_nulls(rows, required)
    return rows


def with_synonyms(
    there: Sequence[str], columns: Mapping[str, str], names: Sequence[str], synonyms: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The column mapping, completed with other common names of columns that are not there."""
    found = {name: spelled(column, there) for name, column in columns.items()}
    for name in names:
        if name not in found and name not in there:
            other = next((o for o in synonyms.get(name, ()) if o in there and o not in found.values()), None)
            if other:
                found[name] = other
    return found


def spelled(column: str, there: Sequence[str]) -> str:
    """A column's name as the data spell it: accents may be composed here and decomposed there, which nobody can see."""
    if column in there:
        return column
    plain = unicodedata.normalize("NFC", column).strip()
    return next((name for name in there if unicodedata.normalize("NFC", name).strip() == plain), column)


def resolve(spec: str) -> Path | None:
    """The local file behind a data name, fetched if it is an asset; None for a hub id.

    Raises:
        DataError: it looks like a file and there is none.
    """
    if spec.startswith("asset:"):
        from tunesmith import assets

        return assets.fetch(spec.removeprefix("asset:"))
    path = Path(spec).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"`{spec}` is a folder; give one data file ({endings()}).")
    name = spec.partition(":")[0]
    if kind_of(path, "lines") or path.is_absolute() or name.count("/") > 1 or spec.startswith(("./", "../")):
        raise DataError(f"there is no file `{spec}`{_similar(path)}; check the path (working folder: {Path.cwd()}).")
    return None


def _similar(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    close = nearest(path.name, [p.name for p in folder.iterdir() if p.is_file()]) if folder.is_dir() else None
    return f" (did you mean `{folder / close}`?)" if close else ""


def data_file(spec: str, plain: str | None = None) -> tuple[Path, str] | None:
    """The local file behind a data name and its format; None for a hub id.

    Raises:
        DataError: there is no such file, it is empty, or its format is not read.
    """
    path = resolve(spec)
    if path is None:
        return None
    kind = kind_of(path, plain)
    if kind is None:
        raise DataError(f"`{spec}` has the ending `{path.suffix}`, which is not read; use one of {endings(plain)}.")
    if path.stat().st_size == 0:
        raise DataError(f"`{spec}` is empty; give a file with at least one row of data.")
    return path, kind


def open_table(spec: str, plain: str | None = None) -> tuple[Dataset, str]:
    """A data set with its own column names, and the hash of its content."""
    found = data_file(spec, plain)
    if found is None:
        return _open_hub(spec)
    path, kind = found
    try:
        sha = store.file_sha256(path)
    except OSError as error:
        raise DataError(
            f"cannot read `{spec}`: {error.strerror or error}; check the file and its permissions."
        ) from error

    def make(folder: Path) -> None:
        import pyarrow as pa

        table = to_arrow(records(path, kind, spec), spec)
        with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)

    from datasets import Dataset

    entry = store.folder("rows", store.key_of(sha=sha, kind=kind, reader=VERSION), make)
    return Dataset.from_file(str(entry / "rows.arrow")), sha


def _open_hub(spec: str) -> tuple[Dataset, str]:
    from datasets import load_dataset

    hub.look()
    name, _, split = spec.partition(":")
    try:
        table = load_dataset(name, split=split or "train")
    except Exception as error:  # the hub client raises many kinds
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"`{spec}` is neither a file here nor a data set that the hub gave ({type(error).__name__}: {reason}); "
            "check the path, or name a hub data set as `owner/name:split`."
        ) from error
    return table, store.key_of(hub=name, split=split, fingerprint=table._fingerprint)


def rename(
    table: Dataset, spec: str, columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str]
) -> Dataset:
    """Keep the task's columns under the task's names; errors say which columns there are."""
    chosen = chosen_columns(table.column_names, spec, columns, required, optional)
    table = table.select_columns(list(chosen.values()))
    spare = {source: f"__{target}" for target, source in chosen.items() if source != target}
    table = table.rename_columns(spare) if spare else table
    final = {f"__{target}": target for target, source in chosen.items() if source != target}
    return table.rename_columns(final) if final else table


def chosen_columns(
    there: Sequence[str], spec: str, columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str]
) -> dict[str, str]:
    """The user's column behind each of the task's.

    Raises:
        DataError: one is missing, unknown or used twice.
    """
    unknown_targets = [name for name in columns if name not in (*required, *optional)]
    if unknown_targets:
        raise DataError(
            f"--columns: this task has no column `{unknown_targets[0]}`; it has {', '.join([*required, *optional])}."
        )
    chosen: dict[str, str] = {}
    for name in (*required, *optional):
        source = columns.get(name, name)
        if source in there:
            chosen[name] = source
        elif name in required or name in columns:
            named = [column for column in there if column]
            guess = nearest(source, named) or next((c for c in named if c not in required), None)
            have = ", ".join(f"`{column}`" for column in named[:20]) or "columns without a name"
            given = f"{name}={guess}" if guess and " " not in guess else f'"{name}={guess}"'
            remedy = f"Map yours with --columns {given}" if guess else "Add it, or give another file"
            raise DataError(f"`{spec}` has no column `{source}`; it has {have}. {remedy}.")
    used: dict[str, str] = {}
    for target, source in chosen.items():
        if source in used:
            raise DataError(f"`{spec}`: the column `{source}` is used for both `{used[source]}` and `{target}`.")
        used[source] = target
    return chosen


def _refuse_nulls(rows: Rows, required: Sequence[str]) -> None:
    for name in required:
        column = rows.table.data.column(name)
        if column.null_count:
            index = next(i for i, value in enumerate(rows.table[name]) if value is None)
            others = column.null_count - 1
            more = f" (and in {others} more row{'s' if others > 1 else ''})" if others else ""
            raise DataError(f"{rows.where(index)}: `{name}` is null{more}; fill it in or remove the row.")


def write_objects(data: Any, path: Path) -> Path:
    """Write rows given as Python objects (list of dicts, DataFrame, `datasets.Dataset`) to a JSONL file."""
    if hasattr(data, "to_dict") and hasattr(data, "columns") and hasattr(data, "iloc"):
        records: Iterable[Any] = data.to_dict(orient="records")
    elif isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise DataError(
            f"data must be a file name, a list of dicts, a DataFrame or a Dataset, got {type(data).__name__}."
        )
    else:
        records = data

    def write(place: Path) -> None:
        with place.open("w", encoding="utf-8") as stream:
            for number, row in enumerate(records, 1):
                stream.write(_json_line(row, number))

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(
            f"cannot make the folder `{path.parent}`: {error.strerror or error}; give another output folder."
        ) from error
    durable.write(path, write, "free some space or give another output folder")
    return path


def _json_line(row: Any, number: int) -> str:
    if not isinstance(row, Mapping):
        raise DataError(f"row {number} of the data must be a dict like {{'text': ...}}, got {type(row).__name__}.")
    try:
        return json.dumps({k: _plain(v) for k, v in row.items()}, ensure_ascii=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"row {number} of the data cannot be written as JSON ({error}); use plain values.") from error


def _plain(value: Any) -> Any:
    """JSON form of a cell: NumPy values unpacked, dates as text, NaN and NA as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    elif hasattr(value, "isoformat"):
        value = None if value != value else value.isoformat()  # NaT is not equal to itself
    elif type(value).__name__ == "NAType":
        value = None
    elif not isinstance(value, (str, int, float, list, tuple, dict, type(None))):
        raise TypeError(f"a cell is a {type(value).__name__}")
    return None if isinstance(value, float) and value != value else value


def subset(rows: Rows, limit: int | None, salt: str) -> Rows:
    """The first `limit` rows of a fixed shuffle that does not depend on the run's seed."""
    if limit is None or limit >= len(rows):
        return rows
    import numpy as np

    order = np.random.default_rng(derive(0, "subset", salt)).permutation(len(rows))[:limit]
    return rows.select(sorted(order.tolist()), f"subset-{salt}-{limit}")
