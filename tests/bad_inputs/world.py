"""Files of one test, command lines that would work but for what the test changes, and what every refusal must look like."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows

MODELS = {"summarization": "t5", "chat": "gpt2", "instruction": "gpt2", "language-modeling": "gpt2"}
Args = list[object]


class World:
    """Files of one test, and command lines that would work but for what the test changes."""

    def __init__(self, folder: Path, models: Path, trained: Any) -> None:
        self.folder, self.models, self.trained = folder, models, trained
        self.output = folder / "run"

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def rows(self, name: str = "rows.jsonl", rows: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
        """Good rows; `row=(number, column, value)` changes one cell, `label=values` the whole column."""
        found = [dict(row) for row in (rows or toy_rows(24))]
        if "cell" in changes:
            number, column, value = changes.pop("cell")
            found[number - 1][column] = value
        for column, values in changes.items():
            for i, row in enumerate(found):
                row[column] = values[i % len(values)]
        return self.file(name, "".join(json.dumps(row) + "\n" for row in found))

    def model(self, kind: str = "bert") -> Path:
        return tiny_model(kind, self.models / kind)

    def broken(self, *gone: str, **written: bytes) -> Path:
        """A copy of the model without some files."""
        place = shutil.copytree(self.model(), self.folder / "broken")
        for pattern in gone:
            for path in place.glob(pattern):
                path.unlink()
        for name, content in written.items():
            (place / name.replace("__", ".")).write_bytes(content)
        return place

    def train(self, *more: object, train: object = None, model: object = None) -> Args:
        start: Args = ["train", "-q", "--model", model or self.model(), "--train", train or self.rows()]
        return [*start, "--max-steps", 1, "--batch-size", 8, "--device", "cpu", "--output", self.output, *more]

    def compare(self, *more: object) -> Args:
        return [
            "compare", "-q", "--model", self.model(), "--train", self.rows(), "--techniques", "bitfit", "--output", self.output, *more,
        ]  # fmt: skip

    def set(self, *pairs: str) -> Args:
        return self.train(*(word for pair in pairs for word in ("--set", pair)))

    def config(self, content: str | bytes) -> Args:
        return ["train", "-q", "--config", self.file("run.yaml", content), "--output", self.output]

    def cut_weights(self) -> Path:
        place = self.broken()
        path = place / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        return place

    def flipped(self) -> Path:
        place = shutil.copytree(self.trained.artifact, self.folder / "artifact")
        path = place / "trained.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        return place

    def there(self, *names: str) -> Args:
        self.output.mkdir()
        for name in names:
            (self.output / name).write_text("{}")
        return self.train()


Content = str | bytes | Sequence[dict[str, Any] | str]
"""A file as it is, or its rows as JSON lines (text: a line as it is)."""


class TaskWorld(World):
    """The same for any task: `on` trains on a file, beside good eval rows."""

    def __init__(self, folder: Path, models: Path, task: str, artifact: Callable[[str], Path]) -> None:
        super().__init__(folder, models, None)
        self.task, self._artifact = task, artifact

    def model(self, kind: str = "") -> Path:
        kind = kind or MODELS.get(self.task, "bert")
        return tiny_model(kind, self.models / kind)

    def write(self, name: str, content: Content) -> Path:
        if not isinstance(content, (str, bytes)):
            content = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content)
        return self.file(name, content)

    def good(self, count: int = 12) -> Path:
        return self.write("good.jsonl", rows_for(self.task, count))

    def on(self, name: str, content: Content, *more: object, eval: Content | None = None, model: object = None) -> Args:
        measured = self.good() if eval is None else self.write("eval.jsonl", eval)
        data = self.write(name, content)
        return self.train("--task", self.task, "--eval", measured, *more, train=data, model=model)

    def config(self, content: str | bytes) -> Args:
        start = f"model: {self.model()}\ntrain: {self.good()}\ntask: {self.task}\nmax_steps: 1\n"
        return super().config(start + content if isinstance(content, str) else content)

    def evaluate(self, name: str, content: Content, *more: object) -> Args:
        return ["evaluate", "-q", self._artifact(self.task), "--data", self.write(name, content), *more]

    def predict(self, name: str, content: Content, *more: object) -> Args:
        output = self.output / "predictions.jsonl"
        return ["predict", "-q", self._artifact(self.task), "--data", self.write(name, content), "-o", output, *more]

    def doctor(self, name: str, content: Content, *more: object) -> Args:
        files = ("--train", self.write(name, content), "--eval", self.good())
        return ["doctor", "-q", "--task", self.task, "--model", self.model(), *files, *more]


def case(name: str, args: Callable[[World], Args], *words: str, code: int = 2, lines: int = 1, marks: Any = ()) -> Any:
    return pytest.param(args, words, code, lines, id=name, marks=marks)


def contents(folder: Path) -> dict[str, bytes]:
    return (
        {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        if folder.is_dir()
        else {}
    )


def check(code: int, err: str, out: str, expected: tuple[Any, ...], words: tuple[str, ...]) -> None:
    assert code == expected[0], err
    assert out == ""
    assert "Traceback" not in err
    assert "our fault" not in err, err
    assert err.startswith("error: "), err
    assert len(err.splitlines()) == expected[1], err
    assert err.rstrip().endswith((".", "`?")), err
    assert all(word in err for word in words), err


def bad(
    name: str,
    content: Content,
    *words: str,
    file: str = "rows.jsonl",
    flags: Sequence[object] = (),
    eval: Content | None = None,
    model: str = "",
) -> Any:
    """A training file that is refused in words that name it (or its eval rows)."""
    words = (*words, *(() if flags or model else ("eval.jsonl" if eval is not None else file,)))
    return case(name, lambda w: w.on(file, content, *flags, eval=eval, model=w.model(model)), *words)  # fmt: skip


def setting(name: str, value: str, *words: str, model: str = "") -> Any:
    """An option of the task that is refused; good rows."""
    key = name.partition(".")[2]
    return case(
        f"{name}={value[:20]}",
        lambda w: w.on("rows.jsonl", rows_for(w.task, 12), "--set", f"{name}={value}", model=w.model(model)),
        key,
        *words,
    )


def refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    """Run the command of a case: one sentence, exit code 2, no output folder."""
    monkeypatch.chdir(world.folder)
    answer = cli(*args(world))
    check(answer.code, answer.err, answer.out, (code, lines), words)
    assert not world.output.exists(), "something was left behind"
