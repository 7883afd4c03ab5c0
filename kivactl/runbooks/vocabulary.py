"""What the placeholders of one runbook stand for: its parameters, the results of its steps, the platform."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from kivactl.runbooks import parameters
from kivactl.runbooks.actions import ACTIONS
from kivactl.runbooks.bound import Results
from kivactl.runbooks.format import Parameter
from kivactl.runbooks.placeholders import Known, Steps, resolved
from kivactl.runbooks.targets import alternatives
from kivactl.spec.document import Fault, Node, path_of
from kivactl.spec.faults import validated
from kivactl.spec.platform import Platform

_OWN_RESULTS: dict[str, dict[str, Any]] = {"run": {"name": "name-20260101T120000Z-4711"}, "platform": {"name": "platform"}}
"""Placeholders with a dot that are no step's result, with examples; no step may have these names."""


class Vocabulary:
    """Reads what a file declares, and says what its placeholders stand for.

    Args:
        runbook: Name of the runbook.
        tree: Its content.
        faults: Gets what is found.
        platform: The spec; None without one.
        chosen: The values of parameters; None when none is chosen yet.

    Attributes:
        misdeclared: Names of the parameters whose declaration has faults.
    """

    def __init__(self, runbook: str, tree: Node, faults: list[Fault], platform: Platform | None, chosen: Mapping[str, Any] | None) -> None:
        self._runbook = runbook
        self._tree = tree
        self._faults = faults
        self._platform = platform
        self._chosen = chosen
        self._declared: dict[str, Parameter] = {}
        self._values: dict[str, Known] = {}
        self._order: list[str] = []
        self._results: dict[str, dict[str, Any]] = {}
        self.misdeclared: list[str] = []

    def read_parameters(self) -> dict[str, Any]:
        """The declarations, and the values chosen for them.

        Raises:
            UsageError: A chosen parameter does not fit.
        """
        node = self._tree.child("parameters")
        for name, child in node.value.items() if node is not None and isinstance(node.value, dict) else ():
            where: Steps = ("parameters", name)
            parameter, faults = validated(Parameter, child)
            if parameter is None:
                self._faults += [Fault(fault.place, path_of(where) + ("." if fault.path else "") + fault.path, fault.message) for fault in faults]
                self.misdeclared.append(name)
                self._values[name] = Known("", f"<{name}>")
                continue
            self._declared[name] = parameter
            found = parameters.faults_of(parameter, self._platform)
            for key, message in found:
                self._fault(child.child(key) or child, (*where, key), message)
            self._values[name] = Known("" if found else parameters.example_of(parameter, self._platform), f"<{name}>", parameter.type)
        if self._faults or self._chosen is None:
            chosen: dict[str, Any] = {}
            if not self._faults and all(parameter.default is not None or parameter.optional for parameter in self._declared.values()):
                chosen = parameters.chosen_values(self._declared, {}, None, self._runbook)
            defaults = {name: parameter.default for name, parameter in self._declared.items() if parameter.default is not None}
            for name in defaults:
                known = self._values[name]
                self._values[name] = Known(known.value, "", known.kind)
            return chosen
        chosen = parameters.chosen_values(self._declared, self._chosen, self._platform, self._runbook)
        self._values = {name: Known(value, "", self._declared[name].type) for name, value in chosen.items()}
        return chosen

    def read_order(self) -> None:
        """The steps' names in order, each with examples of its results."""
        found = self._tree.child("steps")
        steps = found.value if found is not None and isinstance(found.value, list) else []
        for index, node in enumerate(steps):
            name, action = node.child("name"), node.child("action")
            text = name.value if name is not None and isinstance(name.value, str) else ""
            if name is not None and text in _OWN_RESULTS:
                self._fault(name, ("steps", index, "name"), f"'{text}' is kept for ${{{text}.name}}; give the step another name")
            elif name is not None and text and text in self._order and not alternatives(steps[: index + 1], text):
                self._fault(name, ("steps", index, "name"), f"'{text}' is the name of an earlier step already")
            known = ACTIONS.get(action.value) if action is not None and isinstance(action.value, str) else None
            self._order.append(text)
            self._results.setdefault(text, {}).update(known.results if known else {})

    def lookup(self, name: str, where: Steps, results: Results) -> Known:
        """What a placeholder stands for.

        Args:
            name: As it is written between `${` and `}`.
            where: Its place in the file.
            results: Of the steps that have run.

        Raises:
            ValueError: Nothing; in a sentence.
        """
        first, dot, rest = name.partition(".")
        if not dot:
            if name in self._values:
                return self._values[name]
            near = difflib.get_close_matches(name, self._values, n=1)
            told = f"did you mean '${{{near[0]}}}'?" if near else "declare it under `parameters`, or write $${ for a plain ${"
            raise ValueError(f"there is no parameter '{name}'; {told}")
        if first == "platform" and rest == "name" and self._platform is not None:
            return Known(self._platform.name)
        examples = _OWN_RESULTS.get(first) or self._allowed(first, where)
        if rest not in examples:
            near = difflib.get_close_matches(rest, examples, n=1)
            told = f"did you mean '${{{first}.{near[0]}}}'?" if near else f"it has: {', '.join(examples)}" if examples else "it has none"
            raise ValueError(f"'{first}' has no result '{rest}'; {told}")
        if rest in results.get(first, {}):
            return Known(results[first][rest])
        return Known(examples[rest], f"<{name}>")

    def resolved_around(self, node: Node, where: Steps, results: Results) -> Node:
        """The tree with values, but for declarations and for parameters of actions, which `_params` reads by their own type."""
        if isinstance(node.value, dict):
            left = {key for key in node.value if key == "params" or (not where and key == "parameters")}
            values = {key: child if key in left else self.resolved_around(child, (*where, key), results) for key, child in node.value.items()}
            kept = {key: child for key, child in values.items() if child.value is not None or node.value[key].value is None}
            return Node(kept, node.place, node.keys)
        if isinstance(node.value, list):
            return Node([self.resolved_around(child, (*where, index), results) for index, child in enumerate(node.value)], node.place)
        return resolved(node, lambda name: self.lookup(name, where, results), where, self._faults)

    def _allowed(self, step: str, where: Steps) -> dict[str, Any]:
        """The results that a step hands to a place of the file."""
        if where[:2] == ("steady_state", "after"):
            allowed = self._order
        elif where[0] == "steps" and len(where) > 1 and isinstance(where[1], int):
            own = len(where) > 2 and where[2] in {"check", "undo"}
            allowed = self._order[: where[1] + 1 if own else where[1]]
        else:
            allowed = []
        if step in allowed:
            return self._results[step]
        if step in self._order:
            raise ValueError(f"the step '{step}' hands nothing on to this place: it does not come before it")
        near = difflib.get_close_matches(step, [*allowed, *_OWN_RESULTS], n=1)
        raise ValueError(f"there is no step '{step}'" + (f"; did you mean '{near[0]}'?" if near else " before this place"))

    def _fault(self, node: Node, where: Steps, message: str) -> None:
        self._faults.append(Fault(node.place, path_of(where), message))
