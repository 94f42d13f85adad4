"""What a run is predicted to cost, before its first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tunesmith.plan.waiting import BUSY

SPARE = 1.25
"""What is predicted must fit so many times: what was measured took up to 1.23 times its prediction."""
PARTS = ("libraries", "weights", "gradients", "optimizer", "activations", "head", "cache", "evaluation")


@dataclass(frozen=True)
class Prediction:
    """Parameters, memory, time and disk of a run, none of it measured on the run itself.

    Attributes:
        technique: registry name.
        trainable_parameters: exact.
        total_parameters: exact.
        steps: optimiser steps.
        memory: bytes by part (`PARTS`), which sum to the peak; None where nothing can be said.
        seconds: of all steps, without loading and evaluation; None where nothing can be said.
        artifact_bytes: of the folder that is kept.
        available_bytes: what this process has and can get.
        largest_batch: the most rows of the longest kind in one forward pass that fit; 0: not even one.
        rows: training rows (of a task that cuts long ones, their pieces).
        architecture: encoder, decoder, encoder-decoder or recurrent.
        num_labels: of all classifiers of rows that learn together; None where there is none.
        unknown: why something is None, by its name.
        waited: share of the time that passes were timed in which they waited for a core; None where nothing was timed or the system does not say.
    """

    technique: str
    trainable_parameters: int
    total_parameters: int
    steps: int
    memory: dict[str, int] | None
    seconds: float | None
    artifact_bytes: int | None
    available_bytes: int
    largest_batch: int | None
    rows: int
    architecture: str
    num_labels: int | None = None
    unknown: dict[str, str] = field(default_factory=dict)
    waited: float | None = None

    @property
    def memory_bytes(self) -> int | None:
        """The peak."""
        return None if self.memory is None else sum(self.memory.values())

    @property
    def fits(self) -> bool | None:
        """Whether the peak fits with room for an error of the prediction."""
        peak = self.memory_bytes
        return None if peak is None else peak * SPARE <= self.available_bytes

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values, the peak and whether it fits beside the parts."""
        return {**asdict(self), "memory_bytes": self.memory_bytes, "fits": self.fits}

    def sentence(self) -> str:
        """One line for people."""
        said = []
        if self.seconds is not None:
            said.append(f"{_seconds(self.seconds)} of training")
        peak = self.memory_bytes
        if peak is not None and self.memory is not None:
            largest = sorted(self.memory.items(), key=lambda part: -part[1])[:3]
            said.append(
                f"{_bytes(peak)} of memory at most ({', '.join(f'{name} {_bytes(size)}' for name, size in largest)})"
            )
        if self.artifact_bytes is not None:
            said.append(f"an artifact of {_bytes(self.artifact_bytes)}")
        text = f"Predicted: {', '.join(said)}" if said else "Nothing is predicted"
        for name, why in self.unknown.items():
            text += f"; no {name}: {why}"
        if self.seconds is not None and (crowded := busy(self.waited)):
            text += f"; {crowded}"
        if self.fits is False:
            text += f"; that does not fit safely into {_bytes(self.available_bytes)}"
            if self.largest_batch:
                text += f", {self.largest_batch} rows in a forward pass would (training.micro_batch_size)"
        return f"{text}."


def busy(share: float | None) -> str | None:
    """That the machine was not idle while passes were timed; None where it was, or nobody knows."""
    if share is None or share < BUSY:
        return None
    return (
        f"other processes had the cores {share:.0%} of the time while passes were timed, so an idle machine is faster"
    )


class Planned(Exception):
    """What a stage would cost is known, and nothing more was asked for."""

    def __init__(self, prediction: Prediction) -> None:
        super().__init__(prediction.sentence())
        self.prediction = prediction


def several(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the predictions of several stages amount to: the seconds' sum, the highest of the rest; unknown if one is.

    Each of them was made before its own stage's first step, the first one alone before the first of the run.
    """
    if len(stages) == 1:
        return dict(stages[0])

    def most(name: str) -> Any:
        values = [each[name] for each in stages]
        return None if None in values else max(values)

    seconds = [each["seconds"] for each in stages]
    peaks = [each["memory_bytes"] for each in stages]
    memory = None if None in peaks else stages[peaks.index(max(peaks))]["memory"]
    fits = [each["fits"] for each in stages]
    return {
        **stages[-1],
        **{name: most(name) for name in ("trainable_parameters", "total_parameters", "memory_bytes", "artifact_bytes")},
        "memory": memory,
        "seconds": None if None in seconds else sum(seconds),
        "steps": sum(each["steps"] for each in stages),
        "rows": sum(each["rows"] for each in stages),
        "fits": False if False in fits else None if None in fits else True,
        "available_bytes": min(each["available_bytes"] for each in stages),
        "waited": max((share for each in stages if (share := each.get("waited")) is not None), default=None),
        "largest_batch": None if None in (found := [each["largest_batch"] for each in stages]) else min(found),
        "unknown": {name: why for each in stages for name, why in each["unknown"].items()},
        "stages": [dict(each) for each in stages],
    }


def _bytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _seconds(value: float) -> str:
    if value < 120:
        return f"{value:.1f} s" if value >= 0.95 else f"{value:.2f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
