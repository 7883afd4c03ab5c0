"""What Ansible says while a playbook runs, from ansible-runner's events; pure.

Source: https://docs.ansible.com/projects/runner/en/stable/python_interface/#runner-events
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kivactl.plan import Outcome, Status

_LONGEST_DIFF = 200

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tasks ended how on one host."""

    ok: int = 0
    changed: int = 0
    failed: int = 0
    unreachable: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed on a host.

    Attributes:
        host: Its name.
        task: The task's name.
        message: The module's, empty where the task hides its results.
        reached: Whether the host was reached at all.
    """

    host: str
    task: str
    message: str
    reached: bool = True


@dataclass(frozen=True, slots=True)
class PlaySummary:
    """How a playbook ended.

    Attributes:
        hosts: Counts by host.
        failures: Tasks that failed or did not reach their host, in order; without those the playbook ignores.
    """

    hosts: Mapping[str, Counts]
    failures: tuple[Failure, ...] = ()

    @property
    def changed(self) -> int:
        """Tasks that changed something, on all hosts together."""
        return sum(counts.changed for counts in self.hosts.values())

    @property
    def succeeded(self) -> bool:
        """Whether no host failed or was out of reach."""
        return not self.failures and not any(counts.failed or counts.unreachable for counts in self.hosts.values())


@dataclass(slots=True)
class Reader:
    """Turns ansible-runner's events into outcomes.

    Attributes:
        hosts: Counts by host, None until the playbook has ended.
        failures: Failed tasks so far, without those the playbook ignores.
    """

    hosts: dict[str, Counts] | None = None
    failures: list[Failure] = field(default_factory=list)

    def read(self, event: Mapping[str, Any]) -> Iterator[Outcome]:
        """The outcomes of one event: one or none."""
        kind, data = event.get("event"), event.get("event_data", {})
        if kind == "playbook_on_stats":
            self.hosts = parse_stats(data)
        elif kind == "runner_on_start":
            yield Outcome(_step(data), Status.STARTED)
        elif kind == "runner_on_skipped":
            yield Outcome(_step(data), Status.SKIPPED, "skipped", float(data.get("duration", 0.0)))
        elif kind == "runner_on_ok":
            yield self._ended(data)
        elif kind in {"runner_on_failed", "runner_on_unreachable"}:
            yield self._failed(data, reached=kind == "runner_on_failed")

    def _ended(self, data: Mapping[str, Any]) -> Outcome:
        result = data.get("res", {})
        changed = bool(result.get("changed"))
        facts: Json = {"changed": changed, "action": data.get("task_action", "")}
        items = result.get("results", []) if not _hidden(result) else []
        if items:
            told = [item for item in items if item.get("changed") and not _hidden(item)]
            facts["items"] = [str(item.get("_ansible_item_label", "")) for item in told]
            if any(diffs := [diff_lines(item) for item in told]):
                facts["diffs"] = diffs
        elif changed and (lines := diff_lines(result)):
            facts["diff"] = lines
        spoken = facts["action"].endswith("debug") and not _hidden(result)
        messages = [str(entry["msg"]) for entry in (items or [result]) if spoken and "msg" in entry and not _hidden(entry)]
        if spoken:
            facts["messages"] = messages
        return Outcome(_step(data), Status.DONE, "; ".join(messages) or ("changed" if changed else "ok"), float(data.get("duration", 0.0)), facts)

    def _failed(self, data: Mapping[str, Any], *, reached: bool) -> Outcome:
        message = message_of(data.get("res", {}))
        facts = {"action": data.get("task_action", ""), "reached": reached}
        elapsed_s = float(data.get("duration", 0.0))
        if data.get("ignore_errors"):
            return Outcome(
                _step(data), Status.DONE, f"failed, which the playbook ignores: {message}".removesuffix(": "), elapsed_s, {**facts, "changed": False}
            )
        self.failures.append(Failure(data.get("host", ""), data.get("task", ""), message, reached))
        return Outcome(_step(data), Status.FAILED, message or "failed; the task hides its results", elapsed_s, facts)


def parse_stats(data: Mapping[str, Any]) -> dict[str, Counts]:
    """Counts by host from the event that ends a playbook."""
    columns = {"ok": "ok", "changed": "changed", "failed": "failures", "unreachable": "dark"}
    hosts = sorted({host for column in ("processed", *columns.values()) for host in data.get(column, {})})
    return {host: Counts(**{name: data.get(column, {}).get(host, 0) for name, column in columns.items()}) for host in hosts}


def message_of(result: Mapping[str, Any]) -> str:
    """What a module says about its failure; empty where the task hides its results."""
    if _hidden(result):
        return ""
    for item in result.get("results", []):
        if item.get("failed"):
            return message_of(item)
    lines = str(result.get("stderr") or result.get("module_stderr") or "").strip().splitlines()
    message = str(result.get("msg", "")).strip()
    # A command's message says only that it failed; why stands in its last line.
    if lines and (not message or message.startswith(("non-zero return code", "MODULE FAILURE", "Module result deserialization failed"))):
        return lines[-1]
    return message


def diff_lines(result: Mapping[str, Any]) -> list[str]:
    """How a module says that something changes, as lines of a unified diff; none where the task hides its results."""
    if _hidden(result):
        return []
    told = result.get("diff") or []
    lines: list[str] = []
    for part in told if isinstance(told, list) else [told]:
        if "prepared" in part:
            lines += str(part["prepared"]).splitlines()
        elif "before" in part and "after" in part:
            before, after = (_lines(part[side]) for side in ("before", "after"))
            title = str(part.get("after_header") or part.get("before_header") or "")
            body = list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]
            lines += ([title.removesuffix(" (content)")] if title and body else []) + body
    return lines if len(lines) <= _LONGEST_DIFF else [*lines[:_LONGEST_DIFF], f"... and {len(lines) - _LONGEST_DIFF} more lines"]


def _lines(side: Any) -> list[str]:
    """One side of a diff: text, or data that a module compares."""
    return side.splitlines() if isinstance(side, str) else json.dumps(side, indent=1, sort_keys=True).splitlines()


def _hidden(result: Mapping[str, Any]) -> bool:
    return bool(result.get("censored") or result.get("_ansible_no_log"))


def _step(data: Mapping[str, Any]) -> str:
    return f"{data.get('host', '')}: {data.get('task', '')}"
