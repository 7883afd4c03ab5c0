"""The machines of a platform that a cloud makes: planned, made, taken away, by Terraform.

The caller holds the platform's lock and keeps the journal. Everything lies in `<state>/infrastructure/terraform`: a working copy of
the root and its modules, the variables, the plan, and the state where it is kept on this machine. A plan is saved and shown, and
that file alone is applied. Data disks and protected groups stay whatever happens: Terraform refuses plans that say otherwise.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kivactl import root
from kivactl.errors import PreconditionError, told
from kivactl.flows.provision.access import public_key_for
from kivactl.plan import Change, Outcome, Plan, Verb, digest
from kivactl.spec.infrastructure import Infrastructure, Provider
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.backend import backend_for
from kivactl.stack.infrastructure.inventory import Inventory, inventory_from
from kivactl.stack.infrastructure.tfvars import Disk, machine_names, tfvars_for
from kivactl.stack.layout import Layout
from kivactl.stack.secret import Secret
from kivactl.targets.release import write_file
from kivactl.tools.folders import make_private, remove
from kivactl.tools.generators import drained
from kivactl.tools.terraform import Resource, Terraform, TerraformPlan, UnansweredQuota, mirror_from

Progress = Callable[[Outcome], None]

_STAND_IN = re.compile(r'module\.protection\.terraform_data\.(?P<kind>protected|free)\["(?P<name>[^"]+)"\]')
_DISK = re.compile(r"module\.disks\.")
_MODULE = re.compile(r"module\.[A-Za-z0-9_-]+(?:\[[^\]]+\])?")
_LEFT_OUT = shutil.ignore_patterns("README.md", "tests", ".terraform")


def ignored(_: Outcome) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where Terraform's files of a platform lie.

    Attributes:
        folder: Of all of them.
        provider: The cloud.
    """

    folder: Path
    provider: Provider

    @property
    def work(self) -> Path:
        """The working copy."""
        return self.folder / "work"

    @property
    def root(self) -> Path:
        return self.work / self.provider

    @property
    def variables(self) -> Path:
        return self.folder / "variables.tfvars.json"

    @property
    def backend(self) -> Path:
        return self.folder / "backend.json"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.tfplan"

    @property
    def planned(self) -> Path:
        """What the saved plan is of."""
        return self.folder / "planned.json"

    @property
    def state(self) -> Path:
        return self.folder / "terraform.tfstate"


def plan_machines(platform: Platform, folder: Path, layout: Layout, progress: Progress = ignored) -> Plan:
    """What would change in the cloud; the plan is saved for `apply_machines`.

    Args:
        platform: The spec, with an infrastructure that a cloud makes.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        progress: Told what Terraform looks at meanwhile.

    Raises:
        KivaError: No plan can be made: credentials, a lock, a missing provider, something protected in the way,
            a quota that is too small. One that the cloud does not tell is a note.
    """
    infrastructure = _of_a_cloud(platform)
    with told(layout.state):
        files, terraform = _prepared(platform, folder, layout, progress)
        resources, disks, variables = _as_they_are(platform, folder, layout, files, terraform)
        _write_json(files.variables, variables)
        notes = []
        try:
            changing = drained(terraform.plan(files.variables, files.plan), progress)
        except UnansweredQuota as error:
            notes.append(f"{error.message} ({'; '.join(error.details)}): one that is too small is told in the middle of the changes")
            variables["ask_quotas"] = False
            _write_json(files.variables, variables)
            changing = drained(terraform.plan(files.variables, files.plan), progress)
        shown = terraform.show(files.plan) if changing else TerraformPlan(())
        if not changing:  # whoever was killed between the last change and the inventory left none
            write_inventory(layout, inventory_from(terraform.outputs()))
        elif not shown.changes:  # only names or outputs, which the inventory is made of
            shown = replace(shown, changes=(Change(Verb.UPDATE, "what Terraform remembers of the machines"),))
        orphaned = sorted(disks.keys() - {name for name, group in machine_names(infrastructure).items() if group.data_disk is not None})
        notes += [f"the data disk of {name} stays, without its machine" for name in orphaned]
        known = {one.address for one in resources}
        notes += [_perhaps_made(address, platform.name) for address in terraform.unfinished() if address not in known]
        notes += [f"changed by hand, and set right again: {address}" for address in shown.drift]
        return _saved(files, f"make the machines of {platform.name} on {infrastructure.provider}", shown, notes, variables)


def apply_machines(platform: Platform, folder: Path, layout: Layout, plan: Plan) -> Iterator[Outcome]:
    """Do what the saved plan says, then write the inventory. Closing the generator waits until Terraform is through.

    Args:
        platform: As it was planned.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        plan: What was shown and confirmed.

    Raises:
        PreconditionError: Another plan was made since, or the machines changed.
        KivaError: A change failed; the next plan goes on from there.
    """
    with told(layout.state):
        files, terraform = _again(platform, folder, layout, plan)
        yield from terraform.until_quiet()
        yield from terraform.apply(files.plan)
        files.plan.unlink(missing_ok=True)
        write_inventory(layout, inventory_from(terraform.outputs()))


