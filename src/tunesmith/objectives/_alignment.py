"""Where a teacher's decisions meet a student's, for models that read text differently.

same        the teacher reads the student's own features          one tokenizer
row         one decision a row (or one for each of its labels)    any tokenizers
word        one decision a word, wherever its sub-tokens lie      any tokenizers
character   start and end of an answer, by the characters that a token stands for; the teacher reads each of the student's windows
text        the next token after the same text (`_vocabulary`)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.cache.ragged import RaggedRows
from tunesmith.data.encode import tokenizer_fingerprint
from tunesmith.errors import UserError
from tunesmith.objectives import _vocabulary as vocabulary
from tunesmith.objectives._teacher import Opened, match_labels
from tunesmith.tasks._base import IGNORED
from tunesmith.tasks._chunked import logits_by_group

Array = np.ndarray[Any, Any]
Features = Sequence[Mapping[str, Any]]
Plan = Iterator[tuple[Any, Array]]
"""For each of the student's features (the teacher's feature and the decision in it, of every decision; an int: all of that feature's),
and 1 where there is one."""


def reads_the_same(opened: Opened, part: Any, tokenizer: Any, features: RaggedRows) -> bool:
    """Whether a teacher can read the student's very features."""
    task, longest = part.task, int(features.lengths.max()) if len(features) else 0
    # Models with segments mark two texts beside each other by them; of one text nobody needs to know.
    pairs = sum(name in part.roles.train.table.column_names for name in task.inputs) > 1 and task.aligned_by != "text"
    segments = "token_type_ids" in features.columns
    return (
        (not (pairs or segments) or segments == ("token_type_ids" in opened.tokenizer.model_input_names))
        and opened.fingerprint == tokenizer_fingerprint(tokenizer)
        and opened.task.encoding_key() == task.encoding_key()
        and (opened.positions is None or longest <= opened.positions)
        and getattr(opened.task.options, "label_on", None) == getattr(task.options, "label_on", None)
    )


def asked(task: Any, feature: Mapping[str, Any]) -> Array:
    """Ids of the tokens that the decisions of a language model's feature are about, in order."""
    labels = np.asarray(feature["labels"])
    labels = labels if task.kind == "encoder-decoder" else labels[1:]
    return labels[labels != IGNORED]


class Same:
    """The teacher reads the student's features; also what all others are built on."""

    def __init__(self, name: str, opened: Opened, part: Any, ground: Any) -> None:
        self.name, self.opened, self.part, self.ground = name, opened, part, ground
        self.task = part.task
        self.borders = part.task.aligned_by == "character"
        self.labels = match_labels(name, part.task, opened.task)
        self.vocabulary = False

    def columns(self) -> torch.Tensor | None:
        """Places of the student's choices among the teacher's; with `vocabulary` the student's id of each of the teacher's, or -1."""
        if self.task.aligned_by != "text":
            return None if self.borders else self.labels
        mine, theirs = outputs(self.ground.heads[self.part.head].model), outputs(self.opened.model)
        if mine == theirs:
            return None
        self.vocabulary = True
        found = torch.arange(theirs)
        return torch.where(found < mine, found, -1)

    def plan(self, records: Features, mine: Features, start: int) -> tuple[Features, Plan]:
        """The teacher's features for some rows, and where the student's decisions are among them.

        Args:
            records: the rows.
            mine: the student's features of them.
            start: number of the first row.
        """
        return mine, ((place, np.ones(self.count(feature), np.int8)) for place, feature in enumerate(mine))

    def count(self, feature: Mapping[str, Any]) -> int:
        """Decisions in one of the student's features."""
        if self.task.aligned_by == "row":
            return len(self.task.labels) if self.several else 1
        if self.borders:
            return 1
        if self.task.aligned_by == "word":
            return int((np.asarray(feature["labels"]) != IGNORED).sum())
        return len(asked(self.task, feature))

    @property
    def several(self) -> bool:
        """Whether every label is a decision of its own."""
        return getattr(self.task, "problem", "") == "multi-label"

    def decide(self, features: Features, pad_id: int) -> Iterable[torch.Tensor]:
        """Logits of the decisions of each feature, [n, K], over a vocabulary made for some features at a time; of borders their
        log-probabilities, [T, 2].
        """
        reader = self.task if type(self) is Same else self.opened.task
        batch = {n: t.to(self.ground.device) for n, t in reader.collate(features, pad_id).items()}
        if self.ground.config.training.chunked_loss and self.task.aligned_by == "text":
            before = self.opened.before_head(batch)
            if before is not None:
                return logits_by_group(before, (batch["labels"] != IGNORED).sum(1).tolist())
        logits = self.opened.task.distribution(self.opened.task.forward(self.opened.model, batch), batch)
        if self.borders:
            pairs = logits.unflatten(0, (len(features), 2)).transpose(1, 2)
            return [pair[: len(f["input_ids"])] for pair, f in zip(pairs, features, strict=True)]
        if self.several:
            table = logits.unflatten(0, (len(features), -1))
            return list(table if self.labels is None else table[:, self.labels.to(table.device)])
        if self.task.aligned_by == "row":
            return list(logits[:, None])
        counts = (batch["labels"] != IGNORED).sum(1).tolist()
        return list(logits.split(counts))

    def spread(self, feature: Mapping[str, Any], said: Mapping[str, Array], source: int) -> dict[str, Any]:
        """Borders over the tokens of one of the student's windows."""
        return {"logp": said["logp"]}

    def finish(self, feature: Mapping[str, Any], table: dict[str, Any]) -> dict[str, Any]:
        """The table of a feature once its decisions are there."""
        return table


