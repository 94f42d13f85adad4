"""Settings as people write them: YAML text, `--set a.b=c`, and layers of both of which later ones win."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import UserError

VERBATIM = ("columns", "class_weights", "learning_rates", "grid")  # mappings whose keys are the user's own words


DEEPEST = 32


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as text; here it is a number, as in YAML 1.2 and everywhere else."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A mapping whose keys each stand once: YAML forbids a second, and PyYAML takes the last without a word."""
    seen: dict[Any, yaml.Node] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a key is a list or a mapping; write a name", key.start_mark
            )
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"`{key.value}` stands there twice; keep one", key.start_mark
            )
        seen[key.value] = key
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


class Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: a text that looks like a number is quoted."""


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
for _side in (_Loader, Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def parse(text: str) -> Any:
    """YAML text as plain values (safe loading)."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deep") from error


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML configuration file (safe loading) as a mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the configuration `{path}`: {error.strerror}; check the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the configuration `{path}` is not UTF-8 text; save it as UTF-8.") from error
    try:
        raw = parse(text)
    except yaml.YAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""  # type: ignore[attr-defined]
        raise UserError(
            f"`{path}` is not valid YAML{where}: {' '.join(str(getattr(error, 'problem', error)).split())}."
        ) from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"`{path}` must hold settings as `key: value`, got a {type(raw).__name__}.")
    return raw


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`lora.rank=8` as (["lora", "rank"], 8); the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set takes key=value, got `{text}`; for example --set lora.rank=8.")
    try:
        parsed = parse(value)
    except yaml.YAMLError:
        parsed = value
    return key.strip().split("."), parsed


def merge(*layers: Mapping[str, Any], _depth: int = 0) -> dict[str, Any]:
    """Later layers win; mappings merge key by key; keys are compared with dashes as underscores.

    Raises:
        UserError: mappings are nested deeper than any setting is.
    """
    if _depth > DEEPEST:
        raise UserError(f"settings are nested more than {DEEPEST} deep; none is.")
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            name = str(key).replace("-", "_")
            if isinstance(value, Mapping):
                before = merged.get(name)
                parts = (before, value) if isinstance(before, Mapping) else (value,)
                verbatim = {str(k): v for part in parts for k, v in part.items()}
                merged[name] = verbatim if name in VERBATIM else merge(*parts, _depth=_depth + 1)
            else:
                merged[name] = value
    return merged


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """Nested mapping of several `a.b=c`."""
    layers = []
    for pair in pairs:
        keys, value = parse_assignment(pair)
        nested: Any = value
        for key in reversed(keys):
            nested = {key: nested}
        layers.append(nested)
    return merge(*layers)
