"""tunesmith: every fine-tuning technique for pretrained language models, with one honest measurement.

    import tunesmith

    run = tunesmith.train("asset:minilm", train="reviews.csv", technique="lora", output="runs/lora")
    run.metrics["accuracy"]
    run.load().predict([{"text": "a fine film"}])

Names are loaded when they are used: `import tunesmith` imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "train": "tunesmith.run",
    "resume": "tunesmith.run",
    "RunResult": "tunesmith.run",
    "compare": "tunesmith.compare",
    "plan": "tunesmith.dry_run",
    "advise": "tunesmith.dry_run",
    "load": "tunesmith.artifacts.use",
    "Artifact": "tunesmith.artifacts.use",
    "AdapterBank": "tunesmith.artifacts.switch",
    "merge": "tunesmith.artifacts.merge",
    "export": "tunesmith.artifacts.export",
    "verify": "tunesmith.artifacts.verify",
    "TunesmithError": "tunesmith.errors",
    "UserError": "tunesmith.errors",
}
__all__ = [
    "AdapterBank", "Artifact", "RunResult", "TunesmithError", "UserError", "advise", "compare", "export", "load", "merge", "plan", "resume", "train", "verify",
]  # fmt: skip

if TYPE_CHECKING:
    from tunesmith.artifacts.export import export
    from tunesmith.artifacts.merge import merge
    from tunesmith.artifacts.switch import AdapterBank
    from tunesmith.artifacts.use import Artifact, load
    from tunesmith.artifacts.verify import verify
    from tunesmith.compare import compare
    from tunesmith.dry_run import advise, plan
    from tunesmith.errors import TunesmithError, UserError
    from tunesmith.run import RunResult, resume, train


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        member = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = member
        return member
    if name == "assets":
        return importlib.import_module("tunesmith.assets")
    raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, "assets"})
