"""What a distilled student keeps of its teachers' quality, and gains in size and speed, all measured in the run that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.console import say
from tunesmith.metrics import higher_is_better
from tunesmith.objectives._base import Ground
from tunesmith.objectives._teacher import Teacher


def gains(teachers: Sequence[Teacher], ground: Ground, part: Any, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Student against teachers, on the task's eval rows.

    Quality is that of the best teacher; size and time are those of all together, because several speak as one.

    Args:
        teachers: not opened yet.
        ground: with the kept student.
        part: the task.
        metrics: the student's.

    Returns:
        `quality` (primary metric of both, and `kept`, student / teacher, the other way round where lower is better), `size` (parameters,
        and `ratio`), `speed` (seconds of one row alone and rows a second in batches, and how many times that of the teachers).
    """
    student = ground.reader(part)
    opened = {f"teacher {number}": teacher.open(ground, part) for number, teacher in enumerate(teachers)}
    primary, rows = part.task.primary, part.roles.eval
    scores = [ground.score(reader, rows)[primary] for reader in opened.values()]
    best = max(scores) if higher_is_better(primary) else min(scores)
    mine = float(metrics[primary])
    over, under = (mine, best) if higher_is_better(primary) else (best, mine)
    kept = over / under if under > 0 else None
    times = ground.race({"student": student, **opened}, rows)
    ours = times.pop("student")
    latency = sum(each["latency_seconds"] for each in times.values())
    throughput = 1 / sum(1 / each["rows_per_second"] for each in times.values())
    size = sum(p.numel() for p in {id(p): p for p in student.model.parameters()}.values())
    large = sum(reader.parameters for reader in opened.values())
    found = {
        "quality": {"metric": primary, "student": mine, "teacher": best, "kept": kept},
        "size": {"student_parameters": size, "teacher_parameters": large, "ratio": size / large},
        "speed": {
            "student": ours, "teacher": {"latency_seconds": latency, "rows_per_second": throughput},
            "latency_gain": latency / ours["latency_seconds"], "throughput_gain": ours["rows_per_second"] / throughput,
            "batch_size": ground.config.eval_batch_size, "threads": _threads(), "device": str(ground.device),
        },
    }  # fmt: skip
    numbers = f"{mine:.4f}, the teacher's {best:.4f}"
    share = f", so that {kept:.1%} are kept" if kept is not None and higher_is_better(primary) else ""
    say(
        f"{part.name}: the student's {primary} is {numbers}{share}. It has {size / large:.1%} of the parameters; one row takes "
        f"{ours['latency_seconds'] * 1e3:.1f} ms instead of {latency * 1e3:.1f}, and {_count(ours['rows_per_second'])} rows a second are read "
        f"instead of {_count(throughput)}."
    )
    return found


def _count(number: float) -> str:
    """A number that is large or small."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2f}"


def _threads() -> int:
    import torch

    return torch.get_num_threads()
