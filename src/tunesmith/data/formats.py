"""Read a file of any of the known formats into records.

    .jsonl .json .csv .tsv .parquet   rows with named columns
    .conll .bio .iob .iob2            one token and its tag a line, a blank line between sentences: `tokens`, `ner_tags`
    .txt .text .md                    what the task makes of plain text: sentences as above, or passages as `text`

SQuAD's nested JSON (articles of paragraphs of questions) is one row a question.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.data.columns import check_columns
from tunesmith.errors import DataError, called

READERS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".conll": "conll",
    ".bio": "conll", ".iob": "conll", ".iob2": "conll",
}  # fmt: skip
PLAIN = (".txt", ".text", ".md")
MAX_FIELD = 32 << 20  # characters in one CSV cell; larger is damage, not data
NO_TEXT = "if it is UTF-16, save it as UTF-8; if it is another kind of file (PDF, Word, an archive), take the text out of it first"
TAB = "\t"
LIST_OF_OBJECTS = '`[{"text": ...}, ...]`'
ONE_A_LINE = "write one object a line"
PASSAGE = 2000  # characters from which a passage of plain text is closed at the next blank line
VERSION = 7  # part of the cache key of a read table: raise it when reading changes


def kind_of(path: Path, plain: str | None) -> str | None:
    """The format of a file by its ending; `plain` is what the task makes of plain text."""
    ending = path.suffix.lower()
    return plain if ending in PLAIN else READERS.get(ending)


def endings(plain: str | None = None) -> str:
    """The endings that are read, for an error message."""
    return ", ".join(sorted([*READERS, *(PLAIN if plain else ())]))


def records(path: Path, kind: str, spec: str) -> Iterator[dict[str, Any]]:
    """The rows of a file.

    Raises:
        DataError: with the line or row that cannot be read.
    """
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path)
            check_columns(file.schema_arrow.names, spec)
            for batch in file.iter_batches(1000):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise DataError(f"`{spec}` cannot be read as parquet ({reason}); write or download it again.") from error
        return
    try:
        if kind == "jsonl":
            yield from _jsonl(path, spec)
        elif kind == "json":
            yield from _json(path, spec)
        elif kind == "conll":
            yield from _conll(path, spec)
        elif kind == "lines":
            yield from _passages(path, spec)
        else:
            yield from _csv(path, spec, "\t" if kind == "tsv" else ",")
    except UnicodeDecodeError as error:
        with path.open("rb") as stream:
            start = stream.read(4096)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(
                f"`{spec}` is UTF-16 text; save it as UTF-8, for example `iconv -f UTF-16 -t UTF-8`."
            ) from error
        if b"\0" in start:
            raise DataError(f"`{spec}` holds bytes that are no text; {NO_TEXT}.") from error
        line = _line_of_bad_byte(path)
        raise DataError(
            f"`{spec}` is not UTF-8 text (line {line}, byte 0x{error.object[error.start]:02x}); save it as UTF-8, for example "
            f"`iconv -f WINDOWS-1258 -t UTF-8`."
        ) from error


def _text_lines(stream: Iterable[str], spec: str) -> Iterator[str]:
    """Lines as they are, unless they hold what no text does."""
    for number, line in enumerate(stream, 1):
        if "\0" in line:
            raise DataError(f"`{spec}`, line {number} holds a NUL byte, which no text does; {NO_TEXT}.")
        yield line


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
            except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
                other = (
                    " or name it .json if the whole file is one list" if number == 1 and line.startswith("[") else ""
                )
                raise DataError(
                    f"`{spec}`, line {number} is not valid JSON ({_reason(error)}); mend or remove that line{other}."
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f'`{spec}`, line {number} must be an object like {{"text": ...}}, and is {called(row)}; {ONE_A_LINE}.'
                )
            yield row


def _json(path: Path, spec: str) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"`{spec}` is not valid JSON ({_reason(error)}); mend it, or name it .jsonl if it has one object a line."
        ) from error
    if isinstance(content, dict):
        lists = [key for key, value in content.items() if isinstance(value, list)]
        content = content[lists[0]] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise DataError(
            f"`{spec}` must hold a list of objects, and is {called(content)}; write it as {LIST_OF_OBJECTS}."
        )
    articles = any(isinstance(row, dict) and "paragraphs" in row for row in content)  # SQuAD's form
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise DataError(
                f"`{spec}`, row {number} must be an object, and is {called(row)}; write the rows as {LIST_OF_OBJECTS}."
            )
        if articles:
            if not isinstance(row.get("paragraphs"), list):
                raise DataError(
                    f"`{spec}`, article {number} has no list `paragraphs`, which other articles have; mend or remove it."
                )
            yield from _squad(row["paragraphs"], f"`{spec}`, article {number}")
        else:
            yield row


def _squad(paragraphs: list[Any], where: str) -> Iterator[dict[str, Any]]:
    """One row a question of SQuAD's form: paragraphs with a `context` and its `qas`."""
    for number, paragraph in enumerate(paragraphs, 1):
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list) or not all(isinstance(each, dict) for each in questions):
            raise DataError(
                f"{where}, paragraph {number} has no list of questions `qas`; SQuAD's form needs `context` and `qas`."
            )
        for each in questions:
            answers = each.get("answers")
            if each.get("is_impossible"):
                if answers:
                    raise DataError(
                        f"{where}, paragraph {number}: the question `{str(each.get('question'))[:60]}` has is_impossible=true and answers; "
                        "empty its answers, or set is_impossible to false."
                    )
                answers = []
            yield {"id": each.get("id"), "question": each.get("question"), "context": paragraph.get("context"), "answers": {
                "text": [answer.get("text") for answer in answers], "answer_start": [answer.get("answer_start") for answer in answers],
            } if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers) else answers}  # fmt: skip


