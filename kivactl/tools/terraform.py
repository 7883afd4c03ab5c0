"""The program terraform (or tofu), 1.9 or newer: plans that are saved and shown, applied as they are, and what became of it.

python-terraform builds the command lines; it neither runs nor reads them, for it knows no events, no plan that is saved, no
interrupt, and prints secrets. Terraform's own words go into a file that kivactl follows: where kivactl dies, Terraform still
finishes what it does and writes its state, and the next run waits for it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from kivactl.errors import KivaError, NotReadyError, PreconditionError, ToolError
from kivactl.plan import Outcome, Status
from kivactl.spec.infrastructure import Provider
from kivactl.stack.secret import Secret
from kivactl.tools import process
from kivactl.tools.clock import Clock
from kivactl.tools.generators import drained
from kivactl.tools.leftovers import marked
from kivactl.tools.terraform_failure import (
    LockedState,
    MissingProvider,
    Place,
    ProtectedResource,
    SmallQuota,
    StalePlan,
    UnansweredQuota,
    failure_of,
)
from kivactl.tools.terraform_output import (
    Reader,
    Resource,
    TerraformPlan,
    parse_diagnostics,
    parse_outputs,
    parse_plan,
    parse_state,
    parse_version,
)
from kivactl.tools.version import Version

__all__ = [
    "LockedState",
    "MissingProvider",
    "ProtectedResource",
    "Resource",
    "SmallQuota",
    "StalePlan",
    "Terraform",
    "TerraformPlan",
    "UnansweredQuota",
    "mirror_from",
]

PROGRAMS = ("terraform", "tofu")
OLDEST = Version(1, 9)
INSTALL = "install Terraform or OpenTofu 1.9 or newer: https://opentofu.org/docs/intro/install"
MIRROR_VARIABLE = "KIVA_TERRAFORM_PROVIDERS"
RUN_VARIABLE = "KIVA_TERRAFORM_RUN"
"""Marks every process of a run with its folder; one that outlived its kivactl is found by it."""

READING: process.Ladder = ((signal.SIGINT, 60.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
WRITING: process.Ladder = ((0, 1800.0), (signal.SIGINT, 900.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
"""An apply is let come to its end. SIGINT, which a further Ctrl-C sends, makes Terraform write its state, but also makes providers drop
requests that are under way: what the cloud makes of them stays there, and Terraform does not know it."""

_WAIT_S = 900.0


class Terraform:
    """Terraform for one root.

    Args:
        root: Folder of the root; what Terraform fetches lies in `.terraform` in it.
        files: Folder for the settings and the record of the last run, 0700.
        provider: The cloud, for sentences.
        mirror: Folder or https URL with providers; the registry when None.
        secrets: Variables by name; they go by the environment.
        clock: Time.
    """

    def __init__(
        self, root: Path, files: Path, provider: Provider, *, mirror: str | None = None, secrets: Mapping[str, Secret] | None = None, clock: Clock | None = None
    ) -> None:
        self.root = root
        self._files = files
        self._provider = provider
        self._mirror = mirror
        self._secrets = dict(secrets or {})
        self._backend = ""
        self._clock = clock or Clock()

    @property
    def version(self) -> Version:
        """Of the program; asked once.

        Raises:
            PreconditionError: There is none, or it is too old.
        """
        return _version(_program())

    def init(self, backend: Path) -> Iterator[Outcome]:
        """Fetch providers and find the state.

        Args:
            backend: JSON file with the backend's settings.

        Raises:
            MissingProvider: The provider cannot be had.
            PreconditionError: The state is kept elsewhere than before.
        """
        self._backend = str(backend)
        yield Outcome("providers", Status.STARTED, "looked for")
        lines: list[str] = []
        code = drained(self._follow("init", no_color=True, input=False, backend_config=str(backend)), lines.append)
        if code != 0:
            raise failure_of(parse_diagnostics(lines), lines[-20:], "init", self._place)
        yield Outcome("providers", Status.DONE, "there")

    def plan(self, variables: Path, out: Path, *, destroy: bool = False, targets: Sequence[str] = ()) -> Generator[Outcome, None, bool]:
        """Make a plan and save it.

        Args:
            variables: File of the variables.
            out: Where the plan goes; it holds all values, secret ones too. It is there only if the plan is whole.
            destroy: Plan to take everything away, or all of `targets`.
            targets: Addresses; everything when empty.

        Returns:
            Whether it changes anything.

        Raises:
            UnansweredQuota: Only the cloud's quotas cannot be asked.
            KivaError: No plan can be made; what stands in the way.
        """
        out.unlink(missing_ok=True)
        flags = {"destroy": True} if destroy else {}
        try:
            reader, code = yield from self._events(
                "plan", var_file=str(variables), out=str(out), detailed_exitcode=True, input=False, target=list(targets) or None, **flags
            )
        except BaseException:
            out.unlink(missing_ok=True)
            raise
        if code not in {0, 2}:
            out.unlink(missing_ok=True)  # Terraform saves one that it could not finish
            raise self._failure("plan", reader, code)
        out.chmod(0o600)
        return code == 2

    def show(self, plan: Path) -> TerraformPlan:
        """What a saved plan would do."""
        return parse_plan(self._run("show", str(plan), json=True))

    def apply(self, plan: Path) -> Iterator[Outcome]:
        """Do what a saved plan says, and nothing else. Closing the generator waits until Terraform is through; a Ctrl-C meanwhile stops it.

        Raises:
            StalePlan: The state changed meanwhile.
            KivaError: A change failed; those before it are made, and the details say how many.
        """
        reader, code = yield from self._events("apply", str(plan), input=False)
        if code != 0:
            error = self._failure("apply", reader, code)
            if reader.completed:
                begun = f"{reader.completed} change{'s were' if reader.completed > 1 else ' was'} made before; the same command goes on from there"
                error.details = (begun, *error.details)
            raise error

    def outputs(self) -> dict[str, Any]:
        """Values of the outputs, without sensitive ones; none before the first apply."""
        return parse_outputs(self._run("output", json=True))

    def resources(self) -> tuple[Resource, ...]:
        """Everything that Terraform made; nothing before the first apply."""
        return parse_state(self._run("state pull"))

    def unfinished(self) -> tuple[str, ...]:
        """Addresses of changes that the last apply had begun when it was killed: the cloud may have made them without Terraform knowing it."""
        reader = Reader()
        with suppress(FileNotFoundError), (self._files / "apply.jsonl").open(errors="replace") as lines:
            for line in lines:
                for _ in reader.read(line.rstrip("\n")):
                    pass
        return tuple(reader.begun)

    def until_quiet(self) -> Iterator[Outcome]:
        """Wait for a Terraform that outlived its kivactl.

        Raises:
            NotReadyError: It does not come to an end.
        """
        step = "Terraform of an earlier run"
        pids = marked(RUN_VARIABLE, str(self.root))
        if not pids:
            return
        yield Outcome(step, Status.STARTED, "still at work; waiting for it")
        for elapsed_s in self._clock.ticks(_WAIT_S):
            pids = marked(RUN_VARIABLE, str(self.root))
            if not pids:
                yield Outcome(step, Status.DONE, "ended", elapsed_s)
                return
            yield Outcome(step, Status.PROGRESS, "still at work", elapsed_s)
        raise NotReadyError(f"Terraform of an earlier run (pid {pids[0]}) does not come to an end", f"look at it, or: kill -INT {pids[0]}")

    @property
    def _place(self) -> Place:
        return Place(_program().name, self.root, self._provider, self._mirror or "", self._backend)

    def _events(self, command: str, *arguments: str, **options: Any) -> Generator[Outcome, None, tuple[Reader, int]]:
        reader = Reader()
        run = self._follow(command, *arguments, json=True, **options)
        code = yield from _read(run, reader)
        return reader, code

    def _follow(self, command: str, *arguments: str, **options: Any) -> Generator[str, None, int]:
        argv = self._argv(command, *arguments, **options)
        return process.follow(argv, self._files / f"{command}.jsonl", cwd=self.root, env=self._environment(), ladder=WRITING if command == "apply" else READING)

    def _run(self, command: str, *arguments: str, **options: Any) -> str:
        argv = self._argv(command, *arguments, **options)
        completed = process.run(argv, cwd=self.root, env=self._environment(), inherit=False, timeout_s=300, patience_s=20, check=False)
        if completed.code != 0:
            lines = (completed.stderr or completed.stdout).splitlines()
            raise failure_of(parse_diagnostics(lines), lines[-20:], command, self._place)
        return completed.stdout

    def _argv(self, command: str, *arguments: str, **options: Any) -> list[str]:
        """The command line, by python-terraform."""
        import python_terraform

        program = _program()
        _version(program)
        flags = {name: python_terraform.IsFlagged if name in _FLAGS and value else value for name, value in options.items()}
        builder = python_terraform.Terraform(working_dir=str(self.root), terraform_bin_path=str(program))
        return list(builder.generate_cmd_string(command, *arguments, **flags))

    def _environment(self) -> dict[str, str]:
        """The whole environment of a run: nothing of the caller's settings for Terraform takes part."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TF_") or name in _PASSED_ON}
        return {
            **inherited,
            "CHECKPOINT_DISABLE": "1",
            "TF_CLI_CONFIG_FILE": str(self._settings()),
            "TF_DATA_DIR": str(self.root / ".terraform"),
            "TF_IN_AUTOMATION": "1",
            RUN_VARIABLE: str(self.root),
            **{f"TF_VAR_{name}": secret.reveal() for name, secret in self._secrets.items()},
        }

    def _settings(self) -> Path:
        path = self._files / "terraform.rc"
        text = settings_for(self._mirror)
        if not path.exists() or path.read_text() != text:
            path.touch(mode=0o600)
            path.write_text(text)
        return path

    def _failure(self, command: str, reader: Reader, code: int) -> KivaError:
        if code < 0 and not reader.errors:
            return ToolError(f"Terraform's {command} was ended by {signal.Signals(-code).name}", "the same command goes on from there", tuple(reader.lines))
        return failure_of(reader.errors, reader.lines, command, self._place)


