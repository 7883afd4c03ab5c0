"""What Terraform prints, and what it means: events, plans, outputs. Pure.

Sources: https://developer.hashicorp.com/terraform/internals/machine-readable-ui and .../internals/json-format; OpenTofu prints the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kivactl.errors import ToolError
from kivactl.plan import Change, Difference, Outcome, Status, Verb
from kivactl.tools.version import Version

_LONGEST_VALUE = 80
_KEPT_LINES = 20
_STATE_FORMAT = 4

_VERBS: Mapping[tuple[str, ...], Verb] = {
    ("create",): Verb.CREATE,
    ("update",): Verb.UPDATE,
    ("delete",): Verb.DELETE,
    ("delete", "create"): Verb.REPLACE,
    ("create", "delete"): Verb.REPLACE,
}
_DOING = {"create": "being made", "update": "being changed", "delete": "being taken away", "read": "being read"}
_DONE = {"create": "made", "update": "changed", "delete": "taken away", "read": "read"}

_DROPPED = re.compile(r"context canceled|operation was canceled")
"""How providers say that they dropped a request under way."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """An error or a warning in Terraform's own words."""

    severity: str
    summary: str
    detail: str = ""
    address: str = ""

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(part for part in (self.summary, self.detail) if part)


@dataclass(frozen=True, slots=True)
class TerraformPlan:
    """What a saved plan would do.

    Attributes:
        changes: In Terraform's order; values that Terraform calls sensitive are never in them.
        drift: Resources that somebody changed or took away by hand, and that the plan sets right again.
        moved: Resources that only get another name in the state.
    """

    changes: tuple[Change, ...]
    drift: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that Terraform made.

    Attributes:
        address: Its name in the configuration.
        key: Its key where there are several; None otherwise.
        values: Its attributes, without sensitive ones.
    """

    address: str
    key: str | None
    values: Mapping[str, Any]


@dataclass(slots=True)
class Reader:
    """Turns Terraform's lines into outcomes.

    Attributes:
        diagnostics: Errors and warnings so far.
        lines: The last lines that are no events.
        planned: How many changes are planned.
        completed: How many changes were made.
        begun: Addresses of changes that have not ended, or were dropped under way.
    """

    diagnostics: list[Diagnostic] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    planned: int = 0
    completed: int = 0
    begun: list[str] = field(default_factory=list)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """What went wrong."""
        return tuple(one for one in self.diagnostics if one.severity == "error")

    def read(self, line: str) -> Iterator[Outcome]:
        """The outcomes of one line: one or none."""
        event = parse_event(line)
        if event is None:
            if line.strip():
                self.lines = [*self.lines[1 - _KEPT_LINES :], line]
            return
        kind = event.get("type")
        if kind == "diagnostic":
            said = _diagnostic(event["diagnostic"])
            self.diagnostics.append(said)
            if said.address and _DROPPED.search(said.text):  # the cloud may have made it all the same
                self.begun.append(said.address)
        elif kind == "planned_change":
            self.planned += event.get("change", {}).get("action") not in {"read", "noop", "move"}
        elif kind in {"apply_start", "apply_progress", "apply_complete", "apply_errored"}:
            yield from self._applied(kind, event["hook"])
        elif kind == "refresh_start":
            yield Outcome(_address(event["hook"]), Status.PROGRESS, "looked at")

    def _applied(self, kind: str, hook: Json) -> Iterator[Outcome]:
        action, elapsed_s = str(hook.get("action", "")), float(hook.get("elapsed_seconds", 0.0))
        if action == "read" and kind == "apply_start":
            yield Outcome(_address(hook), Status.PROGRESS, "looked at")
        if action in {"read", "noop"}:
            return
        status = {"apply_start": Status.STARTED, "apply_progress": Status.PROGRESS, "apply_complete": Status.DONE}.get(kind, Status.FAILED)
        self.completed += status is Status.DONE
        if status is Status.STARTED:
            self.begun.append(_address(hook))
        elif status is not Status.PROGRESS and _address(hook) in self.begun:
            self.begun.remove(_address(hook))
        words = _DONE if status is Status.DONE else _DOING
        message = "failed" if status is Status.FAILED else words.get(action, action)
        data = {"action": action, **({"id": hook["id_value"]} if hook.get("id_key") == "id" and "id_value" in hook else {})}
        yield Outcome(_address(hook), status, message, elapsed_s, data)


def parse_event(line: str) -> dict[str, Any] | None:
    """An event of Terraform's machine-readable output, None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "@level" in event else None


