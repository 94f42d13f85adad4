"""Linear probe: logistic (or ridge) regression on the untouched model's features.

A row's feature is the mean of the last hidden states over its real positions (the last position for decoders). What
a technique adds over this row is what changing the backbone is worth (Alain & Bengio 2017).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tunesmith.baselines._base import Baseline, Guess, fit_linear
from tunesmith.config import Options as BaseOptions
from tunesmith.config import RunConfig
from tunesmith.data.sources import Rows
from tunesmith.data.splits import Roles
from tunesmith.tasks._base import Task


class Options(BaseOptions):
    """Options of the linear probe."""

    strength: float = Field(1.0, gt=0, description="inverse of the L2 penalty (scikit-learn's C)")


class LinearProbe(Baseline):
    """Frozen features and a linear model."""

    Options = Options
    reads_model: ClassVar[bool] = True

    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """Run the backbone once over all rows, fit."""
        import torch

        from tunesmith.models.load import load_model, load_tokenizer
        from tunesmith.models.new import source_of

        source = source_of(config, task, roles.train, Path(config.output or "."))
        tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
        loaded = load_model(
            source, tokenizer, task, seed=config.seed, trust_remote_code=config.trust_remote_code,
        )  # fmt: skip
        kind = "last" if loaded.backbone.kind == "decoder" else "mean"
        device = torch.device("cuda" if torch.cuda.is_available() and config.device in ("auto", "cuda") else "cpu")
        loaded.model.to(device)

        def features(rows: Rows) -> np.ndarray[Any, Any]:
            from tunesmith.data.batching import by_length
            from tunesmith.data.encode import encode
            from tunesmith.models.load import pick_max_length

            encoded = encode(task, rows, tokenizer, pick_max_length(config.max_length, task.default_max_length, loaded))
            found: list[Any] = [None] * len(rows)
            with torch.no_grad():
                for indices in by_length(encoded.lengths, config.eval_batch_size):
                    batch = task.collate([encoded[int(i)] for i in indices], tokenizer.pad_token_id)
                    inputs = {n: t.to(device) for n, t in task.model_inputs(batch).items()}
                    pooled = mean_or_last(
                        loaded.backbone.stack(**inputs).last_hidden_state, inputs["attention_mask"], kind
                    )
                    for place, index in enumerate(indices):
                        found[index] = pooled[place].float().cpu().numpy()
            return np.stack(found)

        train, other = features(roles.train), features(roles.eval)
        return fit_linear(task, roles, train, other, self.options.strength, config.seed)


def mean_or_last(states: Any, mask: Any, kind: str) -> Any:
    """[rows, T, d] to [rows, d] over real positions."""
    if kind == "mean":
        weights = mask.to(states.dtype)[..., None]
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    return states[range(len(states)), mask.cumsum(1).argmax(1)]
