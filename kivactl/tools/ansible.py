"""Ansible: runs a playbook through ansible-runner and tells what its tasks do while they do it.

Every run has a private folder of its own: ansible-runner reads leftovers in one (a stray `--check`) into the next run.
Nothing of the caller's Ansible configuration takes part, and nothing stays behind: no file, no worker, no ssh.

Source: https://docs.ansible.com/projects/runner/en/stable/python_interface/
"""

from __future__ import annotations

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
from pathlib import Path
from typing import Any

from kivactl.errors import ToolError
from kivactl.plan import Outcome
from kivactl.tools import process, ssh
from kivactl.tools.ansible_output import Json, PlaySummary, Reader
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
