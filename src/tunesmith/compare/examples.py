"""Eval rows that techniques disagree on: what a difference of scores looks like.

Each technique answers by its first finished seed. Of the rows that they answer differently those come first that divide them most evenly into right
and wrong, by p (1 - p) with p the share that is right; then those with most different answers; then the first. Tasks without answers that can be
told apart (language models) have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.tasks._base import Answer

if TYPE_CHECKING:
    from tunesmith.compare.judging import Answers, Scene

LONGEST = 320  # characters of an input
ANSWER = 120  # characters of an answer or target


def choose(answers: Sequence[Answers], scene: Scene, most: int) -> list[dict[str, Any]]:
    """The rows to show: number, input, target, and each technique's answer and whether it is right.

    Args:
        answers: of all runs.
        scene: the eval rows.
        most: how many.
    """
    if not most or scene.task.name == "language-modeling":
        return []
    first: dict[tuple[Any, str], Answers] = {}
    for each in answers:
        if each.run["kind"] == "technique":
            setting = each.run.get("setting")
            name = f"{each.run['technique']} with {setting}" if setting else str(each.run["technique"])
            first.setdefault((each.run["model"], name), each)
    several = len({model for model, _ in first}) > 1
    named = {(f"{name}, {model}" if several else str(name)): each for (model, name), each in first.items()}
    if len(named) < 2:
        return []
    ranked = []
    for place in range(len(scene.table)):
        said = {name: each.lines[place].get("prediction") for name, each in named.items()}
        if any(value is None for value in said.values()):
            continue
        different = len({as_text(value) for value in said.values()})
        if different > 1:
            right = {
                name: is_right(each.lines[place], value, scene, place)
                for (name, each), value in zip(named.items(), said.values(), strict=True)
            }
            share = sum(bool(value) for value in right.values()) / len(right)
            ranked.append((-share * (1 - share), -different, place, said, right))
    ranked.sort(key=lambda item: item[:3])
    return [shown(place, said, right, scene) for _, _, place, said, right in ranked[:most]]


def shown(place: int, said: Mapping[str, Any], right: Mapping[str, bool | None], scene: Scene) -> dict[str, Any]:
    """One row as the report has it, cut to what can be read at a glance."""
    row = scene.table[place]
    question = {name: value for name, value in scene.task.question_of(row).items() if value not in (None, "")}
    targets = {name: row[name] for name in scene.task.targets if name in row}
    return {
        "row": place + 1,
        "input": {name: cut(as_text(value), LONGEST) for name, value in question.items() if name not in targets},
        "target": cut(target_of(scene, place, targets), ANSWER),
        "answers": [
            {"technique": name, "answer": cut(as_text(value), ANSWER), "right": right[name]}
            for name, value in said.items()
        ],
    }


def is_right(line: Mapping[str, Any], value: Any, scene: Scene, place: int) -> bool | None:
    """Whether an answer is right altogether; None where that is no question (numbers)."""
    task, true = scene.task, scene.truths[place]
    if task.name == "text-classification":
        if task.problem == "regression":
            return None
        there = task.truth(task.with_answer(scene.table[place], Answer(None, {"prediction": value}, [])))
        return bool((there == true).all()) if task.problem == "multi-label" else int(there) == int(true)
    if task.name == "token-classification":
        return [str(tag) for tag in value] == [str(tag) for tag in true]
    if task.name == "question-answering":
        return bool(line.get("counts", {}).get("exact2" if not true else "exact"))
    return as_text(value).strip() == as_text(true).strip()


def target_of(scene: Scene, place: int, targets: Mapping[str, Any]) -> str:
    """What was wanted, as people read it."""
    true = scene.truths[place]
    if scene.task.name == "text-classification":
        return as_text(targets.get("label"))
    if scene.task.name == "question-answering":
        return " | ".join(dict.fromkeys(map(str, true))) or "(no answer)"
    return as_text(true)


def as_text(value: Any) -> str:
    """An answer in one line: a list by commas, nothing as such."""
    if isinstance(value, str):
        return " ".join(value.split()) or "(nothing)"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        if all(isinstance(each, (str, int)) for each in value):
            return " ".join(map(str, value)) or "(nothing)"
        return json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else str(value)


def cut(text: str, length: int) -> str:
    """The beginning of a long text."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
