"""The one plan over all stages, and the order of doing; the stages themselves are scripted here and real in other tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kivactl.errors import CheckError, PreconditionError, SpecError
from kivactl.flows.provision import infrastructure
from kivactl.flows.provision.infrastructure import apply_infrastructure, apply_removal, plan_infrastructure, plan_removal
from kivactl.plan import Change, Outcome, Plan, Status, Verb
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.inventory import Inventory, Machine
from kivactl.stack.layout import Layout

NOTHING = Plan("nothing", basis="-")


def plan(title: str, basis: str = "1") -> Plan:
    return Plan(title, (Change(Verb.CREATE, title),), (f"note of {title}",), basis)


def platform(**more: Any) -> Platform:
    hosts = [{"name": "box-1", "address": "192.0.2.1"}]
    machines = {
        "provider": "static",
        "groups": [{"name": "box", "role": "host", "hosts": hosts}, {"name": "db", "role": "host", "hosts": [{"name": "db-1", "address": "192.0.2.2"}]}],
    }
    return Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "a/b"}], "infrastructure": {**machines, **more}})


def in_a_cloud() -> Platform:
    groups = [{"name": "box", "role": "host"}]
    return platform(provider="aws", region="eu-central-1", groups=groups, network={"operators": ["198.51.100.0/24"]})


class Stages:
    """Scripted stages: what each plans, and what was done in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here, self.machines, self.nodes = NOTHING, NOTHING, NOTHING
        self.inventory: Inventory | None = None
        self.done: list[str] = []
        self.unfit = False
        monkeypatch.setattr(infrastructure, "plan_provision", lambda *_: self.here)
        monkeypatch.setattr(infrastructure, "plan_machines", lambda *_: self.machines)
        monkeypatch.setattr(infrastructure, "plan_nodes", lambda *_, limit=(): self.nodes)
        monkeypatch.setattr(infrastructure, "read_inventory", lambda _: self.inventory)
        monkeypatch.setattr(infrastructure, "apply_provision", lambda *_: self.step("here"))
        monkeypatch.setattr(infrastructure, "apply_machines", lambda *_: self.step("machines"))
        monkeypatch.setattr(infrastructure, "until_reached", lambda _platform, inventory, *_: self.step(f"reached {len(inventory.machines)}"))
        monkeypatch.setattr(infrastructure, "apply_nodes", lambda *_, limit=(): self.step("nodes"))
        monkeypatch.setattr(infrastructure, "reset_nodes", lambda *_, limit=(): self.step(f"reset {' '.join(limit)}"))
        monkeypatch.setattr(infrastructure, "verify_nodes", lambda *_, limit=(): self.verify())

    def step(self, name: str) -> Iterator[Outcome]:
        self.done.append(name)
        if name == "machines":
            self.inventory = Inventory(machines=(Machine(name="box-1", group="box", role="host", address="10.20.0.5"),))
        yield Outcome(name, Status.DONE)

    def verify(self) -> Iterator[Outcome]:
        yield from self.step("verified")
        if self.unfit:
            raise CheckError("box-1 is not fit")
        return ()


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(monkeypatch)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "state", tmp_path / "cache")


def test_one_plan_stands_for_all_stages(stages: Stages, layout: Layout, tmp_path: Path):
    stages.here, stages.nodes = plan("keys"), plan("packages")
    whole = plan_infrastructure(platform(), tmp_path, layout).plan
    assert [change.subject for change in whole.changes] == ["keys", "packages"]
    assert whole.notes == ("note of keys", "note of packages")
    stages.nodes = plan("packages", basis="2")
    assert plan_infrastructure(platform(), tmp_path, layout).plan.basis != whole.basis


def test_machines_that_are_not_made_yet_are_planned_later(stages: Stages, layout: Layout, tmp_path: Path):
    stages.machines = plan("box-1")
    planned = plan_infrastructure(in_a_cloud(), tmp_path, layout)
    assert planned.nodes is None
    assert "once they are there" in planned.plan.notes[-1]
    assert [*apply_infrastructure(in_a_cloud(), tmp_path, layout, planned)]
    assert stages.done == ["machines", "reached 1", "nodes", "verified"]


def test_the_stages_come_in_order_and_are_in_the_journal(stages: Stages, layout: Layout, tmp_path: Path):
    stages.here, stages.nodes = plan("keys"), plan("packages")
    planned = plan_infrastructure(platform(), tmp_path, layout)
    outcomes = [*apply_infrastructure(platform(), tmp_path, layout, planned)]
    assert stages.done == ["here", "reached 2", "nodes", "verified"]
    entries = [json.loads(line) for line in layout.journal.read_text().splitlines()]
    assert planned.plan.basis in str(entries[0])
    assert [entry["step"] for entry in entries if "step" in entry] == [outcome.step for outcome in outcomes][1:]
    assert entries[-1]["verdict"] == "done"


def test_what_was_planned_must_still_hold(stages: Stages, layout: Layout, tmp_path: Path):
    stages.nodes = plan("packages")
    planned = plan_infrastructure(platform(), tmp_path, layout)
    stages.nodes = plan("rules", basis="2")
    with pytest.raises(PreconditionError, match="not as they were when this was planned") as caught:
        [*apply_infrastructure(platform(), tmp_path, layout, planned)]
    assert caught.value.details == ("no longer to do: packages", "to be done now: rules")
    assert stages.done == []


def test_a_machine_that_is_not_fit_is_the_end(stages: Stages, layout: Layout, tmp_path: Path):
    stages.nodes, stages.unfit = plan("packages"), True
    planned = plan_infrastructure(platform(), tmp_path, layout)
    with pytest.raises(CheckError, match="box-1 is not fit"):
        [*apply_infrastructure(platform(), tmp_path, layout, planned)]


def test_the_state_of_another_user_is_left_alone(stages: Stages, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Root's lock in it would shut its owner out."""
    stages.nodes = plan("packages")
    planned = plan_infrastructure(platform(), tmp_path, layout)
    layout.state.mkdir()
    monkeypatch.setattr("os.geteuid", lambda: layout.state.stat().st_uid + 1)
    with pytest.raises(PreconditionError, match="belongs to another user"):
        [*apply_infrastructure(platform(), tmp_path, layout, planned)]
    assert (stages.done, list(layout.state.iterdir())) == ([], [])


def test_drivers_that_do_not_fit_are_told_before_anything_is_asked(stages: Stages, layout: Layout, tmp_path: Path):
    groups = [{"name": "box", "role": "host", "gpu": {"type": "B200"}, "hosts": [{"name": "box-1", "address": "192.0.2.1"}]}]
    with pytest.raises(SpecError, match="driver branch 535 does not fit the B200"):
        plan_infrastructure(platform(groups=groups, gpu={"driver": "535"}), tmp_path, layout)


def test_protected_machines_are_left_alone(stages: Stages, layout: Layout, tmp_path: Path):
    spec = platform(protect=["db"])
    planned = plan_removal(spec, tmp_path, layout)
    assert [change.subject for change in planned.changes] == ["box-1: what was put on it"]
    assert "protected, and left alone: db-1" in planned.notes
    assert [*apply_removal(spec, tmp_path, layout, planned)]
    assert stages.done == ["reset box-1"]


def test_all_protected_is_nothing_to_do(stages: Stages, layout: Layout, tmp_path: Path):
    assert plan_removal(platform(protect=["db", "box"]), tmp_path, layout).empty