class Row(Same):
    """A row is one decision, however it was tokenised."""

    def plan(self, records: Features, mine: Features, start: int) -> tuple[Features, Plan]:
        """One feature a row."""
        (theirs,) = zip(*encode(self.opened, without_targets(records, self.task)), strict=True)
        rows = [int(feature["row"]) - start for feature in mine]
        return theirs, ((row, np.ones(self.count(feature), np.int8)) for row, feature in zip(rows, mine, strict=True))


class Word(Same):
    """Tags of words; a word's further sub-tokens continue what its first one begins."""

    def plan(self, records: Features, mine: Features, start: int) -> tuple[Features, Plan]:
        """Windows of the teacher's own, in which every word is decided once."""
        theirs: list[Mapping[str, Any]] = []
        known: list[dict[int, tuple[int, int]]] = []
        for several in encode(self.opened, without_targets(records, self.task)):
            found = {}
            for feature in several:
                found.update({int(word): (len(theirs), i) for i, word in enumerate(feature["words"])})
                theirs.append(feature)
            known.append(found)

        def each() -> Plan:
            for feature in mine:
                decided = known[int(feature["row"]) - start]
                places = [decided.get(word) for word in self.words(feature)]
                yield (
                    [place or (0, 0) for place in places],
                    np.asarray([place is not None for place in places], np.int8),
                )

        return theirs, each()

    def words(self, feature: Mapping[str, Any]) -> list[int]:
        """The word of every labelled sub-token."""
        labelled = np.flatnonzero(np.asarray(feature["labels"]) != IGNORED)
        at = np.searchsorted(np.asarray(feature["places"]), labelled, side="right") - 1
        return [int(word) for word in np.asarray(feature["words"])[at.clip(min=0)]]

    def decide(self, features: Features, pad_id: int) -> list[torch.Tensor]:
        """Logits at the sub-token that decides each word."""
        batch = {n: t.to(self.ground.device) for n, t in self.opened.task.collate(features, pad_id).items()}
        logits = self.opened.task.forward(self.opened.model, batch).logits
        return [
            table[torch.as_tensor(np.asarray(f["places"], np.int64))] for table, f in zip(logits, features, strict=True)
        ]

    def finish(self, feature: Mapping[str, Any], table: dict[str, Any]) -> dict[str, Any]:
        """Where further sub-tokens are trained, what a first one gives to B-X they give to I-X."""
        labelled = np.flatnonzero(np.asarray(feature["labels"]) != IGNORED)
        later = ~np.isin(labelled, np.asarray(feature["places"]))
        if later.any() and "logp" in table and "ids" not in table:
            p = np.exp(table["logp"].astype(np.float64))
            for number, name in enumerate(self.task.labels):
                inner = f"I-{name[2:]}"
                if self.task.scheme == "bio" and name.startswith("B-") and inner in self.task.labels:
                    p[later, self.task.labels.index(inner)] += p[later, number]
                    p[later, number] = 0
            table["logp"] = np.log(p.clip(min=1e-13)).astype(table["logp"].dtype)
        return table


