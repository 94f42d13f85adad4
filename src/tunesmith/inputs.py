"""What a run reads beside its rows and its model, by content: the adapter that it begins with, teachers, further rows.

A path says where something lies and not what it is. A run that is already there is taken for the one that is asked for only if these are the same, too.
"""

from __future__ import annotations

from pathlib import Path

from tunesmith import config as configuration
from tunesmith import registry
from tunesmith.artifacts.store import read_info
from tunesmith.cache import store
from tunesmith.config import RunConfig


def sha256_of_inputs(config: RunConfig) -> dict[str, str]:
    """Hashes of further inputs, under what they are for and how they are named; empty where a run has none.

    Raises:
        UserError: one is not there.
    """
    found = {}
    if config.init_adapter is not None:
        found[f"init_adapter {config.init_adapter}"] = adapter_sha256(config)
    for kind, name in (("objective", config.objective), ("strategy", config.strategy)):
        part = registry.load(kind, name)(configuration.options_of(config, kind, name))
        found |= part.further_inputs(config)
    return found


def adapter_sha256(config: RunConfig) -> str:
    """Hash over the files of the adapter that a run begins with, as they are now and not as its description says."""
    folder = Path(read_info(Path(str(config.init_adapter)), task=config.task, base=config.model)["folder"])
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".json"))
    return store.key_of(files={file.name: store.file_sha256(file) for file in files})