def _csv(path: Path, spec: str, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        first = next((line for line in stream if line.strip()), "")
        if delimiter == "," and "," not in first and ";" in first:
            delimiter = ";"  # what spreadsheets write where the comma is the decimal mark
        stream.seek(0)
        reader = csv.reader(
            _text_lines(stream, spec), delimiter=delimiter, strict=True
        )  # an open quote would swallow the rows after it
        try:
            header = [name.strip() for name in next((cells for cells in reader if cells), [])]
            check_columns(header, spec)
            twice = min((name for name in header if header.count(name) > 1), default=None)
            if twice is not None:
                what = (
                    f"the column `{twice}` twice; rename one"
                    if twice
                    else "several columns without a name; name or remove them"
                )
                raise DataError(f"`{spec}` has {what}.")
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


def _conll(path: Path, spec: str) -> Iterator[dict[str, Any]]:
    """Sentences of a column file: the first column is the token, the last its tag."""
    tokens: list[str] = []
    tags: list[str] = []
    separator: str | None = None
    columns = first = 0  # of the sentence's first line
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(_text_lines(stream, spec), 1):
            text = line.rstrip("\r\n")
            if not text.strip() or text.startswith("-DOCSTART-"):
                if tokens:
                    yield {"tokens": tokens, "ner_tags": tags}
                tokens, tags, columns = [], [], 0
                continue
            if separator is None:
                separator = TAB if TAB in text else " "
            cells = [cell for cell in text.split(separator) if cell] if separator == " " else text.split(separator)
            if len(cells) < 2 or not cells[0] or not cells[-1].strip():
                apart = f", separated by {'tabs' if separator == TAB else 'spaces'} as in line {first}" if first else ""
                raise DataError(
                    f"`{spec}`, line {number} (`{text.strip()[:40]}`) needs a token and its tag{apart}; write `token<TAB>tag`, and a blank "
                    "line between sentences."
                )
            if not columns:
                columns, first = len(cells), number
            if len(cells) != columns:
                raise DataError(
                    f"`{spec}`, line {number} (`{text.strip()[:40]}`) has {len(cells)} columns where line {first} has {columns}, so that its tag "
                    "may be missing; mend that line."
                )
            tokens.append(cells[0])
            tags.append(cells[-1].strip())
    if tokens:
        yield {"tokens": tokens, "ner_tags": tags}


def _passages(path: Path, spec: str) -> Iterator[dict[str, Any]]:
    """Plain text in passages: paragraphs, joined until they hold `PASSAGE` characters (lines, where no line is blank)."""
    with path.open(encoding="utf-8-sig") as stream:
        paragraphs = any(not line.strip() for line in stream)
        stream.seek(0)
        parts: list[str] = []
        size = 0
        for line in _text_lines(stream, spec):
            parts.append(line)
            size += len(line)
            if size >= PASSAGE and (not paragraphs or not line.strip()):
                yield {"text": "".join(parts).strip("\n")}
                parts, size = [], 0
        if "".join(parts).strip():
            yield {"text": "".join(parts).strip("\n")}


def _reason(error: Exception) -> str:
    """Why JSON cannot be read, without advice for programmers."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return str(error).partition(";")[0]
