"""What a technique says of merging is what merging does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith import registry
from tunesmith.errors import ArtifactError
from tunesmith.testing.techniques import Bench

NAMES = sorted(
    set(registry.names("technique")) - {"peft", "qlora"}
)  # methods differ; four bits are stored in full before


@pytest.mark.parametrize("technique", NAMES)
@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_what_is_said_to_fold_folds(kind: str, technique: str, models: Path) -> None:
    bench = Bench(kind, models, technique, {})
    if bench.technique.saves == "model":
        assert bench.technique.folds
        return
    if technique == "bitfit" and kind == "t5":
        return  # which has no bias terms
    bench.attach()
    if bench.technique.folds:
        before = sum(p.numel() for p in bench.loaded.model.parameters())
        bench.technique.merge(bench.loaded.backbone)
        assert sum(p.numel() for p in bench.loaded.model.parameters()) <= before
    elif kind == "bert":  # one kind that refuses is enough for it not to be promised
        with pytest.raises(ArtifactError):
            bench.technique.merge(bench.loaded.backbone)
