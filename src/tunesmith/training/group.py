"""The group: several processes that are one run.

A launcher starts the same command in each of them. Process 0 is *the run*: it has the folder, the log, the checkpoints, the
evaluation, the artifact and the voice. The others follow: they prepare the same model and rows in a folder of their own that is
thrown away, say nothing, and take part in the steps. A step is the one that a single process would take:

    every process sees the batch of the whole step, in the same order         rows, masks and the count of units are those of one process
    process r takes rows r, r + n, r + 2n ... of each forward pass            (`slices`)
    g = sum over processes of the gradient of (sum of losses / units of the whole step)
    clipping and the optimiser's move are computed by each alone, from the same numbers

So nothing has to be put together for a checkpoint, and it can be gone on with by any number of processes.

Two ways of talking. Gradients and losses are added up by the processes together (gloo, or NCCL between GPUs). Everything else is one
process waiting for another, maybe for hours while the first one evaluates, so it looks from time to time at a store of names and values
whether it is there; and whether one of the others has said why it stopped.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch

from tunesmith import launch
from tunesmith.errors import MemoryShortage, TunesmithError, UserError
from tunesmith.evaluation.shortage import is_shortage
from tunesmith.training.parcels import buckets, filled, plan

T = TypeVar("T")
LOOK = (0.001, 0.05)
"""Seconds between two looks into the store, at first and at most."""
HEAR = 20.0
"""Seconds that a process which failed waits for process 0 to hear of it."""
STEP = timedelta(minutes=30)
"""What the slowest process may be behind within a step."""


class Parted(TunesmithError):
    """Another process of the run stopped; carries its exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Over(BaseException):
    """Process 0 has come to the end of the run; carries what it found."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class Alone:
    """A group of one, which needs nobody."""

    rank, size = 0, 1
    shards = False
    """Parameters are cut over the processes."""

    @property
    def first(self) -> bool:
        """Whether this process is the run."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait until all are here."""

    def same(self, make: Callable[[], T]) -> T:
        """What process 0 makes of it (plain values)."""
        return make()

    def spread(self, state: Any) -> Any:
        """A state as process 0 has it: tensors and plain values in each other."""
        return state

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is raised in one of them."""
        return list(flags)

    def measured(self, measure: Callable[[], T]) -> T:
        """What is measured (plain values): by process 0, or by all of them together where each has a part of the parameters."""
        return measure() if self.shards else self.same(measure)

    def attempt(self, work: Callable[[], None]) -> None:
        """Do something in all of them, or run out of memory in all of them."""
        work()

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Each tensor becomes its sum over all of them."""

    def end(self, result: Any) -> None:
        """The run is over, and this is what it found."""


