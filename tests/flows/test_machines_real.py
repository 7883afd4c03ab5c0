"""Machines made by the real Terraform and the real AWS provider in an EC2 emulator: made, changed, interrupted, taken away."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cloud
import pytest

from kivactl.errors import PreconditionError, SpecError
from kivactl.flows.provision.machines import apply_destroy, apply_machines, plan_destroy, plan_machines, read_inventory
from kivactl.plan import Status, Verb
from kivactl.stack.layout import Layout
from kivactl.tools.terraform import LockedState, MissingProvider, ProtectedResource, SmallQuota

pytestmark = [pytest.mark.machines, pytest.mark.skipif(bool(cloud.missing_cloud()), reason=cloud.missing_cloud() or "it can run"), pytest.mark.timeout(1800)]

ALONE = {
    "zones": [f"{cloud.REGION}a"],
    "kubernetes": None,
    "proxy": {"https": "http://proxy.example.org:3128"},  # no NAT, which takes longest
    "groups": [{"name": "box", "role": "host", "disk": "20GiB", "data_disk": "10GiB"}],
}
"""A platform on one machine."""


@pytest.fixture(scope="module")
def emulator():
    with cloud.cloud() as running:
        yield running


@pytest.fixture
def ec2(emulator, monkeypatch):
    emulator.reset()
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KIVA_TERRAFORM_PROVIDERS", str(cloud.mirror()))
    return emulator


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "state", tmp_path / "cache")


@contextmanager
def timed(what):
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s")


def made(layout, **changes):
    """Plan and apply; the plan."""
    platform = cloud.platform(**changes)
    with timed("plan"):
        plan = plan_machines(platform, layout.state, layout)
    with timed(f"apply of {len(plan.changes)} changes"):
        outcomes = list(apply_machines(platform, layout.state, layout, plan))
    started = {outcome.step for outcome in outcomes if outcome.status is Status.STARTED}
    assert started <= {outcome.step for outcome in outcomes if outcome.status is Status.DONE}
    return plan


def destroyed(layout, **changes):
    platform = cloud.platform(**changes)
    plan = plan_destroy(platform, layout.state, layout)
    with timed(f"destroy of {len(plan.changes)}"):
        list(apply_destroy(platform, layout.state, layout, plan))
    return plan


def names(verb, plan):
    return {change.subject for change in plan.changes if change.verb is verb}


def test_a_platform_lives_and_goes(ec2, layout):
    groups = cloud.infrastructure()["groups"]
    assert ec2.leftovers() == {}
    made(layout)
    assert ec2.machines() == ["kiva-control-1", "kiva-edge-1", "kiva-gpu-1", "kiva-gpu-2"]
    inventory = read_inventory(layout)
    assert [(machine.name, machine.role, machine.public_address is not None) for machine in inventory.machines] == [
        ("control-1", "server", True),
        ("edge-1", "gateway", True),
        ("gpu-1", "engine", False),
        ("gpu-2", "engine", False),
    ]
    assert inventory.gateway_addresses == (inventory.machine("edge-1").public_address,)
    for path in layout.infrastructure.rglob("*"):
        if path.is_file() and ".terraform" not in path.parts and "work" not in path.parts:
            assert path.suffix == ".pub" or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    with timed("plan again"):
        assert plan_machines(cloud.platform(), layout.state, layout).empty

    edge = next(one for page in ec2.client().describe_instances()["Reservations"] for one in page["Instances"] if cloud.name_of(one) == "kiva-edge-1")
    ec2.client().terminate_instances(InstanceIds=[edge["InstanceId"]])
    fewer = [*groups[:2], {**groups[2], "count": 1}]
    plan = made(layout, groups=fewer)
    assert 'module.machines.aws_instance.machine["edge-1"]' in names(Verb.CREATE, plan)
    assert 'module.machines.aws_instance.machine["gpu-2"]' in names(Verb.DELETE, plan)
    assert "the data disk of gpu-2 stays, without its machine" in plan.notes
    assert any(note.startswith("changed by hand, and set right again: ") and "edge-1" in note for note in plan.notes)
    assert ec2.machines() == ["kiva-control-1", "kiva-edge-1", "kiva-gpu-1"]
    assert ec2.disks() == ["kiva-gpu-1-data", "kiva-gpu-2-data"]

    plan = destroyed(layout, groups=fewer)
    assert set(plan.notes) == {"the data disk of gpu-1 stays", "the data disk of gpu-2 stays"}
    assert ec2.leftovers() == {"disks": ["kiva-gpu-1-data", "kiva-gpu-2-data"]}
    assert read_inventory(layout).machines == ()
    assert plan_destroy(cloud.platform(groups=fewer), layout.state, layout).empty


def test_what_is_protected_stays(ec2, layout):
    two = {**ALONE, "groups": [{**ALONE["groups"][0], "count": 2}]}
    made(layout, **two, protect=["box"])
    with pytest.raises(ProtectedResource, match="take away or make anew box-2, whose groups are in"):
        plan_machines(cloud.platform(**ALONE, protect=["box"]), layout.state, layout)
    bigger = [{**two["groups"][0], "zones": [f"{cloud.REGION}b"]}]
    with pytest.raises(ProtectedResource, match="box-1, box-2"):
        plan_machines(cloud.platform(**{**two, "groups": bigger}, protect=["box"]), layout.state, layout)
    plan = plan_destroy(cloud.platform(**two, protect=["box"]), layout.state, layout)
    assert plan.empty
    assert plan.notes[0] == "protected, and stay with the network: box-1, box-2"

    plan = made(layout, **two)  # leaving the protection changes no machine
    assert [change.subject for change in plan.changes] == ["what Terraform remembers of the machines"]
    with pytest.raises(ProtectedResource, match="the data disks of box-1, box-2"):
        plan_machines(cloud.platform(**{**two, "groups": bigger}), layout.state, layout)
    destroyed(layout, **two)
    assert ec2.leftovers() == {"disks": ["kiva-box-1-data", "kiva-box-2-data"]}
    before = {one["VolumeId"] for one in ec2.client().describe_volumes()["Volumes"]}
    made(layout, **two)  # the machines get their disks back
    attached = {one["VolumeId"] for one in ec2.client().describe_volumes()["Volumes"] if one["Attachments"] and cloud.name_of(one).endswith("-data")}
    assert attached == before


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import cloud
from kivactl.flows.provision.machines import apply_machines, plan_machines
from kivactl.stack.layout import Layout
layout = Layout(Path({state!r}), Path({state!r}) / "cache")
platform = cloud.platform(**{changes!r})
def told(outcome): print("planning", outcome.step, flush=True)
plan = plan_machines(platform, layout.state, layout, told)
print("planned", flush=True)
for outcome in apply_machines(platform, layout.state, layout, plan): print("applying", outcome.status, outcome.step, flush=True)
"""


