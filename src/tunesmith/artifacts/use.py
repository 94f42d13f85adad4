"""Use an artifact: score it on rows, or predict for rows, in fp32 unless asked otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from tunesmith import trust
from tunesmith.artifacts.store import Opened, open_artifact
from tunesmith.cache.ragged import ListedColumn, RaggedRows
from tunesmith.config import Dtype
from tunesmith.data import sources
from tunesmith.data.encode import encode, located, refuse_nothing
from tunesmith.data.task_inference import text_of
from tunesmith.errors import DataError, UserError, called, unknown
from tunesmith.evaluation import code
from tunesmith.evaluation.embed import embed
from tunesmith.evaluation.evaluate import Scored, evaluate

AUTO = "auto"  # in place of a head's name: each row by the task it seems to belong to
CODE_TASKS = ("language-modeling", "instruction")
LOOK = 8  # tokens written between two looks at the text
Watch = Callable[[int], None]


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
        opened.heads.to(device)

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
        self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows", first: int = 0, watch: Watch | None = None
    ) -> list[dict[str, Any]]:
        """Each row with `prediction`, and `score` or `spans`, added, in order.

        Args:
            rows: with the task's columns but its targets.
            source: what an error calls them.
            first: how many rows of the source stand before these.
            watch: called with the number of features that are done, in place of a progress bar.
        """
        answered: list[dict[str, Any]] = [{} for _ in rows]
        for name, members in self._by_head(rows):
            found = self._answers([rows[i] for i in members], source, [first + i + 1 for i in members], watch)
            for i, answer in zip(members, found, strict=True):
                answered[i] = {**rows[i], **answer.shown, **({"head": name} if self.unsure else {})}
        return answered

    def embed(
        self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows", first: int = 0, watch: Watch | None = None
    ) -> np.ndarray[Any, Any]:
        """The vector that the head reads of each row, [rows, d]; where it reads every token, the mean of the backbone's last states.

        Args:
            rows: as `predict` takes them.
            source: what an error calls them.
            first: how many rows of the source stand before these.
            watch: called with the number of features that are done, in place of a progress bar.
        """
        table = np.zeros((len(rows), self.opened.loaded.backbone.hidden_size), np.float32)
        for _, members in self._by_head(rows):
            asked, encoded = self._encoded([rows[i] for i in members], source, [first + i + 1 for i in members])
            table[members] = embed(
                self.opened.heads[self.head].backbone, self.task, encoded, len(asked), batch_size=self.batch_size,
                device=self.device, pad_id=self.tokenizer.pad_token_id, watch=watch,
            )  # fmt: skip
        return table

    def _by_head(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[int]]]:
        """Places of the rows that a head answers, which is the chosen one meanwhile: all of them, or those of each task by itself."""
        if not self.unsure or not rows:
            yield from [(self.head, list(range(len(rows))))] if rows else []
            return
        found, before = self.tasks_of(rows), self.head
        try:
            for name in dict.fromkeys(found):
                self.head = self.names[name]
                yield name, [i for i, task in enumerate(found) if task == name]
        finally:
            self.head = before

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

    def _encoded(
        self, rows: Sequence[Mapping[str, Any]], source: str, numbers: Sequence[int]
    ) -> tuple[list[dict[str, Any]], RaggedRows]:
        """What the chosen head is asked, and the features of that; an error names a row by its number."""
        asked = [_inputs(row, self.task, f"{source}, row {number}") for row, number in zip(rows, numbers, strict=True)]
        encoded = self.task.encode(asked, self.tokenizer, self.max_length)
        named = sources.Rows(asked, source, "", numbers)
        features = [{**feature, "row": i} for i, several in located(encoded, named, 0) for feature in several]
        names = features[0] if features else ()
        return asked, RaggedRows({name: ListedColumn([f[name] for f in features]) for name in names})

    def _answers(
        self, rows: Sequence[Mapping[str, Any]], source: str, numbers: Sequence[int], watch: Watch | None
    ) -> list[Any]:
        """What the chosen head says of each row."""
        asked, encoded = self._encoded(rows, source, numbers)
        scored = evaluate(
            self.model, self.task, asked, encoded, batch_size=self.batch_size, device=self.device,
            pad_id=self.tokenizer.pad_token_id, title="predict", predicting=True, watch=watch,
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
    labels: Sequence[str] | None = None, trust_remote_code: bool = False,
) -> Artifact:  # fmt: skip
    """Open an artifact, or a plain peft folder, for use.

    Args:
        folder: of the artifact.
        device: auto, cpu, cuda, mps.
        dtype: what it computes in.
        batch_size: rows per forward pass.
        task: of a plain peft folder: what it is for, where its own task type is not meant.
        base: of a plain peft folder: its base model, where the one that it names is not here.
        labels: of a plain peft folder: names of a classifier's outputs, in their order.
        trust_remote_code: run code that its base model brings along, if it asks for that.
    """
    from tunesmith.training.precision import pick_device

    if dtype not in get_args(Dtype):
        raise UserError(f"dtype `{dtype}` is not known; use one of {', '.join(get_args(Dtype))}.")
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": torch.float32}
    with trust.remote_code(trust_remote_code):
        opened = open_artifact(folder, task=task, base=base, labels=labels)
    if kinds[dtype] != torch.float32:
        for parameter in (p for p in opened.heads.parameters() if p.is_floating_point()):
            parameter.data = parameter.data.to(kinds[dtype])
    return Artifact(opened, pick_device(device), batch_size)
