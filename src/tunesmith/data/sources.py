"""Read rows from a file, an asset, a hub id or Python objects into one memory-mapped table.

Errors name the file and the row. Rows are numbered from 1 as a person counts them: the line of a JSONL file,
the record after the header of a CSV file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cache import store
from tunesmith.errors import DataError, SaveError, nearest
from tunesmith.seeding import derive

if TYPE_CHECKING:
    from datasets import Dataset

READERS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
MAX_FIELD = 32 << 20  # characters in one CSV cell; larger is damage, not data


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


def read(spec: str, columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str] = ()) -> Rows:
    """Read a data set and rename its columns to the task's.

    Args:
        spec: a file, `asset:NAME`, or a hub id as `name` or `name:split`.
        columns: task column -> the user's column.
        required: task columns that must be there and hold no null.
        optional: task columns that are taken when present.

    Raises:
        DataError: with the file and the row.
    """
    table, sha = open_table(spec)
    if len(table) == 0:
        raise DataError(f"`{spec}` holds no rows; give a file with at least one row of data.")
    table = rename(table, spec, columns, required, optional)
    rows = Rows(table, spec, store.key_of(file=sha, columns=dict(columns), kept=table.column_names))
    _refuse_nulls(rows, required)
    return rows


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
        raise DataError(f"`{spec}` is a folder; give one data file ({', '.join(sorted(READERS))}).")
    name = spec.partition(":")[0]
    if path.suffix.lower() in READERS or path.is_absolute() or name.count("/") > 1 or spec.startswith(("./", "../")):
        raise DataError(f"there is no file `{spec}`{_similar(path)}; check the path (working folder: {Path.cwd()}).")
    return None


def _similar(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    close = nearest(path.name, [p.name for p in folder.iterdir() if p.is_file()]) if folder.is_dir() else None
    return f" (did you mean `{folder / close}`?)" if close else ""


def open_table(spec: str) -> tuple[Dataset, str]:
    """A data set with its own column names, and the hash of its content."""
    path = resolve(spec)
    if path is None:
        return _open_hub(spec)
    kind = READERS.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"`{spec}` has the ending `{path.suffix}`, which is not read; use one of {', '.join(sorted(READERS))}."
        )
    if path.stat().st_size == 0:
        raise DataError(f"`{spec}` is empty; give a file with at least one row of data.")
    try:
        sha = store.file_sha256(path)
    except OSError as error:
        raise DataError(
            f"cannot read `{spec}`: {error.strerror or error}; check the file and its permissions."
        ) from error

    def make(folder: Path) -> None:
        import pyarrow as pa

        table = _to_arrow(_records(path, kind, spec), spec)
        with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)

    from datasets import Dataset

    entry = store.folder("rows", store.key_of(sha=sha, kind=kind, reader=4), make)
    return Dataset.from_file(str(entry / "rows.arrow")), sha


def _open_hub(spec: str) -> tuple[Dataset, str]:
    from datasets import load_dataset

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


def _records(path: Path, kind: str, spec: str) -> Iterator[dict[str, Any]]:
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            for batch in pq.ParquetFile(path).iter_batches(1000):
                yield from batch.to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"`{spec}` cannot be read as parquet: {error}; write it again.") from error
        return
    try:
        if kind == "jsonl":
            yield from _jsonl(path, spec)
        elif kind == "json":
            yield from _json(path, spec)
        else:
            yield from _csv(path, spec, "\t" if kind == "tsv" else ",")
    except UnicodeDecodeError as error:
        line = _line_of_bad_byte(path)
        raise DataError(
            f"`{spec}` is not UTF-8 text (line {line}, byte 0x{error.object[error.start]:02x}); save it as UTF-8, for example "
            f"`iconv -f WINDOWS-1258 -t UTF-8`."
        ) from error


def _line_of_bad_byte(path: Path) -> int:
    number = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return number


def _jsonl(path: Path, spec: str) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(
                    f"`{spec}`, line {number} is not valid JSON ({error}); mend or remove that line."
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f'`{spec}`, line {number} must be an object like {{"text": ...}}, got {type(row).__name__}.'
                )
            yield row


def _json(path: Path, spec: str) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"`{spec}` is not valid JSON ({error}); mend it, or name it .jsonl if it has one object a line."
        ) from error
    if isinstance(content, dict):
        lists = [key for key, value in content.items() if isinstance(value, list)]
        content = content[lists[0]] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise DataError(f"`{spec}` must hold a list of objects, got {type(content).__name__}.")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise DataError(f"`{spec}`, row {number} must be an object, got {type(row).__name__}.")
        yield row


def _csv(path: Path, spec: str, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        first = next((line for line in stream if line.strip()), "")
        if delimiter == "," and "," not in first and ";" in first:
            delimiter = ";"  # what spreadsheets write where the comma is the decimal mark
        stream.seek(0)
        reader = csv.reader(stream, delimiter=delimiter, strict=True)  # an open quote would swallow the rows after it
        try:
            header = [name.strip() for name in next((cells for cells in reader if cells), [])]
            twice = {name for name in header if header.count(name) > 1}
            if twice:
                raise DataError(f"`{spec}` has the column `{min(twice)}` twice; rename one.")
            for number, cells in enumerate(reader, 1):
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"`{spec}`, row {number} (line {reader.line_num}) has {len(cells)} cells where the header has {len(header)}; "
                        "quote cells that contain the separator or a line break."
                    )
                yield dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise DataError(f"`{spec}`, line {reader.line_num} cannot be read ({error}); check its quotes.") from error


def _to_arrow(records: Iterable[dict[str, Any]], spec: str) -> Any:
    import pyarrow as pa

    pieces = []
    block: list[dict[str, Any]] = []
    done = 0

    def flush() -> None:
        nonlocal done
        names = list(dict.fromkeys(name for row in block for name in row))
        arrays = []
        for name in names:
            values = [row.get(name) for row in block]
            try:
                arrays.append(pa.array(values))
            except (OverflowError, UnicodeEncodeError) as error:
                odd = next(i for i, value in enumerate(values) if not _fits(value))
                raise DataError(
                    f"`{spec}`, row {done + odd + 1}: `{name}` holds what no column can hold ({error}); mend or remove that row."
                ) from error
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                first = next((type(v) for v in values if v is not None), None)
                odd = next((i for i, v in enumerate(values) if v is not None and type(v) is not first), 0)
                raise DataError(
                    f"`{spec}`, row {done + odd + 1}: column `{name}` holds {type(values[odd]).__name__} where earlier rows "
                    f"hold {getattr(first, '__name__', first)}; use one type in a column."
                ) from error
        pieces.append(pa.table(arrays, names=names))
        done += len(block)
        block.clear()

    for row in records:
        block.append(row)
        if len(block) == 10_000:
            flush()
    if block:
        flush()
    if not pieces:
        raise DataError(f"`{spec}` holds no rows; give a file with at least one row of data.")
    try:
        return pa.concat_tables(pieces, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"`{spec}`: a column changes its type between rows ({error}); use one type in a column."
        ) from error


def _fits(value: Any) -> bool:
    import pyarrow as pa

    try:
        pa.array([value])
    except (OverflowError, UnicodeEncodeError):
        return False
    return True


def rename(
    table: Dataset, spec: str, columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str]
) -> Dataset:
    """Keep the task's columns under the task's names; errors say which columns there are."""
    unknown_targets = [name for name in columns if name not in (*required, *optional)]
    if unknown_targets:
        raise DataError(
            f"--columns: this task has no column `{unknown_targets[0]}`; it has {', '.join([*required, *optional])}."
        )
    there = table.column_names
    chosen: dict[str, str] = {}
    for name in (*required, *optional):
        source = columns.get(name, name)
        if source in there:
            chosen[name] = source
        elif name in required or name in columns:
            close = nearest(source, there)
            guess = close or next((c for c in there if c not in required), "yours")
            raise DataError(
                f"`{spec}` has no column `{source}`; it has {', '.join(f'`{c}`' for c in there[:20])}. "
                f"Map yours with --columns {name}={guess}."
            )
    used: dict[str, str] = {}
    for target, source in chosen.items():
        if source in used:
            raise DataError(f"`{spec}`: the column `{source}` is used for both `{used[source]}` and `{target}`.")
        used[source] = target
    table = table.select_columns(list(chosen.values()))
    spare = {source: f"__{target}" for target, source in chosen.items() if source != target}
    table = table.rename_columns(spare) if spare else table
    final = {f"__{target}": target for target, source in chosen.items() if source != target}
    return table.rename_columns(final) if final else table


def _refuse_nulls(rows: Rows, required: Sequence[str]) -> None:
    for name in required:
        column = rows.table.data.column(name)
        if column.null_count:
            index = next(i for i, value in enumerate(rows.table[name]) if value is None)
            more = f" (and {column.null_count - 1} more rows)" if column.null_count > 1 else ""
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
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            for number, row in enumerate(records, 1):
                stream.write(_json_line(row, number))
        temporary.replace(path)
    except OSError as error:
        raise SaveError(
            f"cannot write `{path}`: {error.strerror or error}; free some space or give another output folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
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
