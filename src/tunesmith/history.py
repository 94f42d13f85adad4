"""The stages of a run, one after the other, and what was measured after each of them on all.

`outcome` makes numbers of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import retention
from tunesmith.config import RunConfig
from tunesmith.continual._size import bytes_on_disk
from tunesmith.data.task_inference import text_of
from tunesmith.errors import UserError
from tunesmith.evaluation.in_short import in_short
from tunesmith.evaluation.shortage import give_back
from tunesmith.metrics.counts import row_counts
from tunesmith.outcome import Outcome, is_plain
from tunesmith.preparation import Model, Part, encode_part, open_model, prepare, readable, reopen, say_what_is_odd
from tunesmith.run_folder import clear_folder, write_config, write_json, write_predictions
from tunesmith.stage import Turn, ground_of, learn, shapes
from tunesmith.stream import Stage, file_name, for_task, stages_of
from tunesmith.untouched import Score, score, tried

STRATEGY_FILE = "strategy.safetensors"
SCORES_FILE = "scores.json"
LEARNED_FILE = "learned.json"


@dataclass
class History:
    """What of a run's stages is done.

    Attributes:
        config: the run's.
        folder: the run's.
        stages: as they are trained.
        columns: as they were written: what results are listed by.
        strategy: how earlier ones are kept.
        done: what was measured after each finished stage (the content of its scores.json).
        parts: the tasks of finished stages.
        begun_in: where the first of these stages starts from: nothing, or the artifact of another run.
        device: what it runs on.
        roles: rows of tasks that were read, by name.
        measured: the model as it was opened to be measured: the next stage starts from it.
        carry_out: runs a configuration, for strategies that train a model beside.
        yardstick: what must not be forgotten, as it was before this run.
        only_plan: take no step: what the first stage would cost is all that is asked for.
    """

    config: RunConfig
    folder: Path
    stages: list[Stage]
    columns: list[Stage]
    strategy: Any
    done: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    begun_in: Path | None = None
    device: Any = None
    roles: dict[str, Any] = field(default_factory=dict)
    measured: Model | None = None
    carry_out: Callable[..., Any] | None = None
    yardstick: Any = None
    only_plan: bool = False

    @classmethod
    def begin(
        cls, config: RunConfig, folder: Path, *, resume: bool, carry_out: Callable[..., Any] | None = None
    ) -> History:
        """The stages of a run, those before it if it continues another, and what is finished of them."""
        from tunesmith import registry
        from tunesmith.training.precision import pick_device

        strategy = registry.load("strategy", config.strategy)(
            configuration.options_of(config, "strategy", config.strategy)
        )
        own = stages_of(config)
        # With the budget that each has by itself, so that one stage made of all gets the steps of all.
        budgets = [
            stage if stage.epochs else stage.model_copy(update={"max_steps": stage.max_steps or config.max_steps})
            for stage in own
        ]
        found = cls(config, folder, strategy.plan_stream(budgets), own, strategy, carry_out=carry_out)
        if config.continue_from:
            found._continue(Path(config.continue_from))
        found.device = pick_device(config.device)
        if resume:
            found._recall()
        return found

    @property
    def alone(self) -> bool:
        """Whether this is a plain run: one stage, one task, nothing before."""
        return is_plain(self.config)

    @property
    def next(self) -> Stage | None:
        """The stage whose turn it is."""
        return self.stages[len(self.done)] if len(self.done) < len(self.stages) else None

    def place(self, number: int) -> Path:
        """Folder of a stage's results."""
        return self.folder / "stages" / f"{number:02d}-{file_name(self.stages[number].name)}"

    def _learned(self, number: int) -> Path:
        """Where it is written what a stage learned, just before its artifact: enough to measure it after a kill."""
        return (self.folder / "checkpoints" if self.alone else self.place(number)) / LEARNED_FILE

    # ---- one stage

    def learn_next(self, *, resume: bool) -> None:
        """Learn the stage whose turn it is, and measure every stage with what was saved."""
        from tunesmith.training.group import current

        number, stage = len(self.done), self.next
        assert stage is not None
        artifact = self.folder / "artifact" if number and self._own(number - 1) else self.begun_in
        model, self.measured = self.measured or self._open(artifact), None
        self._ready(model)
        known = shapes(model.heads) if number else {}
        parts = prepare(model, stage, self.parts)
        if number == 0:
            say_what_is_odd(self.config, parts, model.technique)
        if not current().first:  # it takes part in the steps, and the run does the rest
            turn = Turn(stage, number, len(self.stages), parts, {}, self.strategy, self.alone)
            learn(model, turn, resume=resume)
            self.done.append({})
            return
        if not self.only_plan:
            self.yardstick = self.yardstick or retention.begin(model, self.begun_in)
        # A head that was there could read the stage's rows before its turn, so that is known.
        scored = self.done[-1]["after"] if number and self._own(number - 1) else {}
        new = {name: self._before(model, part) for name, part in parts.items() if not scored.get(name)}
        before = {name: new[name].metrics if name in new else scored[name] for name in parts}
        later = {} if self.alone or number or self.only_plan else self._later(model, number)
        untouched = {name: model.measure(part, "eval", f"before, {name}").metrics for name, part in later.items()}

        def start() -> None:
            if not resume and not any(self._own(i) for i in range(number)):
                clear_folder(self.folder)
            write_config(
                self.folder, self.config
            )  # from here on the folder holds a run; until here everything could be refused

        entry: dict[str, Any] = {"stage": stage.name, "before": before, "untouched": untouched}

        def keep(session: Any, learned: Mapping[str, Any]) -> None:
            from tunesmith.training import state_file

            numbers, size = session.kept
            entry.update(learned, strategy={"parameters": numbers, "memory": size}, after={}, measured_on="eval")
            state = self.strategy.state_dict()
            if state or not self.alone:
                state_file.write(self.place(number) / STRATEGY_FILE, state)
            write_json(self._learned(number), entry)

        turn = Turn(
            stage, number, len(self.stages), parts, dict(self.parts), self.strategy, self.alone, (lambda: reopen(self.config, self.folder, artifact)) if artifact else None, keep,
            self._nested, known, self.only_plan, max((each.held for each in new.values()), default=0),
        )  # fmt: skip
        learn(model, turn, resume=resume, before_fit=start)
        self.parts |= parts
        del model, turn, later
        give_back()
        self._measure(entry, number)
        self.done.append(entry)

    def _before(self, model: Model, part: Part) -> Score:
        """What the model says of a task before it learns it; for a plan, that it can read the longest rows."""
        return tried(model, part) if self.only_plan else score(model, part)

    def _open(self, artifact: Path | None) -> Model:
        model = reopen(self.config, self.folder, artifact) if artifact else open_model(self.config, self.folder)
        model.roles = self.roles
        return model

    def _disk(self, number: int) -> int:
        """Bytes that the strategy needs on disk to go on after a stage."""
        state = [self.place(number) / STRATEGY_FILE] if self.strategy.state_dict() else []
        return bytes_on_disk([*state, *self.strategy.files(self.folder)])

    def _nested(self, settings: Mapping[str, Any], name: str) -> str:
        """A run of its own inside this one's folder; returns its artifact."""
        from tunesmith.config import RunConfig, build

        place = self.folder / "nested" / name
        assert self.carry_out is not None
        self.carry_out(build(RunConfig, {**settings, "output": str(place)}), overwrite=True)
        return str((place / "artifact").resolve())

    def _measure(self, entry: dict[str, Any], number: int) -> None:
        """What is measured is what was kept: the artifact, opened again on the base as it is on disk."""
        model = self._open(self.folder / "artifact")
        self._ready(model)
        said: dict[str, Any] = {}
        now = {task.name for task in self.stages[number].tasks}
        for name, part in self.parts.items():
            scored = model.measure(part, "eval", "after" if self.alone else f"after {entry['stage']}: {name}")
            entry["after"][name] = scored.metrics
            if name in now:
                said[name] = in_short(part.task, scored.answers, part.roles.eval.table)
            rows = part.roles.eval.table
            counts = row_counts(part.task.metric(), [a.value for a in scored.answers], map(part.task.truth, rows))
            write_predictions(self.folder, scored, "" if self.alone else file_name(name), counts)
        found = {name: self.parts[name] for name in (t.name for t in self.stages[number].tasks)}
        judged = model.objective.judge(ground_of(model, found, ""), entry["after"])
        notes = entry.get("objective", {})
        entry["objective"] = {name: {**notes.get(name, {}), **judged.get(name, {})} for name in {**notes, **judged}}
        for name, part in ({} if self.alone else self._later(model, number)).items():
            entry["after"][name] = model.measure(part, "eval", f"after {entry['stage']}: {name}").metrics
        entry["task_found"] = self._task_found(model)
        self.yardstick = self.yardstick or retention.begin(model, self.begun_in)
        if self.yardstick is not None:  # last, because the model gets a head for it
            entry["forgetting"] = self.yardstick.conclude(model, "" if self.alone else f"after {entry['stage']}: ")
        self._notice(entry, said)
        # A model that got a head to be measured by is not gone on with.
        self.measured = model if number + 1 < len(self.stages) and self.yardstick is None else None
        del model
        give_back()
        if not self.alone:
            entry["strategy"]["disk"] = self._disk(number)
            write_json(self.place(number) / SCORES_FILE, entry)

    def _notice(self, entry: dict[str, Any], said: Mapping[str, Any]) -> None:
        """What guards make of what was measured."""
        from tunesmith.console import warn
        from tunesmith.training.guards import Watch

        answers = {"" if self.alone else name: found for name, found in said.items() if found}
        watch = Watch(warn, on=self.config.training.guards)
        watch.add(
            {
                "event": "measured",
                "step": entry["training"]["steps"],
                "answers": answers,
                "retain": entry.get("forgetting"),
            }
        )
        entry["training"].setdefault("warnings", []).extend(watch.warnings)

    def _task_found(self, model: Model) -> dict[str, float]:
        """Share of every task's eval rows that would reach its head if nobody said which task they are of."""
        found: dict[str, float] = {}
        for name, part in self.parts.items() if model.inference is not None else ():
            rows = list(part.roles.eval.table)
            texts = {}
            for other, each in self.parts.items():
                several = [text_of(row, each.task) for row in rows]
                if None not in several:
                    texts[other] = [str(text) for text in several]
            guessed = model.inference.infer(texts, model.heads.first.tokenizer)  # type: ignore[union-attr]
            found[name] = sum(self.parts[guess].head == part.head for guess in guessed) / len(rows)
        return found

    def _ready(self, model: Model) -> None:
        """Earlier tasks read through the heads of the model that is open now; a head that grew wants its rows encoded again."""
        for part in self.parts.values():
            part.reading = model.readings[part.head]
            encode_part(model, part, ("train", "validation", "eval"), look=False)

    def _later(self, model: Model, number: int) -> dict[str, Part]:
        """Tasks of later stages that a head which is there can read."""
        found = {}
        for stage in self.stages[number + 1 :]:
            for spec in stage.tasks:
                part = readable(model, spec)
                if part is not None:
                    found[spec.name] = part
        return found

    # ---- stages that are done already

    def _own(self, number: int) -> bool:
        return not bool(self.done[number].get("inherited"))

    def _continue(self, other: Path) -> None:
        """Put the stages of a finished run before these."""
        from tunesmith.config import RunConfig, build, read_file

        if not (other / "result.json").is_file():
            raise UserError(
                f"`{other}` holds no finished run (no result.json); finish it with `tunesmith resume {other}`, or name another."
            )
        config = build(RunConfig, read_file(other / "config.yaml"))
        before = History.begin(config, other, resume=False)
        if before.config.strategy == "joint" or self.config.strategy == "joint":
            raise UserError("joint trains all stages at once and cannot continue a run; list all stages in one stream.")
        earlier = {task.name for stage in before.stages for task in stage.tasks}
        self.columns = stages_of(self.config, earlier)
        self.stages = self.strategy.plan_stream(self.columns)
        taken = earlier & {task.name for stage in self.stages for task in stage.tasks}
        if taken:
            raise UserError(
                f"`{sorted(taken)[0]}` is the name of a task of `{other}` already; give the new one another name."
            )
        before._recall()
        self.stages, self.columns = [*before.stages, *self.stages], [*before.columns, *self.columns]
        self.done = [{**entry, "inherited": True} for entry in before.done]
        self.parts, self.begun_in = before.parts, other / "artifact"
        self._restore_strategy(other, before)

    def _restore_strategy(self, other: Path, before: History) -> None:
        from tunesmith.training.checkpoint import read_state

        path = before.place(len(before.done) - 1) / STRATEGY_FILE
        same = before.config.strategy == self.config.strategy
        if path.is_file() and same:
            self.strategy.load_state_dict(read_state(path))
        elif self.strategy.looks_back and not (same and not self.strategy.state_dict()):
            raise UserError(
                f"`{other}` was trained with the strategy {before.config.strategy}, so {self.config.strategy} knows nothing of its stages; train it again "
                f"with --strategy {self.config.strategy} as a stream, or continue with --strategy {before.config.strategy}."
            )

    def _recall(self) -> None:
        """Take up the stages that this run has finished."""
        from tunesmith.artifacts.store import read_info

        try:
            finished = list(read_info(self.folder / "artifact").get("stages", []))
        except UserError:
            return
        for number, stage in enumerate(self.stages):
            if number < len(self.done):
                continue
            if stage.name not in finished or not (self._told(number) or self._learned(number).is_file()):
                return
            self._recall_stage(number, stage)

    def _told(self, number: int) -> bool:
        """Whether a stage was measured, too."""
        return ((self.folder / "result.json") if self.alone else (self.place(number) / SCORES_FILE)).is_file()

    def _recall_stage(self, number: int, stage: Stage) -> None:
        from tunesmith import registry
        from tunesmith.artifacts.store import read_info, readings_of
        from tunesmith.data.splits import load_roles
        from tunesmith.training.checkpoint import read_state

        info = read_info(self.folder / "artifact")
        heads, readings = info["parts"], readings_of(info)
        for spec in stage.tasks:
            config = for_task(self.config, spec)
            task = registry.load("task", spec.task)(configuration.options_of(config, "task", spec.task))
            self.roles[spec.name] = roles = load_roles(config, task)
            head = heads[spec.name]
            self.parts[spec.name] = Part(spec.name, spec, head, readings[head], roles, stage=stage.name)
        state = self.place(number) / STRATEGY_FILE
        if state.is_file():
            self.strategy.load_state_dict(read_state(state))
        if not self._told(number):  # killed between the artifact and its scores
            entry = json.loads(self._learned(number).read_text(encoding="utf-8"))
            self._measure(entry, number)
            self.done.append(entry)
        elif self.alone:
            self.done.append(self._plain_entry(stage))
        else:
            self.done.append(json.loads((self.place(number) / SCORES_FILE).read_text(encoding="utf-8")))

    def _plain_entry(self, stage: Stage) -> dict[str, Any]:
        """What a finished plain run measured, as the stage it is to a run that continues it."""
        result = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        (name,) = (spec.name for spec in stage.tasks)
        return {
            "stage": stage.name, "before": {name: result["metrics"]["before"]}, "untouched": {}, "cost": result["cost"],
            "training": result["training"], "plan": result.get("plan"), "after": {name: result["metrics"]["after"]}, "measured_on": "eval",
        }  # fmt: skip

    @property
    def outcome(self) -> Outcome:
        """What the finished stages amount to."""
        from tunesmith.artifacts.store import read_info

        base = read_info(self.folder / "artifact")["base_model"]
        return Outcome(self.config, self.columns, self.done, self.parts, str(base["sha256"]))
