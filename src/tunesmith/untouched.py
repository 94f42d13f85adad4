"""What the untouched model scores on eval rows and how much its passes hold, measured once for all runs that begin with it.

A run measures its model before it learns, and eight techniques of a comparison begin with the same weights, the same fresh head and the same rows. The key is a hash of
all that the figures depend on, the weights themselves among it, so that a score of another model cannot be read; a technique is attached later.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cache import store
from tunesmith.frozen import key_of
from tunesmith.preparation import Model, Part

if TYPE_CHECKING:
    from tunesmith.plan.alive import Alive

KIND = "untouched"
CODE = ("evaluation", "metrics", "models", "tasks")
"""Parts of the package that decide what a model scores."""
FILE = "metrics.json"


@dataclass(frozen=True)
class Score:
    """Of one task's eval rows.

    Attributes:
        metrics: by name.
        held: the most bytes that tensors of a pass hold beside the model: what measuring what was learned will take again.
    """

    metrics: dict[str, float]
    held: int


def score(model: Model, part: Part) -> Score:
    """On the eval rows with the model as it stands, from the cache where nothing is attached to it and it was measured before."""
    if model.attached:
        return measured(model, part)
    import torch

    from tunesmith.data.batching import evaluated_tokens

    head = model.heads[part.head].model
    key = store.key_of(
        **key_of(model, part, part.roles.eval.sha256),
        weights=weights_sha256(head),
        code=code_sha256(),
        kind=f"{type(head).__module__}.{type(head).__qualname__}",
        batches=[model.config.eval_batch_size, evaluated_tokens()],
        device=[str(model.device), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()],
    )

    def make(folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(measured(model, part))), encoding="utf-8")

    found = json.loads((store.folder(KIND, key, make) / FILE).read_text(encoding="utf-8"))
    return Score({str(name): float(value) for name, value in found["metrics"].items()}, int(found["held"]))


def measured(model: Model, part: Part) -> Score:
    """The same, measured."""
    seen = beside(model, part)
    metrics = dict(model.measure(part, "eval", "before", seen).metrics)
    return Score(metrics, seen.peak.all)


def tried(model: Model, part: Part) -> Score:
    """No metrics, but what a pass over the longest rows holds: enough for a plan."""
    from tunesmith.evaluation.evaluate import try_longest

    head, seen = model.heads[part.head].model, beside(model, part)
    with seen:
        try_longest(head, part.task, part.encoded["eval"], model.config.eval_batch_size, model.device, model.pad_id)
    return Score({}, seen.peak.all)


def beside(model: Model, part: Part) -> Alive:
    """Counts what is held beside the model's own tensors, from when it is entered."""
    from tunesmith.plan.alive import Alive

    network = model.heads[part.head].model
    return Alive({each.untyped_storage().data_ptr() for each in (*network.parameters(), *network.buffers())})


def weights_sha256(model: Any) -> str:
    """Hash of the names, types, shapes and bytes of everything that a model holds."""
    import torch

    digest = hashlib.sha256()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        tensor = value.detach()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
        state = getattr(value, "quant_state", None)  # of 4 bits: what their numbers stand for
        for part in state.as_dict(packed=True).values() if state is not None else ():
            digest.update(part.contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Hash of the code that measures."""
    digest, here = hashlib.sha256(), Path(__file__)
    for path in sorted(file for part in CODE for file in (here.parent / part).rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(here.read_bytes())
    return digest.hexdigest()