@contextmanager
def another(layout, changes):
    """kivactl's work as a process of its own, which leads its own group; its lines."""
    script = SCRIPT.format(tests=str(Path(cloud.__file__).parent), state=str(layout.state), changes=changes)
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ), start_new_session=True
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["planning module.machines.data", "applying done module.network.aws_vpc"])
def test_the_next_run_completes_what_was_interrupted(ec2, layout, moment, number):
    with another(layout, ALONE) as child:
        for line in child.stdout:
            if line.startswith(moment):
                break
        else:
            raise AssertionError(child.stderr.read())
        began = time.monotonic()
        child.send_signal(number)
        child.stdout.read()
        child.wait()
        print(f"{number.name} while {moment.split()[0]}: gone after {time.monotonic() - began:.1f} s")
    made(layout, **ALONE)
    assert ec2.machines() == ["kiva-box-1"]
    assert ec2.disks() == ["kiva-box-1-data"]
    left = ec2.leftovers()
    assert all(len(set(found)) == len(found) for found in left.values()), left
    assert (len(left["networks"]), len(left["subnets"]), len(left["addresses"])) == (1, 4, 1)
    assert plan_machines(cloud.platform(**ALONE), layout.state, layout).empty


def test_a_state_that_another_operator_locks(ec2, layout, tmp_path):
    ec2.client("s3").create_bucket(Bucket="kiva-state", CreateBucketConfiguration={"LocationConstraint": cloud.REGION})
    shared = {**ALONE, "terraform": {"kind": "s3", "bucket": "kiva-state", "region": cloud.REGION, "endpoint": ec2.url}}
    theirs = Layout(tmp_path / "theirs", tmp_path / "cache")
    with another(theirs, shared) as child:
        for line in child.stdout:
            if line.startswith("applying"):
                break
        with pytest.raises(LockedState, match=r"is locked by \S+@\S+ \(apply, since 20.* UTC\)") as caught:
            plan_machines(cloud.platform(**shared), layout.state, layout)
        assert "force-unlock" in caught.value.hint
        child.stdout.read()
    with timed("plan on the other's state"):
        shown = plan_machines(cloud.platform(**shared), layout.state, layout)
    assert names(Verb.CREATE, shown) == set()  # the key is this operator's own, and all the machines are there
    with pytest.raises(PreconditionError, match="keeps its state is another one than before"):
        plan_machines(cloud.platform(**ALONE), layout.state, layout)