def plan_destroy(platform: Platform, folder: Path, layout: Layout, progress: Progress = ignored) -> Plan:
    """What would be taken away: all but data disks, and with protected groups all but those and the network.

    Args:
        platform: The spec, with an infrastructure that a cloud makes.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        progress: Told what Terraform looks at meanwhile.

    Raises:
        KivaError: No plan can be made.
    """
    infrastructure = _of_a_cloud(platform)
    with told(layout.state):
        files, terraform = _prepared(platform, folder, layout, progress)
        resources, disks, variables = _as_they_are(platform, folder, layout, files, terraform, ask_quotas=False)
        protected = sorted({found["name"] for one in resources if (found := _STAND_IN.fullmatch(one.address)) and found["kind"] == "protected"})
        title, notes = f"take away the machines of {platform.name} on {infrastructure.provider}", [f"the data disk of {name} stays" for name in sorted(disks)]
        if protected:
            # Their network has to stay: not everything goes, only every machine of the other groups.
            variables["groups"] = {name: group for name, group in variables["groups"].items() if group["protected"]}
            _write_json(files.variables, variables)
            notes.insert(0, f"protected, and stay with the network: {', '.join(protected)}")
            drained(terraform.plan(files.variables, files.plan), progress)
        else:
            _write_json(files.variables, variables)
            targets = modules_to_destroy(resources)
            if not targets:
                return Plan(title, notes=tuple(notes), basis=digest([]))
            drained(terraform.plan(files.variables, files.plan, destroy=True, targets=targets), progress)
        return _saved(files, title, terraform.show(files.plan), notes, variables)


def apply_destroy(platform: Platform, folder: Path, layout: Layout, plan: Plan) -> Iterator[Outcome]:
    """Take away what the saved plan says. Closing the generator waits until Terraform is through.

    Args:
        platform: As it was planned.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        plan: What was shown and confirmed.

    Raises:
        PreconditionError: Another plan was made since, or the machines changed.
        KivaError: A change failed; the next plan goes on from there.
    """
    with told(layout.state):
        files, terraform = _again(platform, folder, layout, plan)
        yield from terraform.until_quiet()
        yield from terraform.apply(files.plan)
        files.plan.unlink(missing_ok=True)
        outputs = terraform.outputs()
        there = {found["name"] for one in terraform.resources() if (found := _STAND_IN.fullmatch(one.address))}
        known = inventory_from(outputs) if "nodes" in outputs else Inventory(machines=())  # a part of the configuration leaves outputs as they were
        kept = tuple(machine for machine in known.machines if machine.name in there)
        addresses = {address for machine in kept for address in (machine.address, machine.public_address)}
        write_inventory(layout, Inventory(machines=kept, gateway_addresses=tuple(one for one in known.gateway_addresses if one in addresses)))


def write_inventory(layout: Layout, inventory: Inventory) -> None:
    """Keep the machines for whoever asks next."""
    make_private(layout.infrastructure)
    write_file(layout.inventory, inventory.model_dump_json(indent=2) + "\n")


def read_inventory(layout: Layout) -> Inventory | None:
    """The machines as they were last made, None before that."""
    try:
        return Inventory.model_validate_json(layout.inventory.read_text())
    except FileNotFoundError:
        return None


def moves_for(infrastructure: Infrastructure, resources: Sequence[Resource]) -> dict[str, Any]:
    """Moves of stand-ins for machines whose groups came under protection or left it; only of machines that stay.

    A group that leaves the spec together with its protection keeps it: the first step is to leave `protect` alone.
    """
    wanted = {name: "protected" if group.name in infrastructure.protect else "free" for name, group in machine_names(infrastructure).items()}
    moves = []
    for one in resources:
        found = _STAND_IN.fullmatch(one.address)
        if found is not None and wanted.get(found["name"], found["kind"]) != found["kind"]:
            moves.append({"from": one.address, "to": f'module.protection.terraform_data.{wanted[found["name"]]}["{found["name"]}"]'})
    return {"moved": moves} if moves else {}


def disks_in(resources: Sequence[Resource]) -> dict[str, Disk]:
    """The data disks that exist, by machine."""
    disks = {}
    for one in resources:
        if _DISK.match(one.address) and one.key is not None:
            zone = one.values.get("availability_zone") or one.values.get("zone") or ""
            disks[one.key] = Disk(str(zone), math.ceil(float(one.values.get("size") or one.values.get("disk_size_gb") or 0)))
    return disks


def modules_to_destroy(resources: Sequence[Resource]) -> list[str]:
    """The modules whose resources go; nothing of the disks."""
    modules = (found[0] for one in resources if (found := _MODULE.match(one.address)) is not None)
    return sorted({module for module in modules if not _DISK.match(f"{module}.")})


def _of_a_cloud(platform: Platform) -> Infrastructure:
    if platform.infrastructure is None or platform.infrastructure.provider == "static":
        msg = "no cloud makes this platform's machines"
        raise ValueError(msg)
    return platform.infrastructure


