r"""Few-shot: the untouched model sees some solved training rows before each question, and nothing is trained (Brown et al. 2020, section 2).

    solved row 1, its answer          the shots: drawn by the seed, balanced over labels, the same before every row
    solved row 2, its answer
    the row                           -> the answer, as zero-shot reads it

Classification and entities are scored by the first token of each label's word, questions and instructions by what is written. Shots that do
not fit into the model's positions are left out, which is said. Models that fill gaps continue no examples and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tunesmith.baselines._asking import ASK, SHARE, Asker, kind_of, types_of, written
from tunesmith.baselines._base import Baseline, Guess
from tunesmith.config import Options as BaseOptions
from tunesmith.config import RunConfig, is_new
from tunesmith.console import warn
from tunesmith.data.sources import Rows
from tunesmith.data.splits import Roles
from tunesmith.errors import TechniqueError
from tunesmith.seeding import derive
from tunesmith.tasks._base import Task

LOOKED_AT = 2000  # rows of a fixed shuffle among which the shots are found


class Options(BaseOptions):
    """Options of few-shot."""

    shots: int = Field(4, ge=1, description="solved rows before every question, balanced over labels")
    template: str | None = Field(None, description="as in zero-shot, for the shots too")
    words: dict[str, str] = Field(
        default_factory=dict, description="the word that stands for a label, where its name does not"
    )
    max_rows: int | None = Field(
        None, ge=1, description="ask about the first N eval rows only; the others get the majority"
    )


class FewShot(Baseline):
    """The untouched model, asked in words behind solved rows."""

    Options = Options
    reads_model: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = (
        "text-classification",
        "token-classification",
        "question-answering",
        "instruction",
    )

    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """Draw the shots from the training rows, ask about every eval row."""
        if is_new(config.model):
            raise TechniqueError(f"{config.model} starts from random weights, so there is nothing to ask it.")
        shots = choose(task, roles.train, self.options.shots, config.seed)
        if task.name == "instruction":
            return Guess(*written(task, solved(task, shots, roles.eval, config), config, whole=True))
        asker = Asker.open(config, "few-shot")
        if asker.masked:
            raise TechniqueError(
                f"`{config.model}` fills gaps and does not continue examples: few-shot needs a decoder; zero-shot can ask it."
            )
        return Guess(*ASK[task.name](asker, self.options, task, roles, shots))


def choose(task: Any, train: Rows, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` training rows in an order drawn by the seed, as many of each label as of the others (within one).

    Of entities a shot is a row with one of its `word`s and the `label` of it; questions are balanced between those with and without
    an answer; rows without labels are simply drawn.
    """
    generator = np.random.default_rng(derive(seed, "few-shot"))
    groups: dict[Any, list[dict[str, Any]]] = {}
    for index in generator.permutation(len(train))[:LOOKED_AT].tolist():
        row = dict(train.table[index])
        for key, shot in _labelled(task, row, generator):
            groups.setdefault(key, []).append(shot)
    queues = [groups[key] for key in generator.permutation(sorted(groups, key=str)).tolist()] if groups else []
    found: list[dict[str, Any]] = []
    while len(found) < count and any(queues):
        found += [queue.pop(0) for queue in queues if queue][: count - len(found)]
    return [found[i] for i in generator.permutation(len(found)).tolist()]


def _labelled(task: Any, row: dict[str, Any], generator: np.random.Generator) -> list[tuple[str, dict[str, Any]]]:
    """What of a row can be a shot, with what it is balanced by."""
    if task.name == "text-classification" and task.problem == "single-label":
        return [(str(task.target(row["label"])), row)]
    if task.name == "token-classification":
        words, tags = task.words(row), [kind_of(task, tag) for tag in task.truth(row)]
        known = set(types_of(task))
        one = {
            tag: int(generator.permutation([i for i, t in enumerate(tags) if t == tag])[0])
            for tag in dict.fromkeys(tags)
            if tag in known
        }
        return [(tag, {**row, "word": words[i], "label": tag}) for tag, i in one.items()]
    if task.name == "question-answering":
        return [(str(bool(task.truth(row))), row)]
    return [("", row)]


def solved(task: Any, shots: Sequence[Mapping[str, Any]], rows: Rows, config: RunConfig) -> Rows:
    """Rows whose prompts begin with solved ones, as many as leave a quarter of the model's positions free."""
    from datasets import Dataset

    from tunesmith.models.load import load_tokenizer, locate, longest_input

    def asked(row: Mapping[str, Any]) -> str:
        return "\n\n".join(str(row[name]) for name in ("prompt", "input") if row.get(name))

    import transformers

    source = locate(config.model)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    room = longest_input(transformers.AutoConfig.from_pretrained(source.path), tokenizer)
    kept = list(shots)
    while kept:
        text = "".join(f"{asked(row)}\n\n{row['completion']}\n\n" for row in kept)
        if not room or len(tokenizer(text)["input_ids"]) <= SHARE * room:
            break
        kept.pop(0)
    if len(kept) < len(shots):
        warn(f"{len(kept)} of {len(shots)} shots fit into the {room} positions of the model.")
    before = "".join(f"{asked(row)}\n\n{row['completion']}\n\n" for row in kept)
    table = Dataset.from_list([{**row, "prompt": f"{before}{row['prompt']}"} for row in rows.table])
    return Rows(table, rows.source, f"{rows.sha256}-{derive(0, before)}", rows.numbers)