class Group(Alone):
    """Several processes; this is one of them.

    Args:
        place: of this one.
        device: what it computes on.
        store: where they leave names and values.
    """

    def __init__(self, place: launch.Launch, device: torch.device, store: Any) -> None:
        import torch.distributed as dist

        self.rank, self.size, self.shards = place.rank, place.size, place.shard
        self.device, self.store, self._turn = device, store, 0
        dist.init_process_group(
            "gloo", store=dist.PrefixStore("steps", store), rank=self.rank, world_size=self.size, timeout=STEP
        )
        self.wire: Any = dist.new_group(backend="nccl", timeout=STEP) if device.type == "cuda" else dist.group.WORLD

    # ---- one waits for another

    def _wait(self, *names: str) -> None:
        """Until all these names are in the store.

        Raises:
            Over: process 0 has ended the run.
            Parted: one of them has stopped.
        """
        pause = LOOK[0]
        while not self._there(*names):
            if not self.first and self._there("over"):
                raise Over(json.loads(self.store.get("over")))
            self._heed()
            time.sleep(pause)
            pause = min(1.5 * pause, LOOK[1])

    def _there(self, *names: str) -> bool:
        try:
            return bool(self.store.check(list(names)))
        except RuntimeError as error:  # whoever held the store is gone
            raise Parted("the process that holds the run together is gone") from error

    def _heed(self) -> None:
        """Stop where another one has: process 0 hears of the others, and they of it."""
        for other in range(1, self.size) if self.first else (0,):
            if self._there(f"left/{other}"):
                said = json.loads(self.store.get(f"left/{other}"))
                raise Parted(f"process {other} of the run stopped: {said['why']}", int(said["exit_code"]))

    def _next(self) -> str:
        self._turn += 1
        return f"turn/{self._turn}"

    def meet(self) -> None:
        """Wait until all are here."""
        turn = self._next()
        self.store.set(f"{turn}/{self.rank}", "")
        self._wait(*(f"{turn}/{other}" for other in range(self.size)))

    def same(self, make: Callable[[], T]) -> T:
        """What process 0 makes of it (plain values); the others do not make it."""
        turn = self._next()
        if not self.first:
            self._wait(turn)
            return json.loads(self.store.get(turn))
        found = make()
        self.store.set(turn, json.dumps(found))
        return found

    def end(self, result: Any) -> None:
        """The run is over, and this is what it found; the others are waited for, so that they can still hear it."""
        self.store.set("over", json.dumps(result, default=str))
        self._linger(*(f"heard/{other}" for other in range(1, self.size)))

    def leave(self) -> None:
        """What process 0 has said is heard."""
        with suppress(RuntimeError):
            self.store.set(f"heard/{self.rank}", "")
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the connections, so that whoever waits for this process hears that it is gone."""
        import torch.distributed as dist

        self.wire = None
        if dist.is_initialized():
            dist.destroy_process_group()
        gc.collect()

    def part(self, error: BaseException) -> BaseException:
        """What there is to say of an error that ends this process: the cause, if it lies in another one, which is told of it."""
        if not self.first:
            why, code = str(error) or type(error).__name__, _code(error)
            with suppress(RuntimeError):
                self.store.set(f"left/{self.rank}", json.dumps({"why": why, "exit_code": code}))
                self._hang_up()  # whoever waits for this one in a step hears of it
                self._linger("left/0")
            return error
        cause = error
        if _code(error) == 130 or _cut_off(error):  # a launcher interrupts all when one of them is gone
            time.sleep(0.2)
            try:
                self._heed()
            except Parted as other:
                cause = error if other.exit_code == 130 else other
        with suppress(RuntimeError):
            self.store.set("left/0", json.dumps({"why": str(cause), "exit_code": _code(cause)}))
        return cause

    def _linger(self, *names: str) -> None:
        until = time.monotonic() + HEAR
        with suppress(Parted):
            while not self._there(*names) and time.monotonic() < until:
                time.sleep(LOOK[1])

    # ---- all together

    @contextmanager
    def _talk(self) -> Iterator[Any]:
        """Inside, that another process is gone is said in a sentence."""
        import torch.distributed as dist

        try:
            yield dist
        except RuntimeError as error:
            if is_shortage(error):
                raise
            time.sleep(1.0)  # what it had to say comes by another way
            self._heed()
            raise Parted(
                f"another process of the run is gone without a word (killed, or out of memory; {str(error).splitlines()[0][:120]}); `tunesmith resume` goes "
                "on from the last checkpoint."
            ) from error

    def spread(self, state: Any) -> Any:
        """A state as process 0 has it: its plan first, then one tensor after the other."""
        tensors: list[torch.Tensor] = []
        described = [plan(state, tensors) if self.first else None]
        with self._talk() as dist:
            dist.broadcast_object_list(described, src=0)
            if not self.first:
                tensors = []
                state = filled(described[0], tensors)
            for tensor in tensors:
                dist.broadcast(tensor, src=0)
        return state

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is raised in one of them."""
        raised = torch.tensor([int(flag) for flag in flags], dtype=torch.uint8)
        with self._talk() as dist:
            dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()]

    def attempt(self, work: Callable[[], None]) -> None:
        """Do something in all of them, or run out of memory in all of them: then all of them try again with less."""
        failed: Exception | None = None
        try:
            work()
        except Exception as error:
            if not is_shortage(error):
                raise
            if self.shards:  # in the middle of a pass that the others cannot begin again
                raise MemoryShortage(
                    f"memory ran out ({str(error).splitlines()[0] if str(error) else 'MemoryError'}); lower training.micro_batch_size or --max-length."
                ) from error
            failed = error
        (short,) = self.any(failed is not None)
        if short:
            raise failed or MemoryError("memory ran out in another process of the run")

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Each tensor becomes its sum over all of them; the sums are the same numbers everywhere."""
        for bucket in buckets(tensors):
            try:
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            except Exception as error:
                if not is_shortage(error):
                    raise
                # The others are in the middle of this sum: beginning the step again would be answered by another one.
                raise MemoryShortage(
                    "memory ran out while gradients were added up; lower training.micro_batch_size or --max-length."
                ) from error
            with self._talk() as dist:
                dist.all_reduce(flat, group=self.wire)
            parts = flat.split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])


def _cut_off(error: BaseException) -> bool:
    """Whether a failure inside of a library is that another process is gone."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl", "peer"))


