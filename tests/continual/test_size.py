"""What a strategy keeps is counted: numbers, bytes in memory, bytes on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from tunesmith.continual._size import bytes_on_disk, size


def test_size() -> None:
    shared = torch.zeros(3, 4)
    held = {
        "twice": [shared, shared],
        "halves": (torch.zeros(2, dtype=torch.bfloat16),),
        "ids": np.zeros(5, np.int64),
        "counts": torch.zeros(2, dtype=torch.int64),
        "model": nn.Linear(2, 3),
        "texts": ["é", "é", "ab"],
        "seen": 7,
        "nothing": None,
    }
    numbers, total = size(held)
    assert numbers == 12 + 2 + 6 + 3
    assert total == 48 + 4 + 40 + 16 + 36 + 4


def test_bytes_on_disk(tmp_path: Path) -> None:
    (tmp_path / "inner" / "deep").mkdir(parents=True)
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "inner" / "deep" / "b").write_bytes(b"123")
    assert bytes_on_disk([tmp_path / "a", tmp_path / "inner", tmp_path / "absent"]) == 8
