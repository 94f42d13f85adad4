"""What a reader needs to repeat or to doubt a comparison: protocol, versions, hardware, hashes, as label and value.

Keys of the protocol that this module does not know are still shown, under their own name, so that nothing the runner
recorded is lost on the way to the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunesmith.compare import format as human

Fact = tuple[str, str]
SHOWN_ELSEWHERE = frozenset({"command", "versions", "hardware", "primary", "higher_is_better", "self_tests"})
KNOWN = SHOWN_ELSEWHERE | {
    *("model", "task", "train", "validation", "eval", "rows", "seeds", "epochs", "max_steps", "batch_size"),
    *("strategies", "alone", "stream", "judging", "budget", "grid", "jobs", "threads", "ray"),
    *("techniques", "baselines", "created", "wall_seconds", "data_sha256", "model_sha256"),
}


def protocol_facts(protocol: Mapping[str, Any]) -> list[Fact]:
    """Data, budget and seeds, in the order in which a reader asks for them."""
    rows = protocol.get("rows") or {}
    facts: list[Fact] = [("Model", _text(protocol.get("model"))), ("Task", _text(protocol.get("task")))]
    facts += _stages(protocol.get("stream") or [], rows)
    for part in ("train", "validation", "eval") if not protocol.get("stream") else ():
        source, number = protocol.get(part), rows.get(part)
        if source or number:
            facts.append((f"Data, {part}", _join([_text(source) if source else "cut from train", _rows(number)])))
    facts += [
        ("Seeds", _listed(protocol.get("seeds"))),
        ("Budget", _budget(protocol)),
        *spread_facts(protocol),
        ("Techniques", _listed(protocol.get("techniques") if not protocol.get("stream") else None)),
        ("Strategies", _listed(protocol.get("strategies"))),
        ("Trained alone", "each task, as reference" if protocol.get("alone") else ""),
        ("Baselines", _listed(protocol.get("baselines"))),
        ("Judged by", _judged(protocol.get("judging"))),
        ("Created", _text(protocol.get("created"))),
        ("Wall time", human.seconds(protocol.get("wall_seconds"))),
        ("Data SHA-256", _text(protocol.get("data_sha256"))),
        ("Model SHA-256", _text(protocol.get("model_sha256"))),
    ]
    facts += [(key.replace("_", " "), _text(value)) for key, value in protocol.items() if key not in KNOWN]
    return [fact for fact in facts if fact[1] not in ("", human.MISSING)]


def _stages(stages: Iterable[Mapping[str, Any]], rows: Mapping[str, Any]) -> list[Fact]:
    """Stages of a stream in their order: task, source and rows of each of their tasks."""
    facts = []
    for number, stage in enumerate(stages, 1):
        told = []
        for task in stage["tasks"]:
            counts = rows.get(task["name"]) or {}
            shown = f"{counts['train']:,} rows to learn, {counts['eval']:,} to measure" if counts else ""
            name = f"{task['name']}: " if len(stage["tasks"]) > 1 else ""
            told.append(name + _join([task.get("task", "text-classification"), _last_name(task["train"]), shown]))
        facts.append((f"Stage {number}, {stage['name']}", "; ".join(told)))
    return facts


def spread_facts(protocol: Mapping[str, Any]) -> list[Fact]:
    """What was studied, the time box, and where runs ran."""
    facts = [(f"Studied, {key}", _listed(values)) for key, values in (protocol.get("grid") or {}).items()]
    box = protocol.get("budget")
    if box:
        steps = f"{box['steps']:,} steps a run" + (
            f" of {box['asked_steps']:,} asked for" if box["steps"] < box["asked_steps"] else ""
        )
        rungs = ", ".join(human.share(share) for share in box["rungs"][:-1])
        judged = f"judged on validation rows at {rungs} of the steps" if rungs else ""
        facts.append(
            (
                "Time box",
                _join(
                    [
                        f"{box['given']} ({human.seconds(box['seconds'])}, {human.seconds(box['spent'])} used)",
                        steps,
                        judged,
                    ]
                ),
            )
        )
    if protocol.get("jobs"):
        facts.append(
            (
                "Runs at once",
                f"{protocol['jobs']} with {protocol['threads']} thread{'s' * (protocol['threads'] > 1)} each",
            )
        )
    if protocol.get("ray"):
        facts.append(("Ray cluster", f"{protocol['ray']['nodes']} nodes, {protocol['ray']['cpus']:g} cores"))
    return facts


def machine_facts(protocol: Mapping[str, Any]) -> list[Fact]:
    """The hardware, then the version of each library."""
    hardware = dict(protocol.get("hardware") or {})
    facts = []
    if hardware:
        memory = hardware.pop("memory_bytes", None)
        facts = [("CPU", _text(hardware.pop("cpu", None))), ("Cores", _text(hardware.pop("cores", None)))]
        facts += [("Memory", human.in_bytes(memory)), ("GPU", _text(hardware.pop("gpu", None) or "none"))]
        facts += [(key.replace("_", " "), _text(value)) for key, value in hardware.items()]
    facts += [(name, _text(version)) for name, version in (protocol.get("versions") or {}).items()]
    return [fact for fact in facts if fact[1] != human.MISSING]


def self_test_facts(protocol: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The self-tests with their numbers as people read them."""
    return [
        {
            **each,
            **{key: f"{each[key]:.4g}" if isinstance(each[key], float) else each[key] for key in ("expected", "found")},
        }
        for each in protocol.get("self_tests") or []
    ]


