"""What the untouched model scores on eval rows, measured once for all runs that begin with it.

A run measures its model before it learns, and eight techniques of a comparison begin with the same weights, the same fresh head and the same rows. The key is a hash of
all that the figures depend on, the weights themselves among it, so that a score of another model cannot be read; a technique is attached later.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunesmith.cache import store
from tunesmith.frozen import key_of
from tunesmith.preparation import Model, Part

KIND = "untouched"
CODE = ("evaluation", "metrics", "models", "tasks")
"""Parts of the package that decide what a model scores."""
FILE = "metrics.json"


def score(model: Model, part: Part) -> dict[str, float]:
    """Metrics on the eval rows of the model as it stands, from the cache where nothing is attached to it and it was measured before."""
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
        (folder / FILE).write_text(json.dumps(measured(model, part)), encoding="utf-8")

    found = json.loads((store.folder(KIND, key, make) / FILE).read_text(encoding="utf-8"))
    return {str(name): float(value) for name, value in found.items()}


def measured(model: Model, part: Part) -> dict[str, float]:
    """The same, measured."""
    return dict(model.measure(part, "eval", "before").metrics)


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
    digest = hashlib.sha256()
    for path in sorted(file for part in CODE for file in (Path(__file__).parent / part).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
