"""What a launcher (`torchrun`, `accelerate launch`) tells each process that it starts, and how to keep it from others.

A launcher starts the same command several times and puts the place of each among them into its environment. Every library that meets
these variables takes itself for a part of the group, and every process that is started inherits them: so while a run lasts they are set
aside, and only the run itself knows of its group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

NAMES = frozenset(
    {
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
        *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "FORK_LAUNCH_PARAMS"),
    }
)
PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_")


@dataclass(frozen=True)
class Launch:
    """The place of this process.

    Attributes:
        rank: its number; 0 is the run, the others follow it.
        size: how many there are.
        local_rank: its number on its machine.
        address: of the machine where they meet.
        port: there.
        hosted: the launcher listens there itself (else process 0 does).
        attempt: how often the launcher has started them anew.
        shard: `accelerate launch --use_fsdp` was asked for.
        local_size: how many there are on its machine.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int
    hosted: bool = False
    attempt: int = 0
    shard: bool = False
    local_size: int = 1


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """What a launcher said, or None where none did."""
    said = os.environ if environment is None else environment
    try:
        return Launch(
            int(said["RANK"]), int(said["WORLD_SIZE"]), int(said.get("LOCAL_RANK", said["RANK"])), said["MASTER_ADDR"], int(said["MASTER_PORT"]),
            said.get("TORCHELASTIC_USE_AGENT_STORE") == "True", int(said.get("TORCHELASTIC_RESTART_COUNT", 0)),
            said.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"), int(said.get("LOCAL_WORLD_SIZE", 1)),
        )  # fmt: skip
    except (KeyError, ValueError):
        return None


def follows() -> bool:
    """Whether this process only follows another, which speaks for all."""
    place = launched()
    return place is not None and place.rank > 0


@contextmanager
def set_aside() -> Iterator[None]:
    """Inside, nothing of it is in the environment."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name in NAMES or name.startswith(PREFIXES)}
    try:
        yield
    finally:
        os.environ.update(taken)
