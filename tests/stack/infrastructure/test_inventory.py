"""Machines as Terraform names them, and as Ansible reads them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kivactl.errors import ToolError
from kivactl.spec.infrastructure import Infrastructure
from kivactl.stack.infrastructure.inventory import Machine, inventory_for, inventory_from, static_inventory

CLOUD = Infrastructure.model_validate(
    {
        "provider": "aws",
        "region": "eu-central-1",
        "groups": [{"name": "control", "role": "server"}, {"name": "gpu", "role": "engine"}],
        "kubernetes": {"version": "v1.35.1+k3s1"},
        "network": {"operators": ["198.51.100.0/24"]},
        "access": {"port": 2222},
    }
)
NODES = [
    {
        "name": "control-1",
        "group": "control",
        "role": "server",
        "address": "10.20.48.4",
        "public_address": "203.0.113.7",
        "zone": "a",
        "gpus": 0,
        "gpu_type": None,
    },
    {"name": "gpu-1", "group": "gpu", "role": "engine", "address": "10.20.16.4", "public_address": None, "zone": "a", "gpus": 1, "gpu_type": "L40S", "more": 1},
]


def test_outputs_are_machines():
    found = inventory_from({"nodes": NODES, "gateway_addresses": ["203.0.113.8"], "segments": {}})
    assert [machine.name for machine in found.machines] == ["control-1", "gpu-1"]
    assert found.machine("gpu-1") == Machine(name="gpu-1", group="gpu", role="engine", address="10.20.16.4", zone="a", gpus=1, gpu_type="L40S")
    assert found.machine("gpu-2") is None
    assert found.gateway_addresses == ("203.0.113.8",)


def test_outputs_of_something_else():
    with pytest.raises(ToolError, match="names no machines"):
        inventory_from({"bucket": "x"})
    with pytest.raises(ToolError, match="not those of a platform's machines") as caught:
        inventory_from({"nodes": [{"name": "x"}]})
    assert any("machines.0.role" in line for line in caught.value.details)


def test_machines_that_exist():
    hosts = [{"name": "box-1", "address": "192.0.2.1"}]
    static = Infrastructure.model_validate({"provider": "static", "groups": [{"name": "box", "role": "host", "hosts": hosts, "gpu": {"type": "T4"}}]})
    found = static_inventory(static)
    assert found.machines == (Machine(name="box-1", group="box", role="host", address="192.0.2.1", gpus=1, gpu_type="T4"),)
    assert found.gateway_addresses == ("192.0.2.1",)
    inventory = inventory_for(static, found.machines)["all"]
    assert inventory["vars"] == {"ansible_user": "kiva", "ansible_port": 22}
    assert set(inventory["children"]) == {"hosts", "servers", "engines", "gateways", "storage"}
    assert inventory["children"]["hosts"]["hosts"]["box-1"]["ansible_host"] == "192.0.2.1"


def test_machines_without_a_public_address_are_reached_through_a_server():
    machines = inventory_from({"nodes": NODES}).machines
    groups = inventory_for(CLOUD, machines, key=Path("/s/id key"), known_hosts=Path("/s/known"))["all"]["children"]
    assert groups["servers"]["hosts"]["control-1"]["ansible_host"] == "203.0.113.7"
    assert "ansible_ssh_common_args" not in groups["servers"]["hosts"]["control-1"]
    gpu = groups["engines"]["hosts"]["gpu-1"]
    assert gpu["ansible_host"] == "10.20.16.4"
    option, command = shlex.split(gpu["ansible_ssh_common_args"])
    assert option == "-o"
    words = shlex.split(command.removeprefix("ProxyCommand="))
    assert words[:5] == ["ssh", "-W", "%h:%p", "-p", "2222"]
    assert words[-1] == "kiva@203.0.113.7"
    assert {"/s/id key", "UserKnownHostsFile=/s/known", "BatchMode=yes"} <= set(words)


def test_a_machine_to_go_through_is_for_all():
    through = CLOUD.model_copy(update={"access": CLOUD.access.model_copy(update={"jump": "ops@bastion.example.org"})})
    groups = inventory_for(through, inventory_from({"nodes": NODES}).machines)["all"]["children"]
    control = groups["servers"]["hosts"]["control-1"]
    assert control["ansible_host"] == "10.20.48.4"
    assert shlex.split(shlex.split(control["ansible_ssh_common_args"])[1])[-3:] == ["-o", "BatchMode=yes", "ops@bastion.example.org"]