def test_what_the_plan_refuses(ec2, layout, tmp_path, monkeypatch):
    typo = {**ALONE, "groups": [{**ALONE["groups"][0], "flavour": "m77i.xlarge"}]}
    with pytest.raises(SpecError, match=r"aws has no flavour 'm77i\.xlarge' in the zone eu-central-1a") as caught:
        plan_machines(cloud.platform(**typo), layout.state, layout)
    assert "m7i.xlarge" in caught.value.hint
    assert ec2.leftovers() == {}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PreconditionError, match="no credentials for aws"):
        plan_machines(cloud.platform(**ALONE), layout.state, layout)
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("KIVA_TERRAFORM_PROVIDERS", str(tmp_path / "mirror"))
    with pytest.raises(MissingProvider, match=f"hashicorp/aws is not in the mirror {tmp_path}/mirror"):
        plan_machines(cloud.platform(**ALONE), layout.state, Layout(tmp_path / "other", tmp_path / "cache"))


def test_a_plan_that_was_not_shown_is_not_applied(ec2, layout):
    first = plan_machines(cloud.platform(**ALONE), layout.state, layout)
    plan_machines(cloud.platform(**{**ALONE, "groups": [{**ALONE["groups"][0], "count": 2}]}), layout.state, layout)
    with pytest.raises(PreconditionError, match="another plan was made since this one"):
        next(apply_machines(cloud.platform(**ALONE), layout.state, layout, first))
    assert ec2.leftovers() == {}


STANDARD, ADDRESSES = "L-1216C47A", "L-0263D0A3"


def test_a_quota_that_is_too_small_is_told_before_anything_is_made(ec2, layout):
    """A host has 16 vCPUs and a public address."""
    ec2.limit({STANDARD: 15, ADDRESSES: 1})
    with pytest.raises(SmallQuota, match=r"'Running On-Demand Standard .*' in eu-central-1 is 15 vCPUs, and this platform alone needs 16$") as caught:
        plan_machines(cloud.platform(**ALONE), layout.state, layout)
    assert caught.value.hint.endswith(f"--quota-code {STANDARD} --desired-value 16")
    assert caught.value.exit_code == 3
    ec2.limit({STANDARD: 16, ADDRESSES: 0})
    with pytest.raises(SmallQuota, match=r"'EC2-VPC Elastic IPs' in eu-central-1 is 0, and this platform alone needs 1$"):
        plan_machines(cloud.platform(**ALONE), layout.state, layout)
    assert ec2.leftovers() == {}
    ec2.limit({STANDARD: 16, ADDRESSES: 1})
    assert made(layout, **ALONE).notes == ()
    assert ec2.machines() == ["kiva-box-1"]


def test_an_account_that_may_not_ask_is_no_obstacle(ec2, layout):
    ec2.limit(None)
    note = "aws does not tell its quotas (these credentials lack the permission servicequotas:GetAWSDefaultServiceQuota)"
    assert made(layout, **ALONE).notes[0].startswith(note)
    assert ec2.machines() == ["kiva-box-1"]
    again = plan_machines(cloud.platform(**ALONE), layout.state, layout)
    assert (again.empty, len(again.notes)) == (True, 1)
    ec2.limit({})  # whether it was asked is no change
    again = plan_machines(cloud.platform(**ALONE), layout.state, layout)
    assert (again.empty, again.notes) == (True, ())
    ec2.limit({STANDARD: 0})
    destroyed(layout, **ALONE)
    assert ec2.leftovers() == {"disks": ["kiva-box-1-data"]}
