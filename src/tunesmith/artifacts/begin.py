"""Training that begins with an adapter: an artifact of ours, or a plain peft folder (`--init-adapter`).

The adapter says what it is: technique, rank and targets are its own, and a run that asks for others is refused. Its head comes along
where the task and its labels are the same; else the run has a new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import registry
from tunesmith.artifacts.foreign import saved_config
from tunesmith.artifacts.store import check_files, read_info, readings_of
from tunesmith.config import RunConfig, options_of
from tunesmith.errors import UserError
from tunesmith.models.load import Loaded, hashed, locate
from tunesmith.techniques._base import Technique, create


@dataclass(frozen=True)
class Start:
    """An adapter that is trained further.

    Attributes:
        folder: where it lies.
        info: its description.
    """

    folder: Path
    info: dict[str, Any]

    def fill(self, technique: Technique, loaded: Loaded, task: Any) -> bool:
        """Load it into an attached model; whether its head came along.

        Raises:
            ArtifactError: it does not fit, or is damaged.
        """
        known = next(iter(readings_of(self.info).values())).task
        same = known.name == task.name and known.state_dict() == task.state_dict()
        technique.restore(
            loaded.backbone, self.folder, without=() if same else (*self.info["head"], *loaded.backbone.head_names)
        )
        return same


def begun(config: RunConfig) -> tuple[Technique, Start]:
    """The technique of the adapter that a run begins with, and the adapter.

    Raises:
        UserError: the run asks for another technique, other options or another base.
        ArtifactError: the adapter is damaged, or no adapter.
    """
    info = read_info(Path(str(config.init_adapter)), task=config.task, base=config.model)
    folder = Path(info["folder"])
    check_files(folder, info)
    if info["format"] == "model":
        raise UserError(f"`{folder}` is a whole model and no adapter; train it further with --model {folder}.")
    base = info["base_model"]
    source = hashed(locate(config.model)) if base["sha256"] else locate(config.model)
    if base["sha256"] and source.sha256 and base["sha256"] != source.sha256:
        raise UserError(
            f"`{folder}` was trained on `{base['name']}` (sha256 {base['sha256'][:12]}...), and --model `{source.name}` is another "
            f"({source.sha256[:12]}...); give it the same base."
        )
    name = registry.resolve("technique", config.technique).name
    asked = options_of(config, "technique", config.technique).model_dump(mode="json")
    usual = create(config.technique).options.model_dump(mode="json")
    own = {**usual, **info["technique_options"]}
    if config.technique != info["technique"]:
        raise UserError(
            f"`{folder}` is an adapter of {info['technique']}, and the run asks for {config.technique}; add --technique {info['technique']}."
        )
    wrong = [key for key, value in asked.items() if value not in (usual[key], own[key])]
    if wrong:
        raise UserError(
            f"`{folder}` has {name}.{wrong[0]} {own[wrong[0]]}, and the run asks for {asked[wrong[0]]}; leave that option out."
        )
    technique = create(info["technique"], info["technique_options"])
    if info.get("as_saved"):
        technique.given = saved_config(folder)  # type: ignore[attr-defined]
    return technique, Start(folder, info)
