"""One's own programs: only those that the spec approves, without a shell, without kivactl's environment."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from kivactl.errors import KivaError, PreconditionError, ToolError
from kivactl.plan import Outcome, Status
from kivactl.runbooks.actions.action import ANYWHERE, Action, Kind, Params, Probe, Site
from kivactl.spec.fields import PositiveDuration
from kivactl.spec.load import Loaded
from kivactl.stack.redaction import redacted
from kivactl.tools import process

_KEPT_LINES = 200
_KEPT_CHARACTERS = 2000
_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""Of kivactl's own environment, which may hold the passphrase of the backups."""

_LOADERS = ("LD_", "DYLD_", "PYTHON", "PERL", "RUBY", "NODE_", "BASH", "JAVA_", "GCONV_", "GLIBC_")
_SHELLS = {"PATH", "ENV", "IFS", "SHELLOPTS", "PS4", "PROMPT_COMMAND", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"}
"""Names by which a runbook could make an approved program run something else."""

Word = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=100_000)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]


class CommandParams(Params):
    """A program and what it is given; no shell reads any of it."""

    program: Word = Field(description="Absolute path; one of `runbooks.commands` of the spec.")
    args: tuple[Word, ...] = Field(default=(), max_length=1000, description="Arguments, each as it is.")
    environment: dict[Variable, Word] = Field(default_factory=dict, description="Added to a small environment (PATH, HOME, LANG ...).")
    stdin: Word | None = Field(default=None, description="Text for its standard input.")
    timeout: PositiveDuration = Field(default=600.0, description="Time until it is ended.")

    def faults_in(self, loaded: Loaded) -> Iterator[tuple[str, str]]:
        """Why the spec does not allow it: key and message of each."""
        if unapproved := _unapproved(self.program, loaded.platform.runbooks.commands) or _unsafe(Path(self.program)):
            yield "program", unapproved
        for name in self.environment:
            if name in _SHELLS or name.startswith(_LOADERS):
                yield "environment", f"'{name}' could make the program run another one: it cannot be set here"


class ActionParams(CommandParams):
    """A program that changes something."""

    exit_codes: tuple[int, ...] = Field(default=(0,), min_length=1, description="Exit codes that mean success.")
    repeatable: bool = Field(default=False, description="Whether running it again, after it was cut off anywhere, leads to the same end.")
    destructive: bool = Field(default=False, description="Whether it takes something away that a plan must point out.")


def _act(site: Site, params: ActionParams) -> Iterator[Outcome]:
    """Run it; the record keeps its last lines without what looks like a secret.

    Raises:
        PreconditionError: It is not approved (any more).
        ToolError: It failed or did not end in time.
    """
    step = Path(params.program).name
    started_s = site.deployment.clock.now_s()
    yield Outcome(step, Status.STARTED)
    completed = _run(site, params)
    lines = _lines(completed)
    for line in lines:
        yield Outcome(step, Status.PROGRESS, line)
    if completed.code not in params.exit_codes:
        raise ToolError(process.failure(completed).message, details=tuple(lines[-20:]))
    facts = {"lines": lines, "result": {"output": lines[-1] if lines else "", "exit_code": completed.code}}
    yield Outcome(step, Status.DONE, lines[-1] if lines else f"exit code {completed.code}", site.deployment.clock.now_s() - started_s, facts)


def _exit_code(site: Site, params: CommandParams) -> int:
    return _run(site, params).code


def _output(site: Site, params: CommandParams) -> str:
    completed = _run(site, params)
    if completed.code != 0:
        raise ToolError(process.failure(completed).message, details=tuple(_lines(completed)[-20:]))
    return redacted(completed.stdout.strip())[:_KEPT_CHARACTERS]


def _run(site: Site, params: CommandParams) -> process.Completed:
    loaded = site.deployment.loaded
    for _, message in params.faults_in(loaded):  # files and approvals may have changed since the runbook was read
        raise PreconditionError(f"'{params.program}' cannot be run: {message}", "ls -l " + params.program)
    own = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment = {**own, "KIVA_PLATFORM": loaded.platform.name, "KIVA_RUN": site.run, **params.environment}
    try:
        return process.run(
            [params.program, *params.args],
            cwd=loaded.folder,
            env=environment,
            inherit=False,
            stdin=params.stdin,
            timeout_s=params.timeout,
            check=False,
        )
    except KivaError:
        raise
    except OSError as error:
        raise ToolError(f"'{params.program}' cannot be run: {error.strerror}", f"file {params.program}") from None


def _lines(completed: process.Completed) -> list[str]:
    text = redacted(completed.stdout.rstrip("\n") + ("\n" if completed.stdout.strip() and completed.stderr.strip() else "") + completed.stderr.rstrip("\n"))
    return [line[:_KEPT_CHARACTERS] for line in text.splitlines()][-_KEPT_LINES:]


def _unapproved(program: str, approved: tuple[str, ...]) -> str:
    if program in approved:
        return ""
    near = difflib.get_close_matches(program, approved, n=1)
    return f"'{program}' is not among `runbooks.commands` of the spec" + (f"; did you mean '{near[0]}'?" if near else "")


def _unsafe(path: Path) -> str:
    """Why a file must not be run: someone else could have put something else there; empty when it is safe."""
    mine = {0, os.geteuid()}
    try:
        real = path.resolve(strict=True)
        status = real.stat()
        folders = [(folder, folder.stat()) for folder in real.parents]
    except (OSError, RuntimeError) as error:
        return f"{path} cannot be looked at: {error.strerror if isinstance(error, OSError) else 'its links lead in a circle'}"
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is not a regular file"
    if status.st_uid not in mine:
        return f"{path} belongs to someone else than root and you"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be changed by others; chmod go-w {real}"
    if not os.access(real, os.X_OK):
        return f"{path} is not executable; chmod +x {real}"
    for folder, found in folders:
        open_to_all = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in mine or open_to_all:
            return f"{path} could be replaced by others, for they may change the folder {folder}"
    return ""


ACTIONS: Mapping[str, Action] = {
    "command": Action(
        ActionParams,
        _act,
        "Runs a program that the spec approves, without a shell.",
        repeatable=False,
        results={"output": "last line", "exit_code": 0},
        targets=ANYWHERE,
    )
}
PROBES: Mapping[str, Probe] = {
    "command.exit-code": Probe(CommandParams, _exit_code, Kind.NUMBER, "Exit code of a program that the spec approves.", targets=ANYWHERE),
    "command.output": Probe(CommandParams, _output, Kind.TEXT, "What such a program prints on stdout, when it ends with 0.", targets=ANYWHERE),
}
