"""Machines of a cloud: what is decided without asking it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import cloud
import pytest
from cryptography.hazmat.primitives import serialization

from kivactl.errors import PreconditionError
from kivactl.flows.provision import machines
from kivactl.flows.provision.access import key_for, public_key_for
from kivactl.flows.provision.machines import (
    Files,
    copy_content,
    disks_in,
    modules_to_destroy,
    moves_for,
    plan_destroy,
    plan_machines,
    read_inventory,
    write_inventory,
)
from kivactl.plan import Change, Verb
from kivactl.root import content
from kivactl.spec.infrastructure import Infrastructure
from kivactl.stack.infrastructure.backend import backend_for
from kivactl.stack.infrastructure.inventory import Inventory, Machine
from kivactl.stack.infrastructure.tfvars import Disk
from kivactl.stack.layout import Layout
from kivactl.tools.terraform import Resource, TerraformPlan, UnansweredQuota


def spec(**changes):
    return Infrastructure.model_validate(cloud.infrastructure(**changes))


def stand_in(kind, name):
    return Resource(f'module.protection.terraform_data.{kind}["{name}"]', name, {})


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "state", tmp_path / "cache")


def test_a_group_that_comes_under_protection_moves():
    resources = [stand_in("free", "gpu-1"), stand_in("free", "gpu-2"), stand_in("free", "edge-1")]
    assert moves_for(spec(protect=["gpu"]), resources) == {
        "moved": [
            {"from": f'module.protection.terraform_data.free["gpu-{number}"]', "to": f'module.protection.terraform_data.protected["gpu-{number}"]'}
            for number in (1, 2)
        ]
    }


def test_what_is_protected_and_no_longer_wanted_does_not_move():
    assert moves_for(spec(), [stand_in("protected", "gone-1"), stand_in("free", "gpu-1")]) == {}
    assert moves_for(spec(), [stand_in("protected", "gpu-1")])["moved"][0]["to"].endswith('free["gpu-1"]')


@pytest.mark.parametrize(
    ("values", "disk"),
    [
        ({"availability_zone": "eu-central-1a", "size": 100}, Disk("eu-central-1a", 100)),
        ({"zone": "1", "disk_size_gb": 64}, Disk("1", 64)),
    ],
)
def test_disks_of_every_cloud_are_found(values, disk):
    resources = [Resource('module.disks.some_disk.data["gpu-1"]', "gpu-1", values), Resource("module.disks.some_group.platform", None, {})]
    assert disks_in(resources) == {"gpu-1": disk}


def test_disks_are_not_destroyed():
    addresses = [
        'module.disks.aws_ebs_volume.data["a"]',
        "module.vpn[0].aws_vpn_gateway.platform",
        "module.network.aws_vpc.platform",
        "module.network.aws_eip.nat[0]",
    ]
    assert modules_to_destroy([Resource(address, None, {}) for address in addresses]) == ["module.network", "module.vpn[0]"]


def test_the_inventory_is_kept_for_its_owner(layout):
    assert read_inventory(layout) is None
    inventory = Inventory(machines=(Machine(name="a-1", group="a", role="host", address="10.0.0.1"),), gateway_addresses=("10.0.0.1",))
    write_inventory(layout, inventory)
    assert read_inventory(layout) == inventory
    assert stat.S_IMODE(layout.inventory.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.infrastructure.stat().st_mode) == 0o700


def test_a_working_copy_is_as_the_content_is(tmp_path):
    files = Files(tmp_path / "terraform", "aws")
    copy_content(files)
    (files.root / "stale.tf").touch()
    (files.root / ".terraform").mkdir()
    (files.work / "modules" / "aws" / "stale").mkdir()
    copy_content(files)
    ours = {str(path.relative_to(files.work)) for path in files.work.rglob("*.tf")}
    theirs = {str(path.relative_to(content("terraform"))) for path in content("terraform").rglob("*.tf")}
    assert ours == {path for path in theirs if path.startswith(("aws/", "modules/aws/", "modules/blueprint/", "modules/protection/"))}
    assert (files.root / ".terraform").is_dir()
    assert (files.root / ".terraform.lock.hcl").exists()


def test_a_key_is_made_once(layout, tmp_path):
    public = public_key_for(spec(), tmp_path, layout)
    path = key_for(spec(), tmp_path, layout)
    assert path == layout.infrastructure / "id_ed25519"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = serialization.load_ssh_private_key(path.read_bytes(), password=None).public_key()
    assert public == loaded.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    assert public_key_for(spec(), tmp_path, layout) == public
    path.with_name("id_ed25519.pub").unlink()  # killed between the two files
    assert public_key_for(spec(), tmp_path, layout) == public


def test_a_key_of_the_users(layout, tmp_path):
    own = spec(access={"key": "my key"})
    assert key_for(own, tmp_path, layout) == tmp_path / "my key"
    with pytest.raises(PreconditionError, match=r"there is no public key .*my key\.pub"):
        public_key_for(own, tmp_path, layout)
    (tmp_path / "my key.pub").write_text("ssh-ed25519 AAAA me\n")
    assert public_key_for(own, tmp_path, layout) == "ssh-ed25519 AAAA me"
    assert not layout.infrastructure.exists()


@pytest.mark.parametrize(
    ("terraform", "kind", "expected"),
    [
        ({}, "local", {"path": "/s/terraform.tfstate"}),
        (
            {"kind": "http", "address": "https://gitlab.example.org/state/"},
            "http",
            {"address": "https://gitlab.example.org/state", "lock_address": "https://gitlab.example.org/state/lock", "unlock_method": "DELETE"},
        ),
        ({"kind": "s3", "bucket": "b", "region": "eu-central-1"}, "s3", {"bucket": "b", "key": "kiva.tfstate", "use_lockfile": True, "encrypt": True}),
        ({"kind": "s3", "bucket": "b", "endpoint": "https://s3.example.org"}, "s3", {"endpoints": {"s3": "https://s3.example.org"}, "use_path_style": True}),
    ],
)
def test_where_the_state_is_kept(terraform, kind, expected):
    found, settings = backend_for(cloud.platform(terraform=terraform), Path("/s/terraform.tfstate"))
    assert found == kind
    assert expected.items() <= settings.items()
    assert not any(word in json.dumps(settings) for word in ("secret", "password", "access_key"))


class ScriptedTerraform:
    """Plans a machine; what the plans asked is kept."""

    def __init__(self, quotas_told):
        self.quotas_told, self.asked = quotas_told, []

    def resources(self):
        return [Resource('module.machines.aws_instance.machine["box-1"]', "box-1", {})]

    def unfinished(self):
        return ()

    def show(self, plan):
        return TerraformPlan((Change(Verb.CREATE, 'module.machines.aws_instance.machine["gpu-1"]'),))

    def plan(self, variables, out, **_):
        self.asked.append(json.loads(variables.read_text())["ask_quotas"])
        if self.asked[-1] and not self.quotas_told:
            raise UnansweredQuota("aws does not tell its quotas", "", ("these credentials lack a permission",))
        out.touch()
        yield from ()
        return True


@pytest.fixture
def scripted(layout, monkeypatch):
    def of(quotas_told):
        files, terraform = Files(layout.infrastructure / "terraform", "aws"), ScriptedTerraform(quotas_told)
        files.root.mkdir(parents=True)
        monkeypatch.setattr(machines, "_prepared", lambda *_: (files, terraform))
        return terraform

    return of


def test_quotas_that_are_told_are_no_note(layout, scripted):
    terraform = scripted(quotas_told=True)
    assert plan_machines(cloud.platform(), layout.state, layout).notes == ()
    assert terraform.asked == [True]


def test_quotas_that_nobody_tells_are_a_note(layout, scripted):
    terraform = scripted(quotas_told=False)
    plan = plan_machines(cloud.platform(), layout.state, layout)
    assert plan.notes == ("aws does not tell its quotas (these credentials lack a permission): one that is too small is told in the middle of the changes",)
    assert (terraform.asked, len(plan.changes)) == ([True, False], 1)
    assert plan_machines(cloud.platform(), layout.state, layout).basis == plan.basis


@pytest.mark.parametrize("protect", [[], ["gpu"]])
def test_what_is_taken_away_needs_no_quota(layout, scripted, protect):
    terraform = scripted(quotas_told=False)
    assert plan_destroy(cloud.platform(protect=protect), layout.state, layout).changes
    assert terraform.asked == [False]
