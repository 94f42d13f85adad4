"""Checks of instruction tuning: completions that are whole, and not given away by their prompt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tunesmith.doctor.case import IGNORED, Case, Encoded, Part, folded, is_blank
from tunesmith.doctor.finding import Finding, counted, share

TOLD = 30  # characters from which a completion that stands in its prompt is no chance


def _pairs(part: Part) -> Iterator[tuple[int, str, str]]:
    columns = part.columns
    for i, (prompt, completion) in enumerate(
        zip(columns.get("prompt", []), columns.get("completion", []), strict=False)
    ):
        if isinstance(prompt, str) and isinstance(completion, str) and prompt.strip() and completion.strip():
            extra = columns["input"][i] if "input" in columns else None
            yield (
                i,
                folded(f"{prompt} {extra}" if isinstance(extra, str) and extra.strip() else prompt),
                folded(completion),
            )


def unusable(case: Case) -> Iterator[Finding]:
    """Prompts and completions that are empty; the task takes neither."""
    for part in case.parts.values():
        found = [i for i, value in enumerate(part.columns.get("completion", [])) if is_blank(value)]
        if found:
            yield part.finding(
                "error",
                "empty-completion",
                found,
                f"the completion is empty in {counted(len(found))}",
                "fill it in or remove the rows",
            )
        found = [i for i, value in enumerate(part.columns.get("prompt", [])) if is_blank(value)]
        if found:
            yield part.finding(
                "error",
                "empty-prompt",
                found,
                f"the prompt is empty in {counted(len(found))}",
                "fill it in or remove the rows",
            )


def told(case: Case) -> Iterator[Finding]:
    """Completions that are their prompt, stand in it, or repeat it before they answer."""
    for part in case.parts.values():
        same, inside, repeats = [], [], []
        for i, prompt, completion in _pairs(part):
            if prompt == completion:
                same.append(i)
            elif len(completion) >= TOLD and completion in prompt:
                inside.append(i)
            elif len(prompt) >= TOLD and completion.startswith(prompt):
                repeats.append(i)
        if same:
            yield part.finding(
                "warning",
                "completion-is-prompt",
                same,
                f"in {counted(len(same))} prompt and completion are the same",
                "remove them",
            )
        if inside:
            yield part.finding(
                "warning", "prompt-tells", inside, f"in {counted(len(inside))} the completion stands word for word in the prompt",
                "take it out of the prompt, unless quoting is the task",
            )  # fmt: skip
        if repeats:
            yield part.finding(
                "warning", "completion-repeats", repeats, f"in {counted(len(repeats))} the completion begins with the whole prompt",
                "leave the prompt out of the completion; the model would learn to repeat it",
            )  # fmt: skip


def cut(case: Case) -> Iterator[Finding]:
    """Completions that are cut (instruction.long_completion=cut) or longer than what the model may write."""
    most = int(case.option("max_new_tokens", 128))
    for part in case.parts.values():
        encoded: Encoded | None = part.encoded
        if encoded is None or encoded.labels is None or case.option("train_on_prompt", False):
            continue
        sizes = encoded.count_labels(encoded.labels != IGNORED)
        beyond = np.flatnonzero(sizes > most)
        if len(beyond):
            yield part.finding(
                "warning", "target-too-long", beyond,
                f"the completion of {share(len(beyond), len(part))} rows is longer than the {most} tokens that the model may write",
                "raise instruction.max_new_tokens",
            )  # fmt: skip


ROW_CHECKS = [unusable, told]
ENCODED_CHECKS = [cut]