def title(protocol: Mapping[str, Any]) -> str:
    """The page's title: the task, the model and the data, by their last names."""
    task, model, data = (protocol.get(key) for key in ("task", "model", "train"))
    stages = protocol.get("stream")
    if stages:
        counted = f"a stream of {len(stages)} stages" if len(stages) > 1 else "one stage of several tasks"
        return f"{counted[0].upper()}{counted[1:]}" + (f" with {_last_name(model)}" if model else "")
    text = str(task or "Techniques")
    text += f" with {_last_name(model)}" if model else ""
    return text + (f" on {_last_name(data)}" if data else "")


def _last_name(source: object) -> str:
    """`bert-tiny` of `asset:bert-tiny`, `reviews.jsonl` of `/data/reviews.jsonl`."""
    name = source if isinstance(source, str) else json.dumps(source, ensure_ascii=False)
    return name.removeprefix("asset:").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or name


def _budget(protocol: Mapping[str, Any]) -> str:
    steps, epochs, batch = (protocol.get(key) for key in ("max_steps", "epochs", "batch_size"))
    parts = []
    if steps:
        parts.append(f"{steps:,} steps")
    elif epochs:
        parts.append(f"{epochs:g} epoch{'' if epochs == 1 else 's'}")
    if batch:
        parts.append(f"batches of {batch}")
    return _join(parts)


def _judged(about: Mapping[str, Any] | None) -> str:
    """How ties were told."""
    if not about:
        return ""
    drawn = "rows and seeds" if about["seeds"] > 1 else "rows"
    return f"{about['method']} against {about['best']}: {about['resamples']:,} resamples of {drawn}, {about['rows']:,} eval rows, 95 % intervals"


def _rows(number: int | None) -> str:
    return "" if number is None else f"{number:,} rows"


def _listed(values: Iterable[Any] | None) -> str:
    return _join([_text(value) for value in values or []])


def _join(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part) or human.MISSING


def _text(value: object) -> str:
    if value is None or value == "":
        return human.MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def noticed(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What guards said of runs in training: each pitfall of a technique (and strategy, and stage) once, with the seeds that had it."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in runs:
        name = " with ".join(str(each) for each in (run["technique"], run.get("strategy")) if each)
        for each in run.get("warnings") or []:
            place = (name, str(each.get("stage") or ""), str(each["guard"]))
            found.setdefault(place, {"message": each["message"], "seeds": []})["seeds"].append(run["seed"])
    return [
        {
            "name": name,
            "where": ", ".join(
                [
                    *([f"stage {stage}"] if stage else []),
                    f"seed{'s' if len(each['seeds']) > 1 else ''} {', '.join(map(str, each['seeds']))}",
                ]
            ),
            "message": each["message"],
        }
        for (name, stage, _), each in found.items()
    ]