def _code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return int(error.exit_code) if isinstance(error, TunesmithError) else 1


# ---- being in one

_stores: dict[tuple[str, int, int], Any] = {}
_joined: tuple[int, Alone] | None = None
_times = 0


def current() -> Alone:
    """The group that this process is in; a process that it started is in none."""
    return _joined[1] if _joined is not None and _joined[0] == os.getpid() else Alone()


@contextmanager
def joined(device: str) -> Iterator[Alone]:
    """Be in the group that a launcher started, if one did, for as long as a run lasts.

    Args:
        device: as it is configured.

    Raises:
        UserError: the processes cannot work together on this machine.
    """
    global _joined, _times
    place = launch.launched()
    if place is None or current().size > 1:
        yield current()
        return
    with launch.set_aside():
        if place.size == 1:
            yield current()
            return
        _times += 1
        group = Group(place, _device(device, place), _store(place))
        _joined = (os.getpid(), group)
        try:
            yield group
        except BaseException as error:
            raised = group.part(error)
            if raised is error:
                raise
            raise raised from error
        finally:
            _joined = None
            group.leave()


def _device(name: str, place: launch.Launch) -> torch.device:
    """What this process computes on: a GPU of its own, or the CPU."""
    from tunesmith.training.precision import pick_device

    device = pick_device(name)
    if device.type == "cuda":
        # All of them see that it is too few, so that the one that speaks does, too.
        if max(place.local_rank + 1, place.local_size) > torch.cuda.device_count():
            raise UserError(
                f"each process of a run wants a GPU of its own, and this machine has {torch.cuda.device_count()}; start fewer processes, or add --device cpu."
            )
        torch.cuda.set_device(place.local_rank)
    elif device.type != "cpu":
        raise UserError(
            f"several processes cannot share one run on {device.type}; add --device cpu, or start one process."
        )
    return device


def _store(place: launch.Launch) -> Any:
    """Names and values that all see, new for every run."""
    import torch.distributed as dist

    if dist.is_initialized():
        raise UserError("torch.distributed is in use already; leave init_process_group to tunesmith.")
    key = (place.address, place.port, place.attempt)
    if key not in _stores:
        _stores[key] = dist.TCPStore(
            place.address,
            place.port,
            place.size,
            is_master=place.rank == 0 and not place.hosted,
            timeout=timedelta(minutes=5),
        )
    return dist.PrefixStore(f"tunesmith/{place.attempt}/{_times}", _stores[key])


@contextmanager
def folder_of(group: Alone, folder: Path) -> Iterator[Path]:
    """Where a process of the group writes: the run's folder, or one that is thrown away."""
    if group.first:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="tunesmith-follower-", ignore_cleanup_errors=True) as place:
        yield Path(place)
