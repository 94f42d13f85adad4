"""What was saved is what was measured: open the artifact in another process and score the same rows again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import processes
from tunesmith.artifacts.use import load
from tunesmith.config import RunConfig, build, read_file
from tunesmith.data.splits import load_roles
from tunesmith.errors import VerificationError

BOUND = 1e-4  # largest difference of a score; fp32 sums in another batch order differ by about 1e-6


def verify_run(folder: Path) -> dict[str, Any]:
    """Score a run's artifact again in a fresh process and compare with the predictions of the run.

    Raises:
        VerificationError: a prediction or score differs.
    """
    found = processes.call("tunesmith.artifacts.verify:rescore", {"run": str(folder)})
    saved = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()][
        : found["rows"]
    ]
    before = np.asarray([np.ravel(row["raw"]) for row in saved], np.float64)
    after = np.asarray([np.ravel(raw) for raw in found["raw"]], np.float64)
    if before.shape != after.shape:
        raise VerificationError(
            f"the artifact of `{folder}` gives other rows than the run measured; its data changed meanwhile."
        )
    # Relative where numbers are large (regression), absolute for probabilities.
    differences = np.abs(before - after) / np.maximum(1.0, np.abs(before))
    largest = float(differences.max()) if before.size else 0.0
    changed = sum(a["prediction"] != b for a, b in zip(saved, found["predictions"], strict=True))
    near = sum(
        a["prediction"] != b and np.abs(x - y).max() <= BOUND
        for a, b, x, y in zip(saved, found["predictions"], before, after, strict=True)
    )
    if largest > BOUND or changed > near:
        raise VerificationError(
            f"the artifact of `{folder}` does not score what was measured: {changed} of {len(saved)} predictions and scores up to "
            f"{largest:.2e} differ (bound {BOUND:g})."
        )
    return {"rows": len(saved), "largest_difference": largest}


def rescore(payload: dict[str, Any]) -> dict[str, Any]:
    """In the fresh process: predictions and scores of the first eval rows."""
    folder = Path(payload["run"])
    config = build(RunConfig, read_file(folder / "config.yaml"))
    artifact = load(folder / "artifact", device=config.device, batch_size=config.eval_batch_size)
    roles = load_roles(config, artifact.task)
    rows = roles.eval.select(range(min(artifact.task.verify_rows, len(roles.eval))), "verify")
    scored = artifact.score(rows, title="verify")
    return {
        "rows": len(rows),
        "predictions": [answer.shown["prediction"] for answer in scored.answers],
        "raw": [list(answer.numbers) for answer in scored.answers],
        "metrics": scored.metrics,
    }
