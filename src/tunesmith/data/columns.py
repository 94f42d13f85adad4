"""Records become one Arrow table whose columns hold one type each.

Values that are objects (chat messages, answers) are kept as JSON text, because a table would give every object the keys of all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sized
from typing import Any

from tunesmith.errors import DataError, called

MAX_DEPTH = 32  # lists within lists; Arrow writes no more than 64
MAX_COLUMNS = 10_000


def to_arrow(records: Iterable[dict[str, Any]], spec: str) -> Any:
    """Records as one Arrow table whose columns hold one type each.

    Raises:
        DataError: with the row that does not fit.
    """
    import pyarrow as pa

    pieces = []
    block: list[dict[str, Any]] = []
    nested: set[str] = set()  # columns of objects, kept as JSON text
    done = 0

    def flush() -> None:
        nonlocal done
        names = list(dict.fromkeys(name for row in block for name in row))
        check_columns(names, spec)
        _check_names(names, block, done, spec)
        arrays = []
        for name in names:
            values = [row.get(name) for row in block]
            if name in nested or any(map(_is_nested, values)):
                nested.add(name)
                values = [
                    v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)
                    for v in values
                ]
            try:
                arrays.append(pa.array(values))
            except (OverflowError, UnicodeEncodeError) as error:
                odd = next(i for i, value in enumerate(values) if not _fits(value))
                raise DataError(
                    f"`{spec}`, row {done + odd + 1}: `{name}` holds what no column can hold ({error}); mend or remove that row."
                ) from error
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                odd, found, others = _odd_one(values)
                raise DataError(
                    f"`{spec}`, row {done + odd + 1}: column `{name}` holds {found} where {others}; use one type in a column."
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
    for piece in pieces:
        for name, column in zip(piece.column_names, piece.columns, strict=True):
            if _depth(column.type) > MAX_DEPTH:
                raise DataError(
                    f"`{spec}`: column `{name}` holds lists nested more than {MAX_DEPTH} deep; flatten or remove it."
                )
    try:
        return pa.concat_tables(pieces, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"`{spec}`: a column changes its type between rows ({error}); use one type in a column."
        ) from error


def check_columns(names: Sized, spec: str) -> None:
    """Refuse a table of more columns than rows of data have.

    Raises:
        DataError: more than `MAX_COLUMNS`.
    """
    if len(names) > MAX_COLUMNS:
        raise DataError(
            f"`{spec}` has {len(names):,} columns (at most {MAX_COLUMNS:,}); keep those that the task reads."
        )


def _check_names(names: Iterable[str], block: list[dict[str, Any]], done: int, spec: str) -> None:
    """Half of a UTF-16 pair is a letter in JSON and in no file."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            place = next(i for i, row in enumerate(block) if name in row)
            shown = name.encode("ascii", "backslashreplace").decode()
            raise DataError(
                f"`{spec}`, row {done + place + 1}: the column name `{shown}` holds a letter that is none ({error.reason}); mend or remove it."
            ) from error


def _odd_one(values: list[Any]) -> tuple[int, str, str]:
    """Index of the first value that does not go with those before it, what it is, and what they are."""
    import pyarrow as pa

    low, high = 0, len(values)  # the first `low` values go together, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _goes(values[:middle]) else (low, middle)
    odd = high - 1
    value = values[odd]
    earlier = next((v for v in values[:odd] if v is not None and type(v) is type(value)), None)
    if isinstance(value, list) and not _goes([value]):
        kinds = list(dict.fromkeys(called(item) for item in value if item is not None))
        return odd, f"a list of {' and '.join(kinds)}", "a list must hold one type"
    if isinstance(value, list) and earlier is not None:
        return odd, f"a list of {pa.array(value).type}", f"earlier rows hold lists of {pa.array(earlier).type}"
    first = next((v for v in values if v is not None), None)
    return odd, type(value).__name__, f"earlier rows hold {type(first).__name__}"


def _goes(values: list[Any]) -> bool:
    """Whether values can stand in one column."""
    import pyarrow as pa

    try:
        pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def _depth(kind: Any) -> int:
    """Lists within lists of a column's type."""
    depth = 0
    while getattr(kind, "value_type", None) is not None:
        kind, depth = kind.value_type, depth + 1
    return depth


def _is_nested(value: Any) -> bool:
    """An object, or a list of objects."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _fits(value: Any) -> bool:
    import pyarrow as pa

    try:
        pa.array([value])
    except (OverflowError, UnicodeEncodeError):
        return False
    return True