_FLAGS = frozenset({"json", "no_color", "detailed_exitcode", "destroy"})
"""Options that are flags: without a value."""

_PASSED_ON = ("TF_HTTP_USERNAME", "TF_HTTP_PASSWORD")
"""Credentials of the http backend, which has no other way to get them."""


def mirror_from(named: str | None, folder: Path) -> str | None:
    """Where providers come from: what the spec names, else what the environment names.

    Args:
        named: `mirrors.terraform` of the spec: a folder or https URL.
        folder: Where relative paths count from.

    Raises:
        PreconditionError: There is no such folder.
    """
    wanted = named or os.environ.get(MIRROR_VARIABLE)
    if not wanted or re.match("https?://", wanted):
        return wanted or None
    path = folder / Path(wanted).expanduser()
    if not path.is_dir():
        source = "`mirrors.terraform`" if named else MIRROR_VARIABLE
        raise PreconditionError(f"{source} names {path}, which is no folder", "name the folder or https URL that has Terraform's providers")
    return str(path)


def settings_for(mirror: str | None) -> str:
    """Terraform's CLI configuration: where providers come from, and that it asks nobody for news."""
    if mirror is None:
        return "disable_checkpoint = true\n"
    kind, key = ("network_mirror", "url") if re.match("https?://", mirror) else ("filesystem_mirror", "path")
    place = mirror if kind == "filesystem_mirror" else f"{mirror.rstrip('/')}/"
    quoted = place.replace("\\", "\\\\").replace('"', '\\"').replace("${", "$${").replace("%{", "%%{")
    return f'disable_checkpoint = true\nprovider_installation {{\n  {kind} {{\n    {key} = "{quoted}"\n  }}\n}}\n'


def _read(run: Generator[str, None, int], reader: Reader) -> Generator[Outcome, None, int]:
    interrupt: KeyboardInterrupt | None = None
    try:
        while True:
            try:
                line = next(run) if interrupt is None else run.throw(interrupt)
            except StopIteration as ended:
                return int(ended.value)
            interrupt = None
            try:
                yield from [_WAITING] if line is process.WAITING else reader.read(line)
            except KeyboardInterrupt as error:  # it came while the outcome was shown
                interrupt = error
    finally:
        run.close()


_WAITING = Outcome("Terraform", Status.PROGRESS, "interrupted: it finishes what it has begun; another Ctrl-C cuts it off")


def _program() -> Path:
    for name in PROGRAMS:
        with suppress(PreconditionError):
            return process.find(name)
    raise PreconditionError("neither terraform nor tofu is on PATH", INSTALL)


@cache
def _version(program: Path) -> Version:
    settings = {"CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull}
    version = parse_version(process.run([program, "version", "-json"], env=settings, timeout_s=60).stdout)
    if version < OLDEST:
        raise PreconditionError(f"{program.name} on this machine is {version}, and kivactl needs {OLDEST.major}.{OLDEST.minor} or newer", INSTALL)
    return version