class Character(Same):
    """Borders of answers: the teacher reads the text of each of the student's windows."""

    def plan(self, records: Features, mine: Features, start: int) -> tuple[Features, Plan]:
        """One feature for each window of the student.

        Raises:
            UserError: the teacher needs several for one.
        """
        asked_of, self.shifts = [], []
        for feature in mine:
            row = records[int(feature["row"]) - start]
            begins, ends = np.asarray(feature["begins"]), np.asarray(feature["ends"])
            real = begins >= 0
            low, high = (int(begins[real].min()), int(ends[real].max())) if real.any() else (0, 0)
            asked_of.append({"question": row["question"], "context": str(row["context"])[low:high]})
            self.shifts.append(low)
        self.theirs: list[Mapping[str, Any]] = []
        for several in encode(self.opened, asked_of):
            if len(several) != 1:
                raise UserError(
                    f"the teacher `{self.name}` has another tokenizer and cannot read a window of the student at once (it is cut to "
                    f"{self.opened.max_length} tokens); lower --max-length."
                )
            self.theirs += several
        return self.theirs, ((place, np.ones(1, np.int8)) for place in range(len(mine)))

    def spread(self, feature: Mapping[str, Any], said: Mapping[str, Array], source: int) -> dict[str, Any]:
        """What the teacher gives to a token goes to the student's token with the same first (of an end: last) character."""
        theirs, shift = self.theirs[source], self.shifts[source]
        begins, ends = np.asarray(feature["begins"]), np.asarray(feature["ends"])
        p = np.exp(said["logp"].astype(np.float64))
        found = np.zeros((len(begins), 2))
        for token in np.flatnonzero(np.asarray(theirs["begins"]) >= 0):
            for side, character in enumerate((theirs["begins"][token], theirs["ends"][token] - 1)):
                at = np.flatnonzero((begins <= character + shift) & (character + shift < ends))
                if len(at):
                    found[at[0], side] += p[token, side]
        found[self.task.null(len(begins))] += p[self.opened.task.null(len(p))]
        return {"logp": np.log((found / found.sum(0).clip(min=1e-9)).clip(min=1e-13)).astype(said["logp"].dtype)}


class Text(Same):
    """Next tokens after the same text, over tokens of the same string."""

    def columns(self) -> torch.Tensor:
        """By string."""
        self.vocabulary = True
        tokenizer, model = self.ground.heads.first.tokenizer, self.ground.heads[self.part.head].model
        self.mine = vocabulary.surfaces(tokenizer, getattr(self.task, "stops", ()))
        self.other = vocabulary.surfaces(self.opened.tokenizer, getattr(self.opened.task, "stops", ()))
        return torch.from_numpy(vocabulary.columns(self.mine[: outputs(model)], self.other, outputs(self.opened.model)))

    def plan(self, records: Features, mine: Features, start: int) -> tuple[Features, Plan]:
        """The teacher's features of the same rows; decisions meet within each row."""
        theirs: list[Mapping[str, Any]] = []
        decisions: list[tuple[list[tuple[int, int]], list[bytes]]] = []
        for several in encode(self.opened, records):
            places: list[tuple[int, int]] = []
            words: list[bytes] = []
            for feature in several:
                ids = asked(self.opened.task, feature)
                places += [(len(theirs), i) for i in range(len(ids))]
                words += [self.other[int(i)] for i in ids]
                theirs.append(feature)
            decisions.append((places, words))
        mentioned = [[self.mine[int(i)] for i in asked(self.task, feature)] for feature in mine]
        rows = [int(feature["row"]) - start for feature in mine]

        def each() -> Plan:
            at = 0
            while at < len(mine):
                end = next((i for i in range(at, len(mine)) if rows[i] != rows[at]), len(mine))
                places, words = decisions[rows[at]]
                met = vocabulary.meet([w for several in mentioned[at:end] for w in several], words)
                for several in mentioned[at:end]:
                    now, met = met[: len(several)], met[len(several) :]
                    yield [places[i] if i >= 0 else (0, 0) for i in now.tolist()], (now >= 0).astype(np.int8)
                at = end

        return theirs, each()


KINDS = {"row": Row, "word": Word, "character": Character, "text": Text}


def outputs(model: Any) -> int:
    """Rows of a language model's output layer."""
    return int(model.get_output_embeddings().weight.shape[0])


def encode(opened: Opened, records: Features) -> Iterator[Sequence[dict[str, Any]]]:
    """The features of rows as a teacher reads them."""
    return iter(opened.task.encode(records, opened.tokenizer, opened.max_length))


def without_targets(records: Features, task: Any) -> list[dict[str, Any]]:
    """Rows as they are asked."""
    return [{name: value for name, value in row.items() if name not in task.targets} for row in records]
