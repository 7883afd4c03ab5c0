"""A run under observation: load on the platform, its components' health, continuous checks; at the end figures and pictures.

Begun before the first step, ended after the last. What cannot be believed is said to be so (`healthy`), and never counts as passed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from kivactl.errors import NotReadyError
from kivactl.flows import faults
from kivactl.flows.background_load import BackgroundLoad, Heard
from kivactl.flows.deployment import endpoint_for
from kivactl.loadtest.catalogue import OWN, Changes, load_scenario
from kivactl.loadtest.record import Record
from kivactl.loadtest.scenario import assignment_for
from kivactl.runbooks import sampling, validity
from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.bound import Bound
from kivactl.runbooks.drill_picture import picture_for
from kivactl.runbooks.figures import Look, Phase, Story, changes_in, figures_for, gaps_in, phases_for, story_for
from kivactl.runbooks.format import Load, ParameterType
from kivactl.stack.metering import OPERATOR
from kivactl.tools import plot

LANGUAGES = ("en", "de")
_ANSWERS_WITHIN_S = 120.0


class Observation:
    """What is seen of a run. Made by `begin`.

    Args:
        site: The platform and the run's folder.
        bound: The runbook.
        load: The load, not yet begun; None without.
    """

    def __init__(self, site: Site, bound: Bound, load: BackgroundLoad | None) -> None:
        self.folder = site.folder / "measurements"
        self._site = site
        self._bound = bound
        self._clock = site.deployment.clock
        self._load = load
        self._marks: list[tuple[str, float]] = []
        self._changes: list[sampling.Change] = []
        self._lock = threading.Lock()
        # Opened once: a cluster costs a handshake, and perhaps a program that fetches credentials.
        opened = cache(lambda: site.deployment.target.breaking)
        self._sampler = sampling.Sampler(lambda: sampling.components_of(opened, self._clock))
        self._watchers = [sampling.Watcher(site, check, self._changed) for check in bound.during]
        self._began_s = self._clock.now_s()
        self._doubt: str | None = None
        self._ended = False

    def mark(self, kind: str, at_s: float) -> None:
        """Note a moment.

        Args:
            kind: `fault` when something was broken; others are kept for the record.
            at_s: When, in seconds of the monotonic clock.
        """
        self._marks.append((kind, at_s))

    def healthy(self) -> str | None:
        """None while the measurement can be believed, else why not; the last word is after `end`."""
        if self._ended:
            return self._doubt
        if self._load is not None and not self._load.alive:
            return self._load.heard.broken or "the load generator ended too early"
        return None if self._sampler.alive else "nobody looks at the components any more"

    def changes(self) -> list[sampling.Change]:
        """What continuous checks saw since the last call, as far as it is something else than before."""
        with self._lock:
            changes, self._changes = self._changes, []
        return changes

    def start(self) -> None:
        """Begin load and looking, and wait until there is something to compare with.

        Raises:
            KivaError: The load does not start, or the platform does not answer it.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sampler.start()
            for watcher in self._watchers:
                watcher.start()
            if self._load is not None:
                plot.require()
                self._load.begin()
                self._warm_up(self._load)
        except BaseException:
            self.abandon()
            raise

    def end(self) -> dict[str, float]:
        """Keep up the load for its time after the last step, end it, and write figures and pictures.

        Returns:
            The figures by the names of `format.Objectives`, times in seconds; what could not be measured is absent.
        """
        try:
            if self._load is not None:
                self._wait(self._bound.runbook.load.after if self._bound.runbook.load else 0.0)
            ended_s = self._clock.now_s()
            heard = self._load.end() if self._load is not None else None
            self._stop()
        except BaseException:
            self.abandon()
            raise
        return self._conclude(ended_s, heard)

    def abandon(self) -> None:
        """End everything at once; nothing is measured."""
        self._stop()
        if self._load is not None:
            self._load.abandon()

    def _stop(self) -> None:
        for watcher in self._watchers:
            watcher.stop()
        self._sampler.stop()

    def _changed(self, change: sampling.Change) -> None:
        with self._lock:
            self._changes.append(change)

    def _warm_up(self, load: BackgroundLoad) -> None:
        assert self._bound.runbook.load is not None
        self._wait(self._bound.runbook.load.before)
        for _ in self._clock.ticks(_ANSWERS_WITHIN_S, every_s=0.1):
            if load.heard.answered >= validity.FEWEST_ANSWERS:
                return
            if not load.alive:
                raise NotReadyError(f"the load broke off before the first step: {load.heard.broken or 'the generator ended'}", "kivactl loadtest smoke")
        told = f"{load.heard.answered} requests were answered, {load.heard.failed} failed"
        raise NotReadyError(f"the platform does not answer the load, so nothing was begun: {told}", "kivactl loadtest smoke")

    def _wait(self, duration_s: float) -> None:
        for _ in self._clock.ticks(duration_s, every_s=0.1):
            if self._load is not None and not self._load.alive:
                return

    def _conclude(self, ended_s: float, heard: Heard | None) -> dict[str, float]:
        records = self._load.records if self._load is not None else []
        # All users at once do not begin, and do not stop, in the very moment that is written down.
        began_s = min([heard.started_s if heard and heard.started_s else self._began_s, *(record.start_ns / 1e9 for record in records)])
        ended_s = max([ended_s, *(record.start_ns / 1e9 + 1e-6 for record in records)])
        looks = list(self._sampler.looks)
        gaps = gaps_in(looks, began_s, ended_s, validity.BLIND_FROM_S)
        story = story_for(looks, self._marks, began_s, ended_s, gaps)
        phases, figures = phases_for(story, records), figures_for(story, records)
        uncounted = figures_for(story_for(looks, self._marks, began_s, ended_s), records)
        objectives, trouble = self._bound.runbook.objectives, self._sampler.trouble
        doubts = [
            validity.doubt_about_looks(gaps, began_s, trouble),
            validity.doubt_about_story(story, objectives),
            validity.doubt_about_gaps(gaps, began_s, figures, uncounted, objectives, trouble),
        ]
        if heard is not None:
            doubts = [validity.doubt_about_load(heard, objectives), *doubts, validity.doubt_about_phases(phases)]
        self._doubt = next((doubt for doubt in doubts if doubt), None)
        self._ended = True
        notes = [note.as_dict() for note in validity.notes_on(heard, phases, gaps, began_s)]
        self._write(story, phases, records, looks, figures, heard, notes)
        return figures

    def _write(
        self,
        story: Story,
        phases: tuple[Phase, ...],
        records: list[Record],
        looks: list[Look],
        figures: dict[str, float],
        heard: Heard | None,
        notes: list[dict[str, Any]],
    ) -> None:
        work = self._load.assignment if self._load is not None else None
        summary = {
            "figures": figures,
            "invalid": self._doubt,
            "notes": notes,
            "moments": _moments(story, self._marks),
            "phases": [_relative(phase, story.began_s) for phase in phases],
            "load": {"scenario": work.name, "model": work.model, "users": work.users, "max_tokens": work.kinds[0].output.longest} if work else None,
            "generator": asdict(heard) if heard else None,
        }
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        timeline = [{"at_s": round(look.at_s - story.began_s, 3), "components": look.components} for look in changes_in(looks)]
        (self.folder / "timeline.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timeline))
        if work is None:
            return
        for language in LANGUAGES:
            title = self._bound.runbook.title.in_language(language)
            picture = picture_for(story, records, looks, title=title, run=self._site.run, model=work.model, users=work.users, language=language)
            plot.draw(picture, self.folder / f"load.{language}.svg")


def begin(site: Site, bound: Bound) -> Observation:
    """Put the platform under the runbook's load and observe it; returns when the load's time before the first step is over.

    Raises:
        KivaError: The load does not start, or the platform does not answer it; nothing runs any more then.
    """
    observation = Observation(site, bound, _load_for(site, bound))
    observation.start()
    return observation


def model_under_load(bound: Bound, site: Site) -> str:
    """The model that is asked: what the runbook's parameters are about, else the spec's first."""
    platform = site.deployment.platform
    for name, parameter in bound.runbook.parameters.items():
        chosen = bound.parameters.get(name)
        if chosen and parameter.type in {ParameterType.MODEL, ParameterType.ALIAS}:
            return str(chosen)
        if chosen and parameter.type is ParameterType.REPLICA:
            return faults.model_of(site.deployment, str(chosen))
    return platform.models[0].name


def _load_for(site: Site, bound: Bound) -> BackgroundLoad | None:
    load = bound.runbook.load
    if load is None:
        return None
    deployment = site.deployment
    changes = Changes(users=_count(load.users, bound.parameters), max_tokens=_optional(load, bound.parameters))
    scenario = load_scenario(load.scenario, changes, deployment.loaded.folder / OWN)
    endpoint = endpoint_for(deployment, tenant=OPERATOR, lifetime=timedelta(days=1), name="kivactl-runbook")
    endpoint = replace(endpoint, model=model_under_load(bound, site))
    return BackgroundLoad(assignment_for(scenario, endpoint), endpoint, _unused(site.folder / "measurements"), deployment.clock)


def _optional(load: Load, parameters: Mapping[str, Any]) -> int | None:
    return None if load.max_tokens is None else _count(load.max_tokens, parameters)


def _count(given: int | str, parameters: Mapping[str, Any]) -> int:
    """A number, or that of the parameter `${name}`."""
    return given if isinstance(given, int) else int(parameters[given.removeprefix("${").removesuffix("}")])


def _unused(folder: Path) -> Path:
    """A folder of this part's records; a run that was taken up again has several."""
    number = 1
    while (path := folder / ("load" if number == 1 else f"load-{number}")).exists():
        number += 1
    return path


def _moments(story: Story, marks: list[tuple[str, float]]) -> dict[str, Any]:
    """Seconds since the load began."""
    found = {name: getattr(story, f"{name}_s") for name in ("fault", "noticed", "recovered", "ended")}
    told = {name: None if at_s is None else round(at_s - story.began_s, 3) for name, at_s in found.items()}
    return {**told, "marks": [[kind, round(at_s - story.began_s, 3)] for kind, at_s in marks]}


def _relative(phase: Phase, began_s: float) -> dict[str, Any]:
    return {**asdict(phase), "start_s": round(phase.start_s - began_s, 3), "end_s": round(phase.end_s - began_s, 3)}
