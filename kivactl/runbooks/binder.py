"""Binds one tree: the form of the file, then every part against what there is; what its placeholders stand for is in `vocabulary`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kivactl.errors import KivaError, SpecError
from kivactl.runbooks import parameters, tolerances
from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import Action, Params, Probe
from kivactl.runbooks.bound import Bound, BoundAction, BoundCheck, BoundStep, Results
from kivactl.runbooks.format import ROLES, Check, ParameterType, Runbook, Step
from kivactl.runbooks.listing import RESERVED_NAMES
from kivactl.runbooks.placeholders import Steps, resolved, used_in
from kivactl.runbooks.targets import elsewhere_in, for_target, refused
from kivactl.runbooks.vocabulary import Vocabulary
from kivactl.spec.document import Fault, Node, path_of, shown
from kivactl.spec.faults import schema_of, validated
from kivactl.spec.fields import NAME
from kivactl.spec.load import Loaded

if TYPE_CHECKING:
    from pydantic import BaseModel

_T = TypeVar("_T", bound="BaseModel")


class Binder:
    """Binds the tree of one file.

    Args:
        path: The file.
        tree: Its content.
        faults: What was found so far; gets the rest.
        loaded: The spec; None without one.
        chosen: The values of parameters; None when none is chosen yet.
    """

    def __init__(self, path: Path, tree: Node, faults: list[Fault], loaded: Loaded | None, chosen: Mapping[str, Any] | None) -> None:
        self._path = path
        self._tree = for_target(tree, loaded.platform.target) if loaded else tree
        # First, for whoever is refused anyway is not asked for parameters.
        self._faults = faults
        faults += elsewhere_in(self._tree, loaded.platform.target) if loaded else ()
        self._loaded = loaded
        self._platform = loaded.platform if loaded else None
        self._words = Vocabulary(path.stem, self._tree, faults, self._platform, chosen)

    def bound(self, text: bytes, text_sha256: str) -> Bound | None:
        """The runbook; None when there are faults.

        Raises:
            UsageError: A chosen parameter does not fit.
        """
        tree = self._tree
        if not isinstance(tree.value, dict):
            self._fault(tree, (), f"must be a mapping of keys such as 'title: ...', not {shown(tree.value)}")
            return None
        self._check_name()
        chosen = self._words.read_parameters()
        self._words.read_order()
        runbook, more = validated(Runbook, self._words.resolved_around(tree, (), {}))
        self._faults += [fault for fault in more if not any(_below(fault.path, f"parameters.{name}") for name in self._words.misdeclared)]
        self._check_acts()
        if runbook is None:
            return None
        self._check_roles(runbook)
        self._check_load(runbook)
        steps = [self._step(index, step, {}) for index, step in enumerate(runbook.steps)]
        checks = {group: self._checks(where, {}) for group, where in _GROUPS.items()}
        if self._faults:
            return None
        if runbook.load is not None and runbook.load.scenario != self._scenario(runbook.load.scenario):
            runbook = runbook.model_copy(update={"load": runbook.load.model_copy(update={"scenario": self._scenario(runbook.load.scenario)})})
        needs = {step.name: frozenset(name.partition(".")[0] for name in used_in(self._at(("steps", index)))) for index, step in enumerate(runbook.steps)}
        return Bound(
            self._path.stem,
            self._path,
            text,
            text_sha256,
            runbook,
            chosen,
            tuple(step for step in steps if step),
            checks["preconditions"],
            checks["before"],
            checks["during"],
            checks["after"],
            lambda results: self._again(lambda: self._checks(_GROUPS["after"], results)),
            needs,
        )

    # Parts against what there is.

    def _check_name(self) -> None:
        name = self._path.stem
        if name in RESERVED_NAMES:
            self._fault(self._tree, (), f"'{name}' is a word of the command line: a runbook needs another name")
        elif not NAME.fullmatch(name):
            self._fault(self._tree, (), f"the file's name must be lower-case letters, digits and dashes before .yaml, not '{name}'")

    def _check_acts(self) -> None:
        """Every action and probe of the tree, whether or not the rest of it has the right form."""
        found = self._tree.child("steps")
        steps = found.value if found is not None and isinstance(found.value, list) else []
        for index, node in enumerate(steps):
            where: Steps = ("steps", index)
            if node.child("action") is not None and node.child("ask") is None:
                self._check_retries(self._action(where, {}), node, where)
            if node.child("undo") is not None:
                self._action((*where, "undo"), {})
            for key in ("precondition", "check"):
                if node.child(key) is not None:
                    self._probe((*where, key), {})
            ask, params = node.child("ask"), node.child("params")
            if ask is not None and params is not None:
                self._fault(params, (*where, "params"), "a question has none")
        for group in _GROUPS.values():
            listed = self._at(group)
            for index in range(len(listed.value) if isinstance(listed.value, list) else 0):
                self._probe((*group, index), {})

    def _check_retries(self, bound: BoundAction | None, node: Node, where: Steps) -> None:
        retries = node.child("retries")
        if bound is not None and not bound.action.repeatable and retries is not None and retries.value is not None:
            self._fault(retries, (*where, "retries"), f"the action '{bound.name}' must not be repeated: leave the retries out")

    def _check_roles(self, runbook: Runbook) -> None:
        if self._loaded is None:
            return
        valid = list(dict.fromkeys([*ROLES, *self._loaded.platform.runbooks.contacts]))
        roles = runbook.roles
        named: list[tuple[Steps, str]] = [(("roles", "accountable"), roles.accountable)]
        for key in ("responsible", "consulted", "informed"):
            named += [(("roles", key, index), role) for index, role in enumerate(getattr(roles, key))]
        named += [(("approval", "by", index), role) for index, role in enumerate(runbook.approval.by if runbook.approval else ())]
        named += [(("escalation", index, "to"), escalation.to) for index, escalation in enumerate(runbook.escalation)]
        for where, role in named:
            if role not in valid:
                near = difflib.get_close_matches(role, valid, n=1)
                told = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(valid)}; others need an entry in `runbooks.contacts` of the spec"
                self._fault(self._at(where), where, f"there is no role '{role}'; {told}")

    def _check_load(self, runbook: Runbook) -> None:
        load = runbook.load
        if load is None:
            return
        from kivactl.loadtest.catalogue import OWN, load_scenario

        where: Steps = ("load", "scenario")
        try:
            load_scenario(self._scenario(load.scenario), own=self._loaded.folder / OWN if self._loaded else None)
        except KivaError as error:
            said = f"{error.message}{'; ' + error.hint if error.hint and not error.details else ''}"
            self._fault(self._at(where), where, "; ".join([said, *error.details]))
        for key in ("users", "max_tokens"):
            count = getattr(load, key)
            if count is not None and (isinstance(count, str) or not 1 <= count <= 10_000):
                self._fault(self._at(("load", key)), ("load", key), f"must be a whole number from 1 to 10000, not {shown(count)}")

    def _scenario(self, name: str) -> str:
        """A scenario's name, or the absolute path of its file: relative ones count from the runbook's folder."""
        return str(self._path.absolute().parent / name) if "/" in name or Path(name).suffix in {".yaml", ".yml"} else name

    def _step(self, index: int, step: Step, results: Results) -> BoundStep | None:
        where: Steps = ("steps", index)
        do = self._action(where, results) if step.ask is None else None
        undo = self._action((*where, "undo"), results) if step.undo else None
        precondition = self._check((*where, "precondition"), step.precondition, results) if step.precondition else None
        check = self._check((*where, "check"), step.check, results) if step.check else None
        if step.ask is None and do is None:
            return None
        return BoundStep(step, do, undo, precondition, check, lambda known: self._again(lambda: self._rebound_step(index, known)))

    def _rebound_step(self, index: int, results: Results) -> BoundStep | None:
        step = self._validated(Step, ("steps", index), results)
        return self._step(index, step, results) if step else None

    def _checks(self, group: Steps, results: Results) -> tuple[BoundCheck, ...]:
        listed = self._at(group)
        found = []
        for index in range(len(listed.value) if isinstance(listed.value, list) else 0):
            check = self._validated(Check, (*group, index), results)
            bound = self._check((*group, index), check, results) if check else None
            if bound:
                found.append(bound)
        return tuple(found)

    def _check(self, where: Steps, check: Check, results: Results) -> BoundCheck | None:
        found = self._probe(where, results)
        if found is None:
            return None
        probe, params = found
        for key, message in tolerances.faults_of(check.tolerance, probe.kind):
            at = (*where, "tolerance", key)
            self._fault(self._at(at), at, message)
        return BoundCheck(check, probe, params)

    def _action(self, where: Steps, results: Results) -> BoundAction | None:
        found = self._named(where, "action", ACTIONS, results)
        if found is None:
            return None
        name, action, params = found
        # Of one's own programs nobody else knows whether they may be repeated and what they take away.
        own = {key: getattr(params, key) for key in ("repeatable", "destructive") if key in type(params).model_fields}
        return BoundAction(name, replace(action, **own) if own else action, params)

    def _probe(self, where: Steps, results: Results) -> tuple[Probe, Params] | None:
        found = self._named(where, "probe", PROBES, results)
        return (found[1], found[2]) if found else None

    def _named(self, where: Steps, key: str, known: Mapping[str, Any], results: Results) -> tuple[str, Any, Params] | None:
        node = self._at(where)
        name = node.child(key)
        if name is None or not isinstance(name.value, str):
            return None  # told with the form
        entry = known.get(name.value)
        if entry is None:
            near = difflib.get_close_matches(name.value, known, n=1)
            valid = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(sorted(known))}" if known else "there is none yet"
            self._fault(name, (*where, key), f"there is no {key} '{name.value}'; {valid}")
            return None
        params = self._params(entry, node, (*where, "params"), results)
        return None if params is None else (name.value, entry, params)

    def _params(self, entry: Action | Probe, node: Node, where: Steps, results: Results) -> Params | None:
        written = node.child("params") or Node({}, node.place)
        if not isinstance(written.value, dict):
            return None  # told with the form
        schema = schema_of(entry.params) if any(used_in(written)) else {}
        before = len(self._faults)
        tree = resolved(written, lambda name: self._words.lookup(name, where, results), where, self._faults, schema)
        if len(self._faults) > before:
            return None
        params, found = validated(entry.params, tree)
        self._faults += [Fault(fault.place, path_of(where) + ("." if fault.path else "") + fault.path, fault.message) for fault in found]
        if params is not None:
            # An example says nothing about the spec: what is not known yet is checked when it is.
            known = {key for key, child in written.value.items() if not any(self._words.lookup(name, where, results).label for name in used_in(child))}
            self._check_names(params, {key: child for key, child in written.value.items() if key in known}, where)
            self._check_rules(params, written, where, frozenset(written.value) - known)
        return params

    def _check_names(self, params: Params, nodes: Mapping[str, Node], where: Steps) -> None:
        """Fields marked `json_schema_extra={"names": "model"}` name something of the spec."""
        if self._platform is None:
            return
        for field, info in type(params).model_fields.items():
            kind = info.json_schema_extra.get("names") if isinstance(info.json_schema_extra, dict) else None
            if kind is None or field not in nodes:
                continue
            value = getattr(params, field)
            for name in value if isinstance(value, (tuple, list)) else (value,):
                unknown = parameters.unknown_name(ParameterType(str(kind)), str(name), self._platform) if name is not None else ""
                if unknown:
                    self._fault(nodes[field], (*where, field), unknown)

    def _check_rules(self, params: Params, node: Node, where: Steps, unknown: frozenset[str]) -> None:
        """What parameters of a type know themselves about the spec (`faults_in(loaded)`)."""
        rule = getattr(params, "faults_in", None)
        if rule is None or self._loaded is None:
            return
        for key, message in rule(self._loaded):
            if key not in unknown:
                self._fault(node.child(key) or node, (*where, key), message)

    # Places and faults.

    def _validated(self, model: type[_T], where: Steps, results: Results) -> _T | None:
        value, _ = validated(model, self._words.resolved_around(self._at(where), where, results))
        return value

    def _again(self, build: Any) -> Any:
        """Bind a part once more; with true values it may have faults that the examples had not.

        Raises:
            SpecError: It has.
        """
        self._faults.clear()
        found = build()
        if self._faults or found is None:
            faults, self._faults[:] = list(self._faults), []
            raise faulty(self._path, faults) if faults else SpecError(f"a result does not fit into the runbook {self._path}")
        return found

    def _at(self, where: Steps) -> Node:
        node = self._tree
        for step in where:
            node = node.child(step) or Node(None, node.place)
        return node

    def _fault(self, node: Node, where: Steps, message: str) -> None:
        self._faults.append(Fault(node.place, path_of(where), message))


def faulty(path: Path, faults: list[Fault]) -> SpecError:
    """The error that tells every fault of a runbook, in the order of its lines."""
    if elsewhere := refused(path, faults):
        return elsewhere
    ordered = sorted(set(faults), key=lambda fault: (fault.place.line, fault.path, fault.message))
    count = "a fault" if len(ordered) == 1 else f"{len(ordered)} faults"
    return SpecError(f"the runbook {path} has {count}", f"correct it, then: kivactl runbook check {path}", tuple(map(str, ordered)))


def _below(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}.")


_GROUPS: dict[str, Steps] = {
    "preconditions": ("preconditions",),
    "before": ("steady_state", "before"),
    "during": ("steady_state", "during"),
    "after": ("steady_state", "after"),
}