def parse_diagnostics(lines: Iterable[str]) -> tuple[Diagnostic, ...]:
    """The errors in Terraform's output for people (`-no-color`): a line `Error: ...`, an empty one, then its detail."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        bare = line.strip("\u2502\u2577\u2575 ").rstrip()
        if bare.startswith("Error: "):
            found.append((bare.removeprefix("Error: "), []))
        elif found and bare:
            found[-1][1].append(bare)
    return tuple(Diagnostic("error", summary, " ".join(detail)) for summary, detail in found)


def parse_version(text: str) -> Version:
    """The version out of `version -json`.

    Raises:
        ToolError: It is not that.
    """
    try:
        numbers = json.loads(text)["terraform_version"].partition("-")[0].split(".")
        return Version(*(int(number) for number in numbers[:3]))
    except (json.JSONDecodeError, KeyError, ValueError, TypeError, AttributeError):
        raise ToolError("Terraform does not tell its version", details=tuple(text.splitlines()[-_KEPT_LINES:])) from None


def parse_plan(text: str) -> TerraformPlan:
    """What a saved plan would do, out of `show -json`.

    Raises:
        ToolError: It is no plan.
    """
    plan = _json(text, "plan")
    listed = plan.get("resource_changes", [])
    changes = tuple(_change(one) for one in listed if tuple(one["change"]["actions"]) in _VERBS)
    changed = {change.subject for change in changes}
    drift = tuple(one["address"] for one in plan.get("resource_drift", []) if one["address"] in changed and _is_drift(one["change"]))
    moved = tuple(one["address"] for one in listed if one.get("previous_address") not in {None, one["address"]})
    return TerraformPlan(changes, drift, moved)


def parse_outputs(text: str) -> dict[str, Any]:
    """Values of the outputs by name, out of `output -json`; sensitive ones stay where they are.

    Raises:
        ToolError: It is not that.
    """
    return {name: output["value"] for name, output in _json(text, "outputs").items() if not output.get("sensitive")}


def parse_state(text: str) -> tuple[Resource, ...]:
    """Everything that Terraform made, out of `state pull`; nothing before the first apply.

    `show -json` says the same, and starts every provider for it: seconds.

    Raises:
        ToolError: It is no state.
    """
    if not text.strip():
        return ()
    state = _json(text, "state")
    if state.get("version") != _STATE_FORMAT:
        raise ToolError(f"Terraform's state has the format {state.get('version')}, and kivactl knows {_STATE_FORMAT}")
    return tuple(resource for one in state.get("resources", []) if one.get("mode") == "managed" for resource in _instances(one))


def _instances(resource: Json) -> Iterator[Resource]:
    base = ".".join(part for part in (resource.get("module"), resource["type"], resource["name"]) if part)
    for instance in resource.get("instances", []):
        key = instance.get("index_key")
        suffix = "" if key is None else f"[{json.dumps(key)}]"
        hidden = {path[0]["value"] for path in instance.get("sensitive_attributes", []) if path and path[0].get("type") == "get_attr"}
        values = {name: value for name, value in (instance.get("attributes") or {}).items() if name not in hidden}
        yield Resource(f"{base}{suffix}", None if key is None else str(key), values)


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ToolError(f"Terraform's {what} cannot be read", details=tuple(text.splitlines()[-_KEPT_LINES:]))
    return value


def _diagnostic(value: Json) -> Diagnostic:
    return Diagnostic(str(value.get("severity", "error")), str(value.get("summary", "")), str(value.get("detail", "")), str(value.get("address", "")))


def _address(hook: Json) -> str:
    return str(hook.get("resource", {}).get("addr", "?"))


def _change(resource: Json) -> Change:
    change = resource["change"]
    verb = _VERBS[tuple(change["actions"])]
    differences = tuple(_differences(change)) if verb in {Verb.UPDATE, Verb.REPLACE} else ()
    return Change(verb, resource["address"], differences)


def _differences(change: Json) -> Iterator[Difference]:
    """The attributes that differ, at the top level. What only becomes known with the change is one only where it forces a replacement."""
    before, after, unknown = change.get("before") or {}, change.get("after") or {}, change.get("after_unknown") or {}
    hidden = {name for side in ("before_sensitive", "after_sensitive") for name, mark in _marks(change.get(side)).items() if _any(mark)}
    forcing = {path[0] for path in change.get("replace_paths", []) if path}
    for name in sorted({*before, *after, *forcing}):
        if name in forcing or (before.get(name) != after.get(name) and not _any(unknown.get(name))):
            old = "***" if name in hidden else _shown(before.get(name))
            new = "***" if name in hidden else "(known afterwards)" if _any(unknown.get(name)) else _shown(after.get(name))
            yield Difference(name, old, new)


def _marks(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _any(mark: Any) -> bool:
    """Whether anything within is marked."""
    if isinstance(mark, dict):
        return any(_any(part) for part in mark.values())
    if isinstance(mark, list):
        return any(_any(part) for part in mark)
    return bool(mark)


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _is_drift(change: Json) -> bool:
    return list(change["actions"]) != ["no-op"]
