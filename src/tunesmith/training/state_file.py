"""Nested plain values and tensors in one safetensors file with a checksum: nothing in it can be run, and damage is noticed.

Tensors lie in the file under their numbers. `structure` holds everything else as JSON, with a tensor's number in its place; numbers keep
every digit, and keys and tuples stay what they are. The checksum in the header is over the bytes of it all:

    sha256(structure, then of every tensor: number, dtype, shape, bytes)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tunesmith import durable
from tunesmith.errors import UserError

FORMAT = "tunesmith state 1"
STRUCTURE = "structure"
MARK = "$"
"""Key of what JSON has no word for."""


class DamagedState(UserError):
    """A file is not what was written."""


def write(path: Path, state: Mapping[str, Any], advice: str = durable.ADVICE) -> None:
    """Write a state under its name only when it is whole.

    Args:
        path: its place.
        state: dicts, lists, tuples, tensors, texts, numbers, true, false and None, in each other.
        advice: what to do where it cannot be written.

    Raises:
        SaveError: the disk is full or not writable.
        TypeError: something else is in it.
    """
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    plain = json.dumps(_taken_apart(state, tensors, set(), "state"), ensure_ascii=False).encode()
    content = {STRUCTURE: torch.frombuffer(bytearray(plain), dtype=torch.uint8), **tensors}
    notes = {FORMAT: checksum(content)}  # one entry: several come in an order of chance
    durable.write(path, lambda place: save_file(content, str(place), metadata=notes), advice)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, tensors in main memory.

    Raises:
        DamagedState: it is missing, not a state, or not what was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            notes = file.metadata() or {}
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError) as error:
        raise DamagedState(f"`{path}` cannot be read ({durable.reason(error)}).") from error
    if FORMAT not in notes:
        raise DamagedState(f"`{path}` is not a state that this version reads.")
    if notes[FORMAT] != checksum(content):
        raise DamagedState(f"`{path}` is damaged: its checksum is not that of its content.")
    structure = json.loads(content[STRUCTURE].numpy().tobytes().decode())
    return dict(_put_together(structure, content))


def checksum(content: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over named tensors."""
    digest = hashlib.sha256()
    for name in sorted(content):
        tensor = content[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _taken_apart(value: Any, tensors: dict[str, torch.Tensor], seen: set[int], where: str) -> Any:
    """The same as JSON can hold it, its tensors put aside."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        here = value.detach().cpu().contiguous()
        storage = here.untyped_storage()
        alone = storage.nbytes() == here.numel() * here.element_size() and storage.data_ptr() not in seen
        tensors[name] = here if alone else here.clone()  # the file format keeps no shared memory
        seen.add(storage.data_ptr())
        return {MARK: "tensor", "number": name}
    if isinstance(value, Mapping):
        items = [(key, _taken_apart(each, tensors, seen, f"{where}.{key}")) for key, each in value.items()]
        if all(isinstance(key, str) and key != MARK for key, _ in items):
            return dict(items)
        return {MARK: "dict", "items": [[_taken_apart(key, tensors, seen, where), each] for key, each in items]}
    if isinstance(value, (list, tuple)):
        found = [_taken_apart(each, tensors, seen, f"{where}[{i}]") for i, each in enumerate(value)]
        return found if isinstance(value, list) else {MARK: "tuple", "items": found}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which a state cannot hold")


def _put_together(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_together(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(MARK)
    if kind == "tensor":
        return tensors[value["number"]]
    if kind == "dict":
        return {_put_together(key, tensors): _put_together(each, tensors) for key, each in value["items"]}
    if kind == "tuple":
        return tuple(_put_together(each, tensors) for each in value["items"])
    return {key: _put_together(each, tensors) for key, each in value.items()}
