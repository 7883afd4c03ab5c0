"""Finds load tests by name or file and reads them: every fault at once, with file and line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.loadtest.prompts import read_chats
from kivactl.loadtest.scenario import Prompts, Scenario
from kivactl.loadtest.trace import read_trace
from kivactl.spec.document import Fault, Node, Place, path_of, read
from kivactl.spec.faults import validated

OWN = "loadtests"
"""The folder beside a spec with scenarios of one's own; it need not be there."""
_SUFFIXES = {".yaml", ".yml"}


@dataclass(frozen=True, slots=True)
class Changes:
    """What the command line says instead of the file; None where it says nothing. Quantities with unit, as in the file."""

    users: int | None = None
    rate: float | None = None
    duration: str | None = None
    requests: int | None = None
    warm_up: str | None = None
    max_tokens: int | None = None
    seed: int | None = None
    processes: int | None = None


_PLACES = {"users": ("load", "users"), "rate": ("load", "rate"), "max_tokens": ("output", "tokens")}
"""Where in a scenario a change belongs, unless it is a key of its own."""


def load_scenario(name: str, changes: Changes = Changes(), own: Path | None = None) -> Scenario:
    """Read a scenario.

    Args:
        name: Of one's own or of one that comes along, or the path of a YAML file.
        changes: What the command line says instead.
        own: Folder of one's own; see `OWN`.

    Raises:
        SpecError: The file, or one that it names, has faults; one line each in the details.
        UsageError: There is no such scenario, or a change is out of range.
    """
    path = _path_of(name, own)
    tree, faults = read(path)
    if tree is None and not faults:
        faults = [Fault(Place(path, 1), "", "the file is empty")]
    scenario = None
    if tree is not None:
        scenario, found = validated(Scenario, tree)
        faults += found
    if scenario is not None and tree is not None and not faults:
        scenario = _anchored(scenario, path.parent)
        faults += _faults_of_files(scenario, tree)
    if tree is None or scenario is None or faults:
        number = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        in_order = sorted(faults, key=lambda fault: fault.place.line)
        raise SpecError(f"the load test in {path} has {number}", details=tuple(str(fault) for fault in in_order))
    return _changed(scenario, tree, changes, path.parent)


def scenarios(own: Path | None = None) -> dict[str, Path]:
    """One's own and those that come along, by name; of two with the same name one's own counts."""
    folders = (root.content("loadtests"), *([own] if own else []))
    found = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    return dict(sorted(found.items()))


def described(own: Path | None = None) -> dict[str, str]:
    """What those are for, by name, without checking the rest: a file with faults, or that cannot be read, is no reason not to name the others."""
    return {name: _about(path) for name, path in scenarios(own).items()}


def _about(path: Path) -> str:
    try:
        tree, _ = read(path)
    except SpecError:
        return ""
    about = tree.child("description") if tree else None
    return str(about.value) if about else ""


def _path_of(name: str, own: Path | None) -> Path:
    if "/" in name or Path(name).suffix in _SUFFIXES:
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"there is no load test in {path}", "kivactl loadtest smoke")
        return path
    known = scenarios(own)
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
        raise UsageError(f"there is no load test named '{name}'", hint)
    return known[name]


def _anchored(scenario: Scenario, folder: Path) -> Scenario:
    """The scenario with its files' paths from its own folder on."""

    def anchored(prompts: Prompts | None) -> Prompts | None:
        return prompts.model_copy(update={"file": str((folder / prompts.file).absolute())}) if prompts and prompts.file else prompts

    load = scenario.load
    if load.trace:
        load = load.model_copy(update={"trace": str((folder / load.trace).absolute())})
    mix = tuple(part.model_copy(update={"prompts": anchored(part.prompts)}) for part in scenario.mix)
    return scenario.model_copy(update={"load": load, "prompts": anchored(scenario.prompts), "mix": mix})


def _faults_of_files(scenario: Scenario, tree: Node) -> Iterator[Fault]:
    readers: list[tuple[tuple[str | int, ...], str | None, Any]] = [(("load", "trace"), scenario.load.trace, read_trace)]
    readers.append((("prompts", "file"), scenario.prompts.file, read_chats))
    readers += [(("mix", number, "prompts", "file"), part.prompts.file, read_chats) for number, part in enumerate(scenario.mix) if part.prompts]
    for steps, file, reader in readers:
        if file is None:
            continue
        try:
            reader(Path(file))
        except OSError as error:
            yield Fault(_place(tree, steps), path_of(steps), f"cannot be read: {error.strerror} ({file})")
        except ValueError as error:
            yield Fault(_place(tree, steps), path_of(steps), str(error))


def _place(tree: Node, steps: tuple[str | int, ...]) -> Place:
    for step in steps:
        tree = tree.value[step]
    return tree.place


def _changed(scenario: Scenario, tree: Node, changes: Changes, folder: Path) -> Scenario:
    """The scenario with what the command line says instead; checked as if the file had said it."""
    given = {field.name: value for field in fields(changes) if (value := getattr(changes, field.name)) is not None}
    if not given:
        return scenario
    if changes.users is not None and changes.rate is not None:
        raise UsageError("a load has either users or a rate", "give one of --users and --rate")
    if scenario.sweep is not None and (changes.users is not None or changes.rate is not None):
        raise UsageError(
            f"the load test '{scenario.name}' is a sweep, which has loads of its own", "for a single load, choose another scenario: kivactl loadtest list"
        )
    place = Place(Path("command line"), 1)
    keys: dict[str, Any] = dict(tree.value)
    for name, value in given.items():
        *outer, last = _PLACES.get(name, (name,))
        node = Node(value, place)
        if outer:
            kept = keys[outer[0]].value if outer[0] in keys else {}
            keys[outer[0]] = Node({**_without_others(name, kept), last: node}, place)
        else:
            keys[name] = node
    for name, other in (("duration", "requests"), ("requests", "duration")):
        if name in given and other not in given:
            keys.pop(other, None)
    result, faults = validated(Scenario, Node(keys, tree.place, tree.keys))
    if result is None:
        raise UsageError(f"the load test '{scenario.name}' cannot run like that", details=tuple(_of_option(fault) for fault in faults))
    return _anchored(result, folder)


def _without_others(name: str, load: Mapping[str, Node]) -> dict[str, Node]:
    """A load without what the new one stands instead of."""
    if name not in ("users", "rate"):
        return dict(load)
    kept = ("think_time",) if name == "users" and "users" in load else ("arrivals", "burstiness") if name == "rate" else ()
    return {key: value for key, value in load.items() if key in kept}


def _of_option(fault: Fault) -> str:
    options = {".".join(place): name for name, place in _PLACES.items()}
    name = options.get(fault.path, fault.path)
    return f"--{name.replace('_', '-')}: {fault.message}" if name else fault.message
