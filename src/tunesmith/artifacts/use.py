"""Use an artifact: score it on rows, or predict for rows, in fp32 unless asked otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from tunesmith.artifacts.store import Opened, open_artifact
from tunesmith.cache.ragged import ListedColumn, RaggedRows
from tunesmith.cache.store import nothing_left
from tunesmith.config import Dtype
from tunesmith.data import sources
from tunesmith.data.encode import encode, located, refuse_nothing
from tunesmith.data.task_inference import text_of
from tunesmith.errors import DataError, SaveError, UserError, called, unknown
from tunesmith.evaluation import code
from tunesmith.evaluation.evaluate import Scored, evaluate

AUTO = "auto"  # in place of a head's name: each row by the task it seems to belong to
CODE_TASKS = ("language-modeling", "instruction")
BLOCK = 2000  # rows predicted at a time
LOOK = 8  # tokens written between two looks at the text


class Artifact:
    """An opened artifact on a device.

    Example:
        >>> artifact = tunesmith.load("runs/lora/artifact")
        >>> artifact.predict([{"text": "a fine film"}])
        [{'text': 'a fine film', 'prediction': 'positive', 'score': 0.98}]
    """

    def __init__(self, opened: Opened, device: torch.device, batch_size: int = 64) -> None:
        self.opened, self.device, self.batch_size = opened, device, batch_size
        self.head, self.unsure = next(iter(opened.readings)), False
        for loaded in opened.heads.loaded.values():
            loaded.model.to(device)

    @property
    def names(self) -> dict[str, str]:
        """Names that `choose` takes, with the head behind each: heads, and the tasks of a stream."""
        return {**{name: name for name in self.opened.readings}, **self.opened.info.get("parts", {})}

    def choose(self, name: str) -> Artifact:
        """Read through the head of this name (of a stream: a task's name) from now on; `auto` finds out each row's task.

        Raises:
            UserError: there is none.
        """
        if name not in (AUTO, *self.names):
            raise UserError(unknown("head", name, [AUTO, *self.names]))
        self.unsure = name == AUTO
        self.head = next(iter(self.opened.readings)) if self.unsure else self.names[name]
        return self

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.opened.heads[self.head].model

    @property
    def max_length(self) -> int:
        """Tokens that a row is cut to."""
        return self.opened.readings[self.head].max_length

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.opened.loaded.tokenizer

    @property
    def task(self) -> Any:
        """The task it was trained for."""
        return self.opened.readings[self.head].task

    def score(self, rows: sources.Rows, title: str = "evaluate") -> Scored:
        """Metrics and predictions on labelled rows."""
        encoded = encode(self.task, rows, self.tokenizer, self.max_length)
        refuse_nothing(encoded, rows, self.max_length)
        return evaluate(
            self.model,
            self.task,
            rows.table,
            encoded,
            batch_size=self.batch_size,
            device=self.device,
            pad_id=self.tokenizer.pad_token_id,
            title=title,
        )

    def evaluate(
        self, data: Any, columns: Mapping[str, str] | None = None, *, allow_code_execution: bool = False
    ) -> dict[str, float]:
        """Metrics on a data file, asset or Python objects; `pass_at_1` for programming problems (`prompt`, `test`, `entry_point`)."""
        if self.task.name in CODE_TASKS and isinstance(data, (str, Path)):
            table, _ = sources.open_table(str(data), self.task.plain_text)
            if code.asks_for_code(table.column_names):
                code.require_permission(allow_code_execution, str(data))
                problems = table.to_list()
                code.check_problems(problems, str(data))
                write = partial(self.continue_texts, ended=code.has_ended)
                return {"pass_at_1": code.pass_at_1(write, problems)[0]}
        rows = _read(data, columns or {}, self.task)
        self.task.check(rows, "eval")
        return self.score(rows).metrics

    def continue_texts(
        self, prompts: Sequence[str], max_new_tokens: int = 384, ended: Callable[[str], bool] = lambda written: False
    ) -> list[str]:
        """What the model writes behind each prompt, greedily, until its end token, `max_new_tokens` or what `ended` says of the text."""
        from transformers import GenerationConfig

        from tunesmith.tasks._base import attention_mask, pad

        ids = [self.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        start = self.tokenizer.bos_token_id
        features = [{"input_ids": [*([start] if start is not None else []), *row]} for row in ids]
        inputs = {
            "input_ids": pad(features, "input_ids", self.tokenizer.pad_token_id, left=True).to(self.device),
            "attention_mask": attention_mask(features, left=True).to(self.device),
        }
        width = inputs["input_ids"].shape[1]
        room = max(1, min(max_new_tokens, (self.task.positions or width + max_new_tokens) - width))
        chosen = GenerationConfig(
            max_new_tokens=room,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )

        def stop(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            look = (ids.shape[1] - width) % LOOK == 0
            texts = self.tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True) if look else [""] * len(ids)
            return torch.tensor([look and ended(text) for text in texts], device=ids.device)

        with torch.no_grad():
            written = self.model.generate(**inputs, generation_config=chosen, stopping_criteria=[stop])[:, width:]
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in written.tolist()]

    def predict(
        self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows", first: int = 0
    ) -> list[dict[str, Any]]:
        """Each row with `prediction`, and `score` or `spans`, added, in order.

        Args:
            rows: with the task's columns but its targets.
            source: what an error calls them.
            first: how many rows of the source stand before these.
        """
        if not rows:
            return []
        if self.unsure:
            return self._routed(rows, source, first)
        return [{**row, **answer.shown} for row, answer in zip(rows, self._answers(rows, source, first), strict=True)]

    def _routed(self, rows: Sequence[Mapping[str, Any]], source: str, first: int) -> list[dict[str, Any]]:
        """Every row answered by the head of the task it seems to belong to, which `head` names."""
        found = self.tasks_of(rows)
        answered: list[dict[str, Any]] = [{} for _ in rows]
        before = self.head
        for name in dict.fromkeys(found):
            self.head = self.names[name]
            members = [i for i, task in enumerate(found) if task == name]
            for i in members:
                _inputs(rows[i], self.task, f"{source}, row {first + i + 1}")  # named by its place among all rows
            for i, answer in zip(members, self._answers([rows[i] for i in members], source, first), strict=True):
                answered[i] = {**rows[i], **answer.shown, "head": name}
        self.head = before
        return answered

    def tasks_of(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The task of a stream that each row seems to belong to (`data.task_inference`).

        Raises:
            UserError: the artifact knows one task only, or no task can read the rows.
        """
        inference = self.opened.inference
        if inference is None:
            return [next(iter(self.opened.info.get("parts") or self.opened.readings))] * len(rows)
        texts = {}
        for name in inference.counts:
            several = [text_of(row, self.opened.readings[self.names[name]].task) for row in rows]
            if None not in several:
                texts[name] = [str(text) for text in several]
        if not texts:
            raise UserError(
                f"no task of the artifact can read these rows; name a head with --head ({', '.join(self.names)})."
            )
        return inference.infer(texts, self.tokenizer)

    def _answers(self, rows: Sequence[Mapping[str, Any]], source: str, first: int) -> list[Any]:
        """What the chosen head says of each row."""
        asked = [_inputs(row, self.task, f"{source}, row {first + i + 1}") for i, row in enumerate(rows)]
        encoded = self.task.encode(asked, self.tokenizer, self.max_length)
        named = sources.Rows(asked, source, "", range(first + 1, first + len(asked) + 1))
        features = [{**feature, "row": i} for i, several in located(encoded, named, 0) for feature in several]
        names = features[0] if features else ()
        columns = {name: ListedColumn([f[name] for f in features]) for name in names}
        scored = evaluate(
            self.model, self.task, asked, RaggedRows(columns), batch_size=self.batch_size, device=self.device,
            pad_id=self.tokenizer.pad_token_id, title="predict", predicting=True,
        )  # fmt: skip
        return list(scored.answers)


def _inputs(row: Mapping[str, Any], task: Any, where: str) -> dict[str, Any]:
    needed = [name for name in task.required if name not in task.targets]
    others = [other for name, other in task.stand_ins.items() if row.get(other) is not None]
    for name in needed:
        if row.get(name) is None and task.stand_ins.get(name) not in others:
            have = ", ".join(f"`{n}`" for n in row) or "nothing"
            raise DataError(f"{where}: `{name}` is missing or null (the row has {have}); give every row a `{name}`.")
    wanted = (*task.required, *task.optional, *others)
    found = {name: row[name] for name in wanted if name in row and name not in task.targets}
    for name, value in found.items():
        if isinstance(value, (list, tuple, dict, bytes)) and name not in task.structured:
            raise DataError(f"{where}: `{name}` is {called(value)}; it must be text.")
    return found


def _read(data: Any, columns: Mapping[str, str], task: Any) -> sources.Rows:
    if isinstance(data, (str, Path)):
        return sources.read(str(data), columns, task.required, task.optional, task.synonyms, task.plain_text)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return _read(sources.write_objects(data, Path(folder) / "rows.jsonl"), columns, task)


def load(
    folder: str | Path, *, device: str = "auto", dtype: str = "float32", batch_size: int = 64, task: str | None = None, base: str | None = None,
) -> Artifact:  # fmt: skip
    """Open an artifact, or a plain peft folder, for use.

    Args:
        folder: of the artifact.
        device: auto, cpu, cuda, mps.
        dtype: what it computes in.
        batch_size: rows per forward pass.
        task: of a plain peft folder: what it is for, where its own task type is not meant.
        base: of a plain peft folder: its base model, where the one that it names is not here.
    """
    from tunesmith.training.precision import pick_device

    if dtype not in get_args(Dtype):
        raise UserError(f"dtype `{dtype}` is not known; use one of {', '.join(get_args(Dtype))}.")
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": torch.float32}
    opened = open_artifact(folder, task=task, base=base)
    if kinds[dtype] != torch.float32:
        for parameter in (p for p in opened.heads.parameters() if p.is_floating_point()):
            parameter.data = parameter.data.to(kinds[dtype])
    return Artifact(opened, pick_device(device), batch_size)


def predict_file(artifact: Artifact, data: str, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Rows of a file with predictions, block by block, in order; other columns are kept."""
    task = artifact.task
    table, _ = sources.open_table(data, task.plain_text)
    needed = [name for name in task.required if name not in task.targets]
    optional = [name for name in (*task.optional, *task.stand_ins.values()) if name not in task.targets]
    there = {n: c for n, c in columns.items() if n not in task.targets}  # targets need not be there
    full = sources.with_synonyms(table.column_names, there, needed, task.synonyms)
    for name, other in task.stand_ins.items():
        if full.get(name, name) not in table.column_names and there.get(other, other) in table.column_names:
            needed.remove(name)
    there = sources.with_synonyms(table.column_names, there, (*needed, *optional), task.synonyms)
    sources.rename(table, data, there, needed, [n for n in optional if n in there])
    names = {there.get(n, n): n for n in (*needed, *optional)}
    objects = {columns.get(n, n) for n in task.structured} | {c for c, n in names.items() if n in task.structured}
    for start in range(0, len(table), BLOCK):
        block = table[start : start + BLOCK]
        records = [dict(zip(map(str, block), values, strict=True)) for values in zip(*block.values(), strict=True)]
        asked = [{name: record[source] for source, name in names.items() if source in record} for record in records]
        for offset, record in enumerate(asked):
            for name in needed:
                if record.get(name) is None:
                    raise DataError(
                        f"`{data}`, row {start + offset + 1}: `{name}` is null; fill it in or remove the row."
                    )
        predicted = artifact.predict(asked, source=data, first=start)
        for record, given, answer in zip(records, asked, predicted, strict=True):
            yield {**_unpacked(record, objects), **{k: v for k, v in answer.items() if k not in given}}


def _unpacked(record: Mapping[str, Any], objects: Collection[str]) -> dict[str, Any]:
    """A row as its file has it: objects, which a table keeps as JSON text, are objects again."""
    found = dict(record)
    for name in objects:
        value = found.get(name)
        if isinstance(value, str) and value[:1] in ("[", "{"):
            with suppress(ValueError):
                found[name] = json.loads(value)
    return found


def write_predictions(rows: Iterator[dict[str, Any]], output: Path) -> int:
    """Write rows as JSONL, atomically; returns how many."""
    if output.is_dir():
        raise UserError(f"`{output}` is a folder; give a file to write, for example {output / 'predictions.jsonl'}.")
    temporary = output.with_name(f".{output.name}.writing")
    with nothing_left(output.parent):
        return _write_lines(rows, output, temporary)


def _write_lines(rows: Iterator[dict[str, Any]], output: Path, temporary: Path) -> int:
    import os

    count = 0
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                count += 1
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(output)
    except OSError as error:
        raise SaveError(
            f"cannot write `{output}`: {error.strerror or error}; free some space or give another --output."
        ) from error
    finally:
        if temporary.is_file():
            temporary.unlink()
    return count
