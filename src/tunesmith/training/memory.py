"""Whether the activations of the largest batch fit, known before the first step, and what is done if they do not.

What a forward pass keeps for its backward pass is counted, not guessed: hooks see every tensor that autograd saves. Of one row of T tokens it
is a T + b T^2 + c (the square where attention maps are kept, c whatever the row), so three short ones tell, and n rows keep
n (a T + b T^2) + c. A step needs that, some room for what comes and goes, and gradients and moments of what learns (12 bytes a
parameter). Where this is more than is free, activations are recomputed in the backward pass (Chen et al. 2016), which costs about a third
more arithmetic. What is counted is the task's own loss with every layer running: a teacher beside the student comes on top, and
stored states of frozen layers take away from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.console import say, warn
from tunesmith.tasks._base import Features
from tunesmith.training.feed import Feed, MixedFeed

TRIED = 64  # tokens of the longest row that is tried
ROOM = 1.25  # for tensors that live within one operation
A_PARAMETER = 12  # bytes: a gradient and two moments in fp32
CGROUP = Path("/sys/fs/cgroup")


def saved_bytes(forward: Callable[[], Any], known: set[int]) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once.

    Args:
        forward: the pass.
        known: addresses of storages that exist anyway: parameters and buffers.
    """
    seen: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # its own output in a node's hands would be a circle that nothing frees

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        kept = forward()  # alive until here: an address is not given twice
    del kept
    return sum(seen.values())


def largest(feed: Feed) -> tuple[int, int]:
    """Rows and tokens a row of the largest forward pass of a feed."""
    longest = int(feed.lengths.max())
    return int(min(feed.micro, feed.order.batch_size, len(feed.lengths))), longest


def activations(feed: Feed) -> int | None:
    """Bytes that the largest pass of a feed keeps; None where short rows cannot be tried."""
    count, longest = largest(feed)
    row = feed.rows[int(np.argmax(feed.rows.lengths))]
    top = min(TRIED, int(feed.rows.lengths.max()))
    tries = [top // 4, top // 2, top]
    if tries[0] < 2:
        return None
    known = {each.untyped_storage().data_ptr() for each in (*feed.model.parameters(), *feed.model.buffers())}
    found = []
    training = feed.model.training
    devices = [feed.device] if feed.device.type == "cuda" else []
    feed.model.train()
    try:
        with torch.random.fork_rng(devices=devices):
            for length in tries:
                cut = _cut(row, length)
                batch = feed.task.collate([cut if feed.bins is None else feed.task.pack([cut])], feed.pad_id)
                batch = {name: tensor.to(feed.device) for name, tensor in batch.items()}
                found.append(saved_bytes(lambda b=batch: _loss(feed, b), known))  # type: ignore[misc]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    finally:
        feed.model.train(training)
    square, line, rest = np.polyfit(tries, found, 2)
    if square < 0:
        square, (line, rest) = 0.0, np.polyfit(tries, found, 1)
    return int(count * (line * longest + square * longest**2) + max(0.0, rest))


def _cut(row: Features, length: int) -> Features:
    """The beginning of a row and its last token, which models look for; whole numbers that may be places in it stay inside."""
    whole = len(row["input_ids"])
    places = [*range(length - 1), whole - 1]
    found: dict[str, Any] = {}
    for name, value in row.items():
        array = np.asarray(value)
        if array.ndim and len(array) == whole:
            found[name] = array[places]
        else:
            found[name] = np.minimum(array, length - 1) if array.dtype.kind in "iu" else value
    return found


def _loss(feed: Feed, batch: Any) -> torch.Tensor | None:
    if feed.lean:
        return feed.task.lean_loss(feed.model, batch)
    return feed.task.loss(feed.task.forward(feed.model, batch), batch)


def available(device: torch.device) -> int:
    """Bytes that can be taken: of the GPU, or of the machine within the limit of its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text()) - _reclaimable()
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def _reclaimable() -> int:
    """Bytes of files that were read a while ago: they count as used, and are let go when memory is asked for."""
    try:
        lines = (CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def shortage(feed: Feed | MixedFeed, learning: int, device: torch.device) -> str:
    """What is missing for a step that keeps its activations, in a sentence; empty where it fits or nothing can be said.

    Args:
        feed: of the run, its models in the dtype that they compute in.
        learning: parameters that learn.
        device: where.
    """
    feeds = list(feed.feeds.values()) if isinstance(feed, MixedFeed) else [feed]
    kept = [each for each in feeds if each.stand_in is None and not recomputing(each.model)]
    tried = [(activations(each), each) for each in kept]
    known = [(size, each) for size, each in tried if size is not None]
    if not known:
        return ""
    size, worst = max(known, key=lambda pair: pair[0])
    free = available(device)
    if size * ROOM + A_PARAMETER * learning <= free:
        return ""
    rows, tokens = largest(worst)
    return (
        f"activations of {rows} rows of {tokens} tokens take about {_gib(size)}, learning {_gib(A_PARAMETER * learning)}, "
        f"and {_gib(free)} are free"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def recompute(heads: Any) -> None:
    """Let every model recompute its activations in the backward pass."""
    for loaded in heads.loaded.values():
        enable = getattr(loaded.model, "activation_checkpointing_enable", loaded.model.gradient_checkpointing_enable)
        enable()


def recomputing(model: Any) -> bool:
    """Whether one of its modules already does."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def can_recompute(heads: Any) -> bool:
    """Whether all of them are able to."""
    return all(getattr(each.model, "supports_gradient_checkpointing", False) for each in heads.loaded.values())


def make_room(heads: Any, feed: Any, learning: int, device: torch.device, *, halve: bool) -> None:
    """Recompute activations where they would not fit, and say so.

    Args:
        heads: the models.
        feed: of the run.
        learning: parameters that learn.
        device: where.
        halve: rows of a forward pass may become fewer.
    """
    missing = shortage(feed, learning, device)
    if not missing:
        return
    if can_recompute(heads):
        recompute(heads)
        say(f"{missing}: they are recomputed in the backward pass (training.gradient_checkpointing=false keeps them).")
        return
    if not halve:
        warn(f"{missing}; a smaller training.micro_batch_size takes less and learns the same.")
        return
    while feed.micro > 1 and shortage(feed, learning, device):
        feed.limit(feed.micro // 2)
    say(
        f"{missing}: a forward pass has at most {feed.micro} rows; batch size and loss stay the same (training.auto_micro_batch=false)."
    )