def _opened(platform: Platform, folder: Path, layout: Layout) -> tuple[Files, Terraform]:
    infrastructure = _of_a_cloud(platform)
    files = Files(layout.infrastructure / "terraform", infrastructure.provider)
    secrets = {}
    if infrastructure.network.vpn is not None and infrastructure.network.vpn.key_file is not None:
        secrets["vpn_key"] = _secret_in(folder / infrastructure.network.vpn.key_file)
    mirror = mirror_from(infrastructure.mirrors.terraform, folder)
    return files, Terraform(files.root, files.folder, infrastructure.provider, mirror=mirror, secrets=secrets)


def _prepared(platform: Platform, folder: Path, layout: Layout, progress: Progress) -> tuple[Files, Terraform]:
    """Terraform with a fresh working copy, its providers and its state found."""
    files, terraform = _opened(platform, folder, layout)
    make_private(files.folder)
    for outcome in terraform.until_quiet():  # it reads the working copy and writes the state
        progress(outcome)
    files.planned.unlink(missing_ok=True)
    copy_content(files)
    kind, settings = backend_for(platform, files.state)
    _write_json(files.root / "backend.tf.json", {"terraform": {"backend": {kind: {}}}})
    _write_json(files.backend, settings)
    for outcome in terraform.init(files.backend):
        progress(outcome)
    return files, terraform


def _as_they_are(
    platform: Platform, folder: Path, layout: Layout, files: Files, terraform: Terraform, *, ask_quotas: bool = True
) -> tuple[Sequence[Resource], dict[str, Disk], dict[str, Any]]:
    """What was made, the data disks among it, and the variables of a plan that keeps those; moves are written beside the root."""
    infrastructure, resources = _of_a_cloud(platform), terraform.resources()
    disks = disks_in(resources)
    _write_json(files.root / "moves.tf.json", moves_for(infrastructure, resources))
    public_key = public_key_for(infrastructure, folder, layout)
    return resources, disks, tfvars_for(platform, public_key=public_key, kept_disks=disks, ask_quotas=ask_quotas)


def copy_content(files: Files) -> None:
    """The root and its modules as this kivactl has them; what Terraform fetched stays."""
    content = root.content("terraform")
    make_private(files.root)
    for entry in files.root.iterdir():
        if entry.name != ".terraform":
            remove(entry)
    remove(files.work / "modules")
    shutil.copytree(content / files.provider, files.root, ignore=_LEFT_OUT, dirs_exist_ok=True)
    for module in ("blueprint", "protection", files.provider):
        shutil.copytree(content / "modules" / module, files.work / "modules" / module, ignore=_LEFT_OUT)


def _saved(files: Files, title: str, shown: TerraformPlan, notes: Sequence[str], variables: Mapping[str, Any]) -> Plan:
    changes = tuple(_told(change) for change in shown.changes)
    listed = [[change.verb.value, change.subject, [[one.path, one.before, one.after] for one in change.differences]] for change in changes]
    plan = Plan(title, changes, tuple(notes), digest([title, listed, sorted(shown.moved), dict(variables)]))
    _write_json(files.planned, {"basis": plan.basis, "sha256": hashlib.sha256(files.plan.read_bytes()).hexdigest()})
    return plan


def _again(platform: Platform, folder: Path, layout: Layout, plan: Plan) -> tuple[Files, Terraform]:
    """Terraform with the very plan that was shown."""
    files, terraform = _opened(platform, folder, layout)
    try:
        planned = json.loads(files.planned.read_text())
        same = planned == {"basis": plan.basis, "sha256": hashlib.sha256(files.plan.read_bytes()).hexdigest()}
    except (FileNotFoundError, json.JSONDecodeError):
        same = False
    if not same:
        raise PreconditionError("another plan was made since this one", "kivactl provision")
    return files, terraform


def _told(change: Change) -> Change:
    """With what users notice."""
    machine = change.subject.startswith("module.machines.") and ".machine[" in change.subject
    if not machine or change.verb is Verb.CREATE:
        return change
    if change.verb in {Verb.REPLACE, Verb.DELETE}:
        return Change(change.verb, change.subject, change.differences, "what runs on the machine ends, and its root disk goes with it")
    return Change(change.verb, change.subject, change.differences, "the machine may stop and start for it")


def _perhaps_made(address: str, name: str) -> str:
    return f"Terraform was stopped while it made {address}: look for one that it does not know, tagged with the platform's name '{name}', and remove it by hand"


def _secret_in(path: Path) -> Secret:
    try:
        if path.stat().st_mode & 0o077:
            raise PreconditionError(f"{path} can be read by others", f"chmod 600 {path}")
        return Secret(path.read_text().strip())
    except FileNotFoundError:
        raise PreconditionError(
            f"there is no file {path}, which `network.vpn.key_file` names", "write the pre-shared key into it, then: chmod 600 it"
        ) from None


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
