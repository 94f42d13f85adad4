"""A comparison in a time box (`--budget`): every technique begins, and the hopeless ones end early.

    baselines -> probe -> rung 1/9: all -> rung 1/3: the best -> 1: the best of these -> what else there is time for

The probe is a few steps of the dearest technique; from it follows how many steps a whole run may have (the same for all; never more than asked
for). At each rung the runs that are there stop resumably, are scored on validation rows, and as many of the best go on as the time left has
room for: all, if it has. What a run costs is measured while it runs. A run that does not go on is a row of its own, `dropped`, with
its score, the rung and what was best. The best one is finished whatever it takes, so at least one technique always is.

Everything that was measured and decided lies in OUTPUT/budget.json, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith import registry
from tunesmith.cache.store import key_of
from tunesmith.compare.budget import KEPT, Clock, check, fit, parse
from tunesmith.compare.carrying import carry_out, curve, finished
from tunesmith.compare.checks import Identity
from tunesmith.compare.contender import Contender, Limited, Paused
from tunesmith.compare.planning import Planned, plan
from tunesmith.config import CompareConfig
from tunesmith.console import say, warn
from tunesmith.errors import Interrupted, UserError
from tunesmith.metrics import higher_is_better
from tunesmith.run_folder import write_json

__all__ = ["Halving", "check"]
FILE = "budget.json"
PROBE_STEPS, PROBE_SHARE = 4, 1 / 9  # whichever is less: it must not run past the first rung
BASELINE_SHARE = 0.1  # of the box for baselines that do not read the model


class Halving:
    """The race, its clock and its record."""

    def __init__(self, config: CompareConfig, folder: Path, identity: Identity, began: float) -> None:
        """Take up the record of an earlier call, if there is one of the same comparison.

        Args:
            config: of the comparison, complete.
            folder: its own.
            identity: of its rows and models.
            began: on the clock of `time.perf_counter`.
        """
        self.config, self.folder, self.identity = config, folder, identity
        self.asked = config.model_copy()  # before steps are cut: baselines have none
        self.key = key_of(
            config=config.model_dump(mode="json", exclude={"output", "report_to"}),
            data=identity.data,
            models=identity.models,
        )
        self.record: dict[str, Any] = {"key": self.key, "spent": 0.0, "segments": {}, "dropped": {}}
        with suppress(OSError, ValueError, TypeError):
            found = dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
            if found.get("key") == self.key:
                self.record = found
        seconds, self.times = parse(str(config.budget))
        self.clock = Clock(float(seconds or self.record.get("seconds") or 1e9), began, float(self.record["spent"]))
        self.primary, self.higher = "loss", False
        self.sure: Contender | None = None
        self.limited = Limited(None)

    # ---- the story

    def carry_out_all(self, refuse: Callable[[Sequence[Planned], Identity], None] | None) -> list[dict[str, Any]]:
        """Every run of the comparison: finished, dropped, failed or refused, in the order of the plan.

        Args:
            refuse: is asked whether finished runs there would be replaced.
        """
        planned = self._planned()
        if refuse is not None:
            refuse(planned, self.identity)
        try:
            return self._carry_out(planned)
        finally:
            self._save()  # what was spent until an interruption, too

    def _carry_out(self, planned: list[Planned]) -> list[dict[str, Any]]:
        """Baselines that read no model, the race, and what is left of the time for the other baselines."""
        entries: dict[str, dict[str, Any]] = {}
        late = []
        for each in planned:
            if each.kind == "baseline" and registry.load("baseline", each.name).reads_model:
                late.append(each)
            elif each.kind == "baseline":
                entries[str(each.run.output)] = self._baseline(each, BASELINE_SHARE * self.clock.seconds)
        self._decide_steps(planned)
        planned = self._planned()
        techniques = [each for each in planned if each.kind == "technique"]
        race = [
            Contender(
                each, f"[{n}/{len(techniques)}]", self.record["segments"].get(f"{each.run.model}/{each.name}", [])
            )
            for n, each in enumerate(techniques, 1)
        ]
        self._race(race)
        entries |= {str(each.planned.run.output): each.entry for each in race if each.entry is not None}
        for each in late:
            entries[str(each.run.output)] = self._baseline(each, self.clock.left)
        return [entries[str(each.run.output)] for each in planned]

    def about(self) -> dict[str, Any]:
        """What the protocol says of the box."""
        return {
            "given": self.config.budget, "seconds": self.clock.seconds, "spent": self.clock.spent, "steps": self.record["steps"],
            "asked_steps": self.record["asked"], "rungs": self.record["shares"], "judged_on": "validation",
        }  # fmt: skip

    def _race(self, race: list[Contender]) -> None:
        shares = self.record["shares"]
        for each in race:  # of an earlier call
            run = each.planned.run
            if not self._ended(each) and finished(Path(str(run.output)), run, self.identity.of_planned(each.planned)):
                self._go_on(each, 1.0)
        alive = [each for each in race if each.entry is None]
        for place, share in enumerate(shares[:-1]):
            for each in alive:
                if each.share < share and self._affords(each, alive, share):
                    self._go_on(each, share)
                self.sure = None
            alive = self._ranked([each for each in alive if each.entry is None])
            if not alive or sum(each.cost(1.0) for each in alive) <= self.clock.left:
                break
            kept = self._room(alive, place)
            for each in alive[kept:]:
                best = alive[0]
                self._drop(
                    each,
                    f"after {each.rungs[-1]['step']} of {each.rungs[-1]['of']} steps its {self.primary} on validation was {each.rungs[-1]['score']:.4g}, "
                    f"that of {best.planned.name} {best.rungs[-1]['score']:.4g}{_losses(each, best)}, and time was left for {kept} of {len(alive)}",
                )
            alive = alive[:kept]
        for each in alive:
            if (
                any(other.entry and other.entry["status"] == "finished" for other in race)
                and each.rungs
                and each.cost(1.0) > self.clock.left
            ):
                self._drop(
                    each,
                    f"after {each.rungs[-1]['step']} of {each.rungs[-1]['of']} steps no time was left to finish it",
                )
            else:
                self.sure = None if any(o.entry and o.entry["status"] == "finished" for o in race) else each
                self._go_on(each, 1.0)

        if race and not any(each.entry and each.entry["status"] == "finished" for each in race):
            self._rescue(race)

    def _rescue(self, race: Sequence[Contender]) -> None:
        """The clock stopped all of them: one is finished all the same."""
        dropped = [each for each in race if each.key in self.record["dropped"]]
        if not dropped:
            return  # they failed
        scored = [each for each in dropped if each.rungs]
        self.sure = self._ranked(scored)[0] if scored else dropped[0]
        warn(f"the time is over and nothing is finished; {self.sure.planned.name} is finished all the same.")
        self.record["dropped"].pop(self.sure.key)
        self.sure.entry = None
        self._go_on(self.sure, 1.0)

    def _room(self, alive: Sequence[Contender], place: int) -> int:
        """How many of the best can go on so that the plan still fits."""
        return next((n for n in range(len(alive), 1, -1) if self._ahead(alive[:n], place) <= self.clock.left), 1)

    def _ahead(self, alive: Sequence[Contender], place: int) -> float:
        """Seconds of the plan when these go on to the next rung: a third of them goes on from there."""
        share = self.record["shares"][place + 1]
        seconds = sum(each.cost(share) for each in alive)
        for later in self.record["shares"][place + 2 :]:
            alive = alive[: -(-len(alive) // KEPT)]
            seconds += sum(each.cost(later) - each.cost(share) + each.opening for each in alive)
            share = later
        return seconds

    def _affords(self, each: Contender, alive: Sequence[Contender], share: float) -> bool:
        """Whether there is time to take it to a rung and still finish one."""
        known = [other for other in alive if other.rungs and other.entry is None]
        if each.rungs:
            return True
        if not known:  # the first one tells what the others cost, however long it takes
            self.sure = each
            return True
        best = self._ranked(known)[0]
        dearest = max(known, key=lambda other: other.opening + other.per_step)
        ahead = dearest.opening + share * int(dearest.rungs[-1]["of"]) * dearest.per_step
        if ahead + best.cost(1.0) <= self.clock.left:
            return True
        self._drop(
            each,
            f"not begun: the time left was for finishing {best.planned.name}, the best of the {len(known)} before it",
        )
        return False

    # ---- one run

    def _go_on(self, each: Contender, share: float) -> None:
        """Take a run to a share of its steps, or to its end."""
        began = time.perf_counter()
        try:
            each.entry = self._carry(each.planned, each.number, None if share >= 1 else share)
        except Paused as pause:
            found = pause.found
            self.primary = found["primary"]
            self.higher = higher_is_better(self.primary)
            rung = {
                "share": share, "step": found["step"], "of": found["of"], "score": found["metrics"][self.primary], "loss": found["metrics"]["loss"],
                "seconds": found["seconds"], "wall": time.perf_counter() - began, "primary": self.primary,
            }  # fmt: skip
            each.rungs.append(rung)
            self.record["segments"][each.key] = each.rungs
            say(
                f"{each.number} {each.planned.title}: {self.primary} {rung['score']:.4f} on validation after {rung['step']} of {rung['of']} steps; "
                f"{self.clock.left:.0f} s left."
            )
        except Interrupted:
            self._save()
            if not self.limited.expired:
                raise
            done = f"after {each.rungs[-1]['step']} steps" if each.rungs else "before its first rung"
            self._drop(each, f"stopped {done}: the time was over")
        if each.entry is not None:
            each.entry["rungs"] = each.rungs
        self._save()

    def _carry(
        self, planned: Planned, number: str, share: float | None, step: int | None = None, limit: float | None = None
    ) -> dict[str, Any]:
        """A run of the comparison that pauses; one without which nothing would be finished is not held to the clock."""
        held = self.sure is None or self.sure.planned is not planned
        most = max(0.5, min(self.clock.left, self.clock.left if limit is None else limit))
        self.limited = Limited(most if held else None)
        call = self.limited.plain if planned.kind == "baseline" else self.limited.up_to(planned, share, step)
        return carry_out(planned, self.folder, number, self.identity.of_planned(planned), call)

    def _baseline(self, planned: Planned, limit: float) -> dict[str, Any]:
        """A baseline, unless the time for it is over."""
        there = finished(Path(str(planned.run.output)), planned.run, self.identity.of_planned(planned))
        if there is None and limit <= 0:
            return self._ended_early(planned, "not begun: no time was left for it")
        try:
            return self._carry(planned, "[baseline]", None, limit=limit)
        except Interrupted:
            if not self.limited.expired:
                raise
            return self._ended_early(planned, "stopped: the time for it was over")

    # ---- what is decided

    def _planned(self) -> list[Planned]:
        if self.record.get("steps") and self.record["steps"] != self.record["asked"]:
            self.config.max_steps, self.config.epochs = int(self.record["steps"]), None
        # Baselines as they were asked for, whatever steps fit: the same command has to find them again.
        whole = [each for each in plan(self.asked, self.folder, self.identity.rows) if each.kind == "baseline"]
        return whole + [each for each in plan(self.config, self.folder, self.identity.rows) if each.kind != "baseline"]

    def _decide_steps(self, planned: Sequence[Planned]) -> None:
        """How many steps a run has and where it is judged, from a few steps of the dearest technique."""
        if "steps" in self.record:
            return
        techniques = [each for each in planned if each.kind == "technique"]
        dearest = [each for each in techniques if each.name == "full"] + techniques
        for each in dearest:
            began = time.perf_counter()
            self.sure = Contender(each, "[probe]")  # it tells what the others cost, however long it takes
            try:
                entry = self._carry(each, "[probe]", PROBE_SHARE, PROBE_STEPS)
            except Paused as pause:
                wall, found = time.perf_counter() - began, pause.found
                opening, per_step, asked = wall - found["seconds"], found["seconds"] / found["step"], int(found["of"])
            else:
                if entry["status"] != "finished":
                    continue  # refused or failed: the next one tells
                wall = time.perf_counter() - began
                asked = int(entry["curve"][-1]["step"]) if entry["curve"] else 1
                opening = wall / 2.0
                per_step = float(entry["cost"]["train_seconds"]) / max(asked, 1)
            break
        else:
            raise UserError("no technique could begin; the warnings above say why.")
        if self.times is not None:
            self.clock.seconds = self.times * (2.0 * opening + asked * per_step)
            self.record["seconds"] = self.clock.seconds
        room = fit(self.clock.left, opening, per_step, asked, len(techniques))
        self.record |= {"asked": asked, "steps": room.steps, "shares": room.shares}
        say(
            f"A time box of {self.clock.seconds:.0f} s: {room.steps:,} of {asked:,} steps a run, judged at "
            f"{', '.join(f'{share:.0%}' for share in room.shares[:-1]) or 'the end'}."
        )
        if room.runs < len(techniques):
            warn(
                f"the time box is short: about {room.runs} of {len(techniques)} techniques fit into it; a longer --budget tries them all."
            )
        self._save()

    def _ended(self, each: Contender) -> bool:
        reason = self.record["dropped"].get(each.key)
        if reason is not None:
            each.entry = {**self._ended_early(each.planned, reason), "rungs": each.rungs}
        if each.rungs:
            self.primary = each.rungs[-1]["primary"]
            self.higher = higher_is_better(self.primary)
        return each.entry is not None

    def _drop(self, each: Contender, reason: str) -> None:
        self.record["dropped"][each.key] = reason
        say(f"{each.number} {each.planned.title}: {reason}.")
        self._ended(each)
        self._save()

    def _ended_early(self, planned: Planned, reason: str) -> dict[str, Any]:
        """The run in results.json of what was not finished."""
        place = Path(str(planned.run.output))
        return {
            "technique": planned.name, "model": planned.run.model, "kind": planned.kind, "seed": planned.run.seed, "status": "dropped",
            "reason": reason, "folder": str(place.relative_to(self.folder)), "learning_rate": None, "metrics": None, "cost": None,
            "curve": curve(place) if planned.kind == "technique" else [],
        }  # fmt: skip

    def _ranked(self, alive: Sequence[Contender]) -> list[Contender]:
        """Best first; of equal scores the lower loss."""
        sign = -1.0 if self.higher else 1.0
        return sorted(alive, key=lambda each: (sign * each.rungs[-1]["score"], each.rungs[-1]["loss"]))

    def _save(self) -> None:
        write_json(self.folder / FILE, {**self.record, "spent": self.clock.spent})


def _losses(each: Contender, best: Contender) -> str:
    """What decided between equal scores."""
    own, other = each.rungs[-1], best.rungs[-1]
    return f" (losses {own['loss']:.4g} and {other['loss']:.4g})" if own["score"] == other["score"] else ""
