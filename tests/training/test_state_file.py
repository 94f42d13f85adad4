"""A state comes back as it was, to the bit and the type, and never as something else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.errors import SaveError
from tunesmith.training import state_file

STATE: dict[str, Any] = {
    "weights": {"a.b": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "half": torch.ones(2).bfloat16() / 3},
    "moments": {0: {"step": torch.tensor(3.0), "betas": (0.9, 0.999)}, 7: {}},
    "numbers": [1, 2**80, 0.1, 1e-323, math.inf, -0.0, True, None],
    "texts": ["Tiếng Việt", "a\x00b", "$", ""],
    "$": "a key that means something else in the file",
    "nested": ((), [[]], {}, (1, (2, [torch.tensor([True, False])]))),
    "generator": torch.get_rng_state(),
    "empty": torch.empty(0, 5),
}  # fmt: skip


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(type(a) is type(b) for a, b in zip(one, other, strict=True)) and all(
            same(one[key], other[key]) for key in one
        )  # fmt: skip
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    state_file.write(tmp_path / "state.safetensors", STATE)
    assert same(STATE, state_file.read(tmp_path / "state.safetensors"))
    assert [each.name for each in tmp_path.iterdir()] == ["state.safetensors"]


def test_tensors_that_share_memory_come_back_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    state_file.write(tmp_path / "s", {"whole": whole, "part": whole[2:4], "same": whole, "turned": whole.view(2, 3).T})
    found = state_file.read(tmp_path / "s")
    assert found["part"].tolist() == [2, 3] and found["same"].tolist() == whole.tolist()
    assert found["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        state_file.write(tmp_path / name, STATE)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state_file.write(path, {"weights": torch.arange(8.0), "name": "phở", "step": 3})
    whole = path.read_bytes()
    quiet = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            found = state_file.read(path)
        except state_file.DamagedState:
            continue
        quiet.append(place)
        assert found["step"] == 3 and found["name"] == "phở" and torch.equal(found["weights"], torch.arange(8.0))
    # What may change unseen is white space that pads the header.
    assert len(quiet) <= 8
    for length in (0, 7, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(state_file.DamagedState):
            state_file.read(path)


def test_code_is_not_read(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "state")
    with pytest.raises(state_file.DamagedState, match="cannot be read"):
        state_file.read(tmp_path / "state")


def test_what_it_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\.memory\[1\] is a set"):
        state_file.write(tmp_path / "state", {"memory": [1, {2}]})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("and no folder")
    with pytest.raises(SaveError, match=r"cannot write .*; do something"):
        state_file.write(tmp_path / "a file" / "state", {"a": 1}, "do something")


def test_its_folder_is_made(tmp_path: Path) -> None:
    state_file.write(tmp_path / "not there" / "state", {"a": 1})
    assert state_file.read(tmp_path / "not there" / "state")["a"] == 1
