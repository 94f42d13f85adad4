"""A file that grows in steps, survives being killed between any two of them, and appears under its name when it is whole.

    .OUT.partial         lines so far; what stands behind the last step is cut off when it is gone on with
    .OUT.partial.json    how many rows and bytes that are, a hash of the rows they answer, and what they were made with
    .OUT.partial.lock    held while somebody writes

A step is on disk (flushed) before it is noted, and the note is replaced in one piece; so what the note says is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tunesmith.cache.store import nothing_left
from tunesmith.errors import SaveError, UserError


class Partial:
    """An output file in the making, inside `with`.

    Args:
        output: its final place.
        made_with: what its lines depend on; JSON, with keys and values that a person understands.
        overwrite: begin anew where an unfinished file that was made with something else is in the way.

    Attributes:
        rows: rows in it so far.
        digest: hash of those rows.

    Raises:
        UserError: an unfinished file was made with something else, or is being written right now.
        SaveError: it cannot be written.
    """

    def __init__(self, output: Path, made_with: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.output, self.made_with, self.overwrite = output, dict(made_with), overwrite
        self.lines = output.with_name(f".{output.name}.partial")
        self.note, self.lock = (self.lines.with_name(self.lines.name + end) for end in (".json", ".lock"))
        self.rows, self.bytes, self.digest = 0, 0, ""
        self._folders = nothing_left(output.parent)
        self._lock: Any = None
        self._stream: Any = None

    def __enter__(self) -> Partial:
        self._folders.__enter__()
        try:
            self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self) -> None:
        from filelock import FileLock, Timeout

        if self.output.is_dir():
            raise UserError(
                f"`{self.output}` is a folder; give a file to write, for example {self.output / 'predictions.jsonl'}."
            )
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(str(self.lock))
            lock.acquire(timeout=0)
            self._lock = lock
            self._go_on(self._read_note())
            if not self.rows:
                self.note.unlink(missing_ok=True)  # before the lines that it speaks of are replaced
            self._stream = self.lines.open("r+b" if self.rows else "wb")
            self._stream.truncate(self.bytes)
            self._stream.seek(self.bytes)
        except Timeout as error:
            raise UserError(
                f"another process is writing `{self.output}` right now; wait for it, or give another --output."
            ) from error
        except OSError as error:
            raise self._failed(error) from error

    def _read_note(self) -> dict[str, Any]:
        """What was noted with the last step; nothing where no step was finished."""
        try:
            note = dict(json.loads(self.note.read_text(encoding="utf-8")))
            there = self.lines.stat().st_size >= note["bytes"]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return {}
        return note if there else {}

    def _go_on(self, note: Mapping[str, Any]) -> None:
        if not note:
            return
        before = note.get("made_with") or {}
        changed = [key for key in {**before, **self.made_with} if before.get(key) != self.made_with.get(key)]
        if changed and not self.overwrite:
            named = ", ".join(_change(key, before.get(key), self.made_with.get(key)) for key in changed)
            raise UserError(
                f"`{self.lines}` holds {note['rows']:,} rows of an unfinished run that differs from this one ({named}); repeat that run to "
                "finish it, add --overwrite to start over, or give another --output."
            )
        if not changed:
            self.rows, self.bytes, self.digest = int(note["rows"]), int(note["bytes"]), str(note["digest"])

    def refuse_other_rows(self, digest: str, data: str) -> None:
        """See whether the rows that are done are those of the data, by their hash.

        Raises:
            UserError: they are not, and may not be overwritten.
        """
        if self.digest == digest:
            return
        if not self.overwrite:
            raise UserError(
                f"`{self.lines}` holds {self.rows:,} rows of an unfinished run, and the first {self.rows:,} rows of `{data}` are not those that "
                "it read; add --overwrite to start over, or give another --output."
            )
        self.start_over()

    def start_over(self) -> None:
        """Drop what is there."""
        self.rows, self.bytes, self.digest = 0, 0, ""
        self.note.unlink(missing_ok=True)
        self._stream.seek(0)
        self._stream.truncate()

    def step(self, lines: bytes, rows: int, digest: str) -> None:
        """Write lines to disk, and note that they are there.

        Args:
            lines: whole lines.
            rows: how many rows they answer.
            digest: hash of all rows up to these.
        """
        done = {"rows": self.rows + rows, "bytes": self.bytes + len(lines), "digest": digest}
        try:
            self._stream.write(lines)
            self._stream.flush()
            os.fsync(self._stream.fileno())
            writing = self.note.with_name(f"{self.note.name}.writing")
            with writing.open("w", encoding="utf-8") as stream:
                json.dump({**done, "made_with": self.made_with}, stream, ensure_ascii=False)
                stream.flush()
                os.fsync(stream.fileno())
            writing.replace(self.note)
        except OSError as error:
            raise self._failed(error) from error
        self.rows, self.bytes, self.digest = self.rows + rows, self.bytes + len(lines), digest

    def finish(self) -> None:
        """Give the file its name."""
        try:
            self._stream.close()
            self.lines.replace(self.output)
        except OSError as error:
            raise self._failed(error) from error
        self.rows = 0  # nothing is unfinished any more

    def _failed(self, error: OSError) -> SaveError:
        kept = f" {self.rows:,} rows are kept: the same command goes on behind them." if self.rows else ""
        return SaveError(
            f"cannot write `{self.output}`: {error.strerror or error}; free some space or give another --output.{kept}"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._stream is not None:  # else nothing here is ours
                with suppress(OSError) if error is not None else nullcontext():
                    self._stream.close()  # a full disk refuses what is still in its buffer once more
                writing = self.note.with_name(f"{self.note.name}.writing")
                for path in (writing, *(() if self.rows else (self.lines, self.note))):
                    path.unlink(missing_ok=True)
        finally:
            if self._lock is not None:
                self._lock.release()
                self.lock.unlink(missing_ok=True)
            self._folders.__exit__(kind, error, trace)


def _change(key: str, before: Any, now: Any) -> str:
    short = all(
        isinstance(value, (str, int, float, bool, type(None))) and len(str(value)) <= 24 for value in (before, now)
    )
    return f"{key} {before}, now {now}" if short else f"different {key}"
