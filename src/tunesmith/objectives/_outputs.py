"""What a teacher says of rows, computed once and kept on disk beside the student's own features.

    rows --teacher's tokenizer--> its features --teacher--> logits --aligned--> a table for every feature of the student

    logp    [n, K]     log-probabilities of the n decisions of a feature, where there are few choices K
    ids, logp, rest    [n, k], [n, k], [n]: the k likeliest of many choices, and the log of what all others have, at the temperature in use
    value   [n]        the number itself, of a regression
    logp    [T, 2]     start and end of an answer over the tokens of a window
    taught  [n]        1 where the teacher has a decision at the same place, else 0

Decisions meet by what a task says of them (`Task.aligned_by`): a row's label by the row, tags by the word, borders of answers by
characters, tokens by the text before them. Where the teacher reads exactly the student's features, they are read as they are.

The key holds everything that this depends on: the teacher's hash, the rows, both tokenizers, lengths, labels, k, precision and the
versions of this code and of the libraries, so that a stale entry has another name.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.cache import store
from tunesmith.cache.ragged import RaggedRows, RaggedWriter, open_rows
from tunesmith.console import progress
from tunesmith.data.batching import by_length
from tunesmith.data.encode import tokenizer_fingerprint
from tunesmith.data.sources import Rows
from tunesmith.errors import UserError
from tunesmith.objectives import _alignment as alignment
from tunesmith.objectives._base import Ground
from tunesmith.objectives._teacher import Opened, Teacher

CODE = 1  # part of the key: raise it when what is stored changes
CHUNK = 512  # rows read before they are written
Array = np.ndarray[Any, Any]


class Told:
    """What one teacher says of one set of rows.

    Attributes:
        tables: one for every feature of the student, in order.
        meta: provenance: `seconds`, `covered`, `bytes`, `found` (whether an earlier run had computed it).
    """

    def __init__(self, folder: Path, found: bool) -> None:
        self.tables = open_rows(folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
        self.meta = {**self.tables.meta, "bytes": size, "found": found}


def told(teacher: Teacher, ground: Ground, part: Any, rows: Rows, features: RaggedRows, options: Any) -> Told:
    """A teacher's outputs for rows, from the cache if they are there; else the teacher is opened and reads them.

    Args:
        teacher: not opened yet.
        ground: the run.
        part: the task of the stage.
        rows: its rows.
        features: as the student reads them.
        options: of the objective.

    Raises:
        UserError: teacher and student cannot be compared.
    """
    task, tokenizer = part.task, ground.heads.first.tokenizer
    key = store.key_of(
        code=CODE, teacher=teacher.sha256, rows=rows.sha256, columns=rows.table.column_names, task=task.name,
        options=task.options.model_dump(mode="json"), state=task.state_dict(), bound=task.encoding_key(), task_code=task.code_version,
        tokenizer=tokenizer_fingerprint(tokenizer), max_length=part.max_length, top_k=options.top_k, temperature=options.temperature,
        precision=options.precision, bound_of_cover=options.min_coverage,
        versions={name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
    )  # fmt: skip
    made = False

    def make(folder: Path) -> None:
        nonlocal made
        made = True
        started = time.perf_counter()
        opened = teacher.open(ground, part)
        writer, covered, decisions = RaggedWriter(folder), 0.0, 0
        reading = Reading(teacher.name, opened, ground, part, features, options)
        with progress() as bar:
            shown = bar.add_task("the teacher reads", total=len(rows))
            for start in range(0, len(rows), CHUNK):
                stop = min(start + CHUNK, len(rows))
                for table in reading.tables(rows, start, stop):
                    covered += float(table.pop("covered").sum())
                    decisions += len(table["taught"])
                    writer.append(table)
                share = covered / max(decisions, 1)
                if share < options.min_coverage:
                    texts = (
                        ", or learn from its texts: --set distillation.sequence=instead"
                        if part.task.blank(rows.table[0]) is None
                        else ""
                    )
                    raise UserError(
                        f"the vocabulary of the teacher `{teacher.name}` covers {share:.0%} of what the student is asked (at least "
                        f"{options.min_coverage:.0%} are needed); choose a teacher with a tokenizer like the student's, lower distillation.min_coverage"
                        f"{texts}."
                    )
                bar.advance(shown, stop - start)
        writer.close(
            {"seconds": time.perf_counter() - started, "covered": covered / max(decisions, 1), "decisions": decisions}
        )

    folder = store.folder("teacher", key, make)
    return Told(folder, not made)


class Reading:
    """A teacher that reads rows for a student."""

    def __init__(
        self, name: str, opened: Opened, ground: Ground, part: Any, features: RaggedRows, options: Any
    ) -> None:
        self.opened, self.ground, self.part, self.features, self.options = opened, ground, part, features, options
        self.owners = np.asarray([int(features.columns["row"][i]) for i in range(len(features))], np.int64)
        same = alignment.reads_the_same(opened, part, ground.heads.first.tokenizer, features)
        kind = alignment.Same if same else alignment.KINDS[part.task.aligned_by]
        self.aligned = kind(name, opened, part, ground)
        self.columns = self.aligned.columns()

    def tables(self, rows: Rows, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """The table of each of the student's features of some rows, in order."""
        first, last = np.searchsorted(self.owners, [start, stop])
        mine = [self.features[int(i)] for i in range(int(first), int(last))]
        block = rows.table[start:stop]
        records = [dict(zip(block, values, strict=True)) for values in zip(*block.values(), strict=True)]
        theirs, plan = self.aligned.plan(records, mine, start)
        said = self.read(theirs)
        for feature, (sources, taught) in zip(mine, plan, strict=True):
            yield self.table(feature, sources, taught, said)

    def read(self, features: Sequence[Mapping[str, Any]]) -> list[dict[str, Array]]:
        """What is kept of the decisions of each of the teacher's features."""
        found: list[Any] = [None] * len(features)
        pad_id, lengths = int(self.opened.tokenizer.pad_token_id), np.asarray([len(f["input_ids"]) for f in features])
        with torch.no_grad():
            for indices in by_length(lengths, self.ground.config.eval_batch_size):
                chosen = [features[int(i)] for i in indices]
                for index, logits in zip(indices, self.aligned.decide(chosen, pad_id), strict=True):
                    found[int(index)] = self.keep(logits.float())
        return found

    def keep(self, logits: torch.Tensor) -> dict[str, Array]:
        """Few choices whole, of many the likeliest; [n, K] in the teacher's order, or [T, 2] of borders."""
        if self.aligned.borders:
            return {"logp": self._numbers(logits), "covered": np.ones(1, np.float32)}
        if logits.shape[-1] == 1:
            return {"value": logits[:, 0].cpu().numpy().astype(np.float32), "covered": np.ones(len(logits), np.float32)}
        chosen = self.columns
        if not self.aligned.vocabulary:
            logits = logits if chosen is None else logits[:, chosen.to(logits.device)]
            if logits.shape[-1] <= self.options.top_k:
                return {"logp": self._numbers(logits.log_softmax(-1)), "covered": np.ones(len(logits), np.float32)}
            chosen = None
        log_p = (logits / self.options.temperature).log_softmax(-1)
        if chosen is None:
            covered = torch.ones(len(log_p))
        else:
            chosen = chosen.to(log_p.device)
            covered = log_p[:, chosen >= 0].exp().sum(1).clamp(max=1.0)
            log_p = log_p.masked_fill(chosen < 0, float("-inf"))
        top, ids = log_p.topk(min(self.options.top_k, log_p.shape[-1]), -1)
        rest = (1 - top.exp().sum(-1)).clamp(min=1e-13).log()
        ids = ids if chosen is None else chosen[ids].clamp(min=0)
        return {
            "ids": ids.cpu().numpy().astype(np.int32), "logp": self._numbers(top), "rest": self._numbers(rest),
            "covered": covered.cpu().numpy().astype(np.float32),
        }  # fmt: skip

    def _numbers(self, tensor: torch.Tensor) -> Array:
        kind = np.float16 if self.options.precision == "float16" else np.float32
        found: Array = tensor.clamp(min=-100.0).cpu().numpy().astype(kind)
        return found

    def table(self, feature: Mapping[str, Any], sources: Any, taught: Array, said: Sequence[Any]) -> dict[str, Any]:
        """The table of one of the student's features.

        Args:
            feature: the student's.
            sources: for every decision (the teacher's feature, its decision there); an int: all decisions of that feature.
            taught: 1 where there is one.
            said: from `read`.
        """
        if self.aligned.borders:
            found = self.aligned.spread(feature, said[sources], sources)
            return {**found, "taught": taught, "covered": taught.astype(np.float32)}
        if isinstance(sources, int):
            found = dict(said[sources])
        else:
            # A decision without a teacher takes the numbers of any other: its weight is 0.
            found = {
                name: np.stack([said[place][name][decision] for place, decision in sources]) if sources else column[:0]
                for name, column in said[0].items()
            }
        return self.aligned.finish(feature, {**found, "covered": found["covered"] * taught, "taught": taught})
