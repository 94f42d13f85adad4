r"""Zero-shot: the untouched model is asked in words, and nothing is trained (Brown et al. 2020, section 2; Schick & Schütze 2021).

A decoder continues a template, a masked model fills its gap, and each label is scored by the first token of its word:

    text-classification    "{text}\\nQuestion: ... Answer:"  -> the label whose word is likeliest
    token-classification   the sentence, then `"{word}" is a`  -> the type whose word is likeliest, or none
    question-answering     context and question  -> what the model writes (decoders)
    the others             the untouched model under the task itself

A model whose checkpoint brings no language-model head cannot be asked, and the row says so.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tunesmith.baselines._asking import ASK, Asker, written
from tunesmith.baselines._base import Baseline, Guess
from tunesmith.config import Options as BaseOptions
from tunesmith.config import RunConfig, is_new
from tunesmith.data.splits import Roles
from tunesmith.errors import TechniqueError
from tunesmith.tasks._base import Task


class Options(BaseOptions):
    """Options of zero-shot."""

    template: str | None = Field(
        None,
        description="the text with {text} (or {word} and {labels}), up to where the label stands; default: one for each task",
    )
    words: dict[str, str] = Field(
        default_factory=dict, description="the word that stands for a label, where its name does not"
    )
    max_rows: int | None = Field(
        None, ge=1, description="ask about the first N eval rows only; the others get the majority"
    )


class ZeroShot(Baseline):
    """The untouched model, asked in words."""

    Options = Options
    reads_model: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = (
        "text-classification", "token-classification", "question-answering", "summarization", "instruction", "chat", "language-modeling",
    )  # fmt: skip

    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """Ask about every eval row."""
        if is_new(config.model):
            raise TechniqueError(f"{config.model} starts from random weights, so there is nothing to ask it.")
        if task.name in ASK:
            values, loss = ASK[task.name](Asker.open(config, "zero-shot"), self.options, task, roles)
        else:
            values, loss = written(task, roles.eval, config)
        return Guess(values, loss)
