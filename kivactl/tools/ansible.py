"""Ansible: runs a playbook through ansible-runner and tells what its tasks do while they do it.

Every run has a private folder of its own: ansible-runner reads leftovers in one (a stray `--check`) into the next run.
Nothing of the caller's Ansible configuration takes part, and nothing stays behind: no file, no worker, no ssh.

Source: https://docs.ansible.com/projects/runner/en/stable/python_interface/
"""

from __future__ import annotations

import difflib
import json
import os
import queue
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kivactl.errors import ToolError
from kivactl.plan import Outcome, Status
from kivactl.tools import process, ssh
from kivactl.tools.clock import Clock
from kivactl.tools.leftovers import end_marked

RUN_VARIABLE = "KIVA_ANSIBLE_RUN"
"""Marks every process of a run; cancelled workers and ssh masters are found by it."""

_PASSED_ON = ("HOME", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "TZ", "USER", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Variables of ours that a run gets; the rest, with every ANSIBLE_* of the caller's, stays outside."""

_OF_RUNNER = ("AWX_ISOLATED_DATA_DIR", "ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK", "RUNNER_OMIT_EVENTS", "RUNNER_ONLY_FAILED_EVENTS")
"""Variables that ansible-runner sets, by which its events reach us."""

_PREFIX = "kiva-ansible-"
_POLL_S = 0.2
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


def local_inventory(name: str = "localhost") -> Json:
    """An inventory of this machine alone, without ssh, with this Python."""
    return {"all": {"hosts": {name: {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}}}


def run_playbook(
    playbook: Path,
    inventory: Mapping[str, Any],
    extra_vars: Mapping[str, Any],
    *,
    check: bool = False,
    diff: bool = False,
    limit: Sequence[str] = (),
    forks: int = 5,
    login: ssh.Login | None = None,
    private_data: Path,
    record: Path | None = None,
    timeout_s: float,
    clock: Clock | None = None,
) -> Generator[Outcome, None, PlaySummary]:
    """Run a playbook; closing the generator ends it.

    Args:
        playbook: The file; roles lie beside it.
        inventory: Hosts in the form of Ansible's YAML inventories.
        extra_vars: Variables; they pass through a file that only we can read.
        check: Only say what would change.
        diff: Also say how: an outcome's data then has `diff`.
        limit: Names of the hosts or groups to run on, all when empty.
        forks: How many hosts are worked on at once.
        login: How hosts are logged in to that are not this machine. A host that fails does not stop the others.
        private_data: Folder for the run's own folder, which is gone afterwards.
        record: File that gets what Ansible printed, made with mode 0600; what a task hides is not in it.
        timeout_s: Seconds until the run is ended.
        clock: Time.

    Yields:
        One started and one ending outcome per host and task, in order; its data has `changed`, `action` and, for a
        loop, the `items` that changed.

    Returns:
        The summary; a failed task is found there and does not raise.

    Raises:
        PreconditionError: Ansible is not installed.
        ToolError: Ansible could not run the playbook at all, or not within the time.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    if shutil.which("ansible-playbook", path=path) is None:
        process.find("ansible-playbook", "pip install kivactl")
    with _private_folder(private_data) as private:
        (private / "tmp").mkdir()
        (private / "ansible.cfg").touch()  # empty, in place of the user's
        (private / "inventory.json").write_text(json.dumps(inventory))
        (private / "vars.json").write_text(json.dumps(extra_vars))
        settings = settings_for(private, path)
        if login is not None:
            (private / "ssh_config").write_text(ssh.config_for(login))
            settings |= ssh_settings_for(private)
        words = command_line(check=check, diff=diff, limit=limit, forks=forks)
        run = _Run(playbook.resolve(), private, command_line=words, timeout_s=timeout_s, environment=settings, clock=clock or Clock())
        reader = Reader()
        try:
            for event in run.events():
                yield from reader.read(event)
        finally:
            if record is not None:
                with os.fdopen(os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                    file.writelines(f"{line}\n" for line in run.lines())
        if run.expired:
            raise ToolError(f"the playbook '{playbook.name}' did not end within {timeout_s:g} s")
        if reader.hosts is None:
            raise ToolError(f"Ansible could not run the playbook '{playbook.name}'", details=run.lines()[-20:])
        return PlaySummary(reader.hosts, tuple(reader.failures))


def settings_for(private: Path, path: str) -> dict[str, str]:
    """Ansible's settings for a run, as environment variables.

    Args:
        private: The run's own folder.
        path: Where programs are looked for.
    """
    return {
        "PATH": path,
        "LC_ALL": "C.UTF-8",  # Ansible insists on UTF-8, and we read the messages of tools in English
        RUN_VARIABLE: private.name,
        "TMPDIR": str(private / "tmp"),  # a module that is killed leaves its own copy there
        "ANSIBLE_CALLBACK_PLUGINS": "",
        "ANSIBLE_CONFIG": str(private / "ansible.cfg"),
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_HOME": str(private / "home"),
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_INVENTORY_ENABLED": "yaml",
        "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_LOCAL_TEMP": str(private / "tmp"),
        "ANSIBLE_NOCOLOR": "True",
        "ANSIBLE_NOCOWS": "True",
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
    }


def ssh_settings_for(private: Path) -> dict[str, str]:
    """Ansible's further settings for hosts that are reached by SSH: one connection to each, by the configuration in the run's folder."""
    return {
        # Ansible itself adds where the connection's socket lies, once it sees that connections are to stay.
        "ANSIBLE_SSH_ARGS": f"-F {private / 'ssh_config'} -o ControlMaster=auto -o ControlPersist=60s",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(private / "ssh"),
        "ANSIBLE_SSH_TRANSFER_METHOD": "piped",  # no sftp is needed over there
        "ANSIBLE_TIMEOUT": str(ssh.CONNECT_S),
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",  # what Debian and Ubuntu have; looking for others costs a connection
    }


def command_line(*, check: bool, diff: bool, limit: Sequence[str], forks: int) -> str:
    """The arguments of ansible-playbook besides inventory and playbook.

    Raises:
        ValueError: A name to limit the run to is a pattern, which would mean more than that host.
    """
    words = ["--extra-vars", "@vars.json", "--forks", str(forks)]
    words += ["--check"] * check + ["--diff"] * diff
    for name in limit:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            msg = f"'{name}' is no name of a host or group"
            raise ValueError(msg)
    words += ["--limit", ",".join(limit)] if limit else []
    return " ".join(words)


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


class _Run:
    """ansible-runner in a thread of its own, its events in a queue."""

    def __init__(self, playbook: Path, private: Path, *, command_line: str, timeout_s: float, environment: dict[str, str], clock: Clock) -> None:
        self.expired = False
        self._private = private
        self._environment = environment
        self._clock = clock
        self._deadline_s = clock.now_s() + timeout_s
        self._stopped = threading.Event()
        self._queue: queue.SimpleQueue[Json | BaseException | None] = queue.SimpleQueue()
        self._words = (playbook, command_line)

    def events(self) -> Iterator[Json]:
        """The events in order. Leaving early, by whatever error, ends the run and all its processes."""
        thread = threading.Thread(target=self._run, name="ansible", daemon=True)
        thread.start()
        try:
            while (event := self._queue.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self._stopped.set()
            thread.join()
            end_marked(RUN_VARIABLE, self._private.name, self._clock)

    def lines(self) -> tuple[str, ...]:
        """What Ansible printed, without colours and empty lines."""
        found = sorted((self._private / "artifacts").glob("*/stdout"))
        text = found[0].read_text(errors="replace") if found else ""
        return tuple(line for line in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).splitlines() if line.strip())

    def _run(self) -> None:
        try:
            from ansible_runner import Runner, RunnerConfig

            playbook, command_line = self._words
            config = RunnerConfig(
                private_data_dir=str(self._private),
                playbook=str(playbook),
                inventory=str(self._private / "inventory.json"),
                cmdline=command_line,
                envvars=self._environment,
                quiet=True,
                suppress_env_files=True,
            )
            config.prepare()
            config.pexpect_timeout = _POLL_S  # given as a setting it would be lost: ansible-runner takes settings from files only
            passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            config.env = passed_on | self._environment | {name: config.env[name] for name in _OF_RUNNER if name in config.env}
            Runner(config, event_handler=self._keep, cancel_callback=self._cancelled).run()
        except BaseException as error:  # noqa: BLE001  (it is raised where the events are read)
            self._queue.put(error)
        finally:
            self._queue.put(None)

    def _keep(self, event: Json) -> bool:
        self._queue.put(event)
        return False  # no file for it: the events are ours to show and to journal

    def _cancelled(self) -> bool:
        self.expired = self.expired or self._clock.now_s() >= self._deadline_s
        if self.expired or self._stopped.is_set():
            # Workers have sessions of their own, so the signal to the leader's group, which comes next, misses them.
            end_marked(RUN_VARIABLE, self._private.name, self._clock)
            return True
        return False


@contextmanager
def _private_folder(parent: Path) -> Iterator[Path]:
    """A fresh folder of a run; those of killed runs, and what is left of their processes, are cleared away first."""
    for stale in parent.glob(f"{_PREFIX}*"):
        owner = stale.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(FileNotFoundError):  # another run may clear it away at the same time
            if owner.isdigit() and not Path("/proc", owner).exists() and stale.stat().st_uid == os.getuid():
                end_marked(RUN_VARIABLE, stale.name)
                shutil.rmtree(stale, ignore_errors=True)
    private = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)
