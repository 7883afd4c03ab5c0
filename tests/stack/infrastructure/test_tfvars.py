"""From the spec to the variables of Terraform's roots."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import SpecError
from kivactl.root import content
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.tfvars import CLOUDS, SECRET_VARIABLES, Disk, machine_names, public_segments, tfvars_for, zones_of

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJw6rB7cXKzcHbzP5GjJxGpX1Xt1WbZzL1mKzQx9vJ0a someone@somewhere"
OWN: dict[str, dict[str, Any]] = {
    "aws": {"region": "eu-central-1"},
    "azure": {"region": "germanywestcentral", "project": "00000000-0000-0000-0000-000000000000"},
    "openstack": {"region": "RegionOne", "external_network": "public", "image": "debian-12"},
    "stackit": {"region": "eu01", "project": "00000000-0000-0000-0000-000000000000"},
}


def platform(provider: str, **changes: Any) -> Platform:
    groups = [{"name": "box", "role": "host", "flavour": "m7i.xlarge" if provider == "aws" else "Standard_D4s_v5"}]
    infrastructure = {"provider": provider, **OWN[provider], "groups": groups, "network": {"operators": ["198.51.100.0/24"]}, **changes}
    return Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:x"}], "infrastructure": infrastructure})


def declared(provider: str) -> set[str]:
    return set(re.findall(r'^variable "([^"]+)"', (content("terraform") / provider / "variables.tf").read_text(), re.MULTILINE))


@pytest.mark.parametrize("provider", CLOUDS)
def test_keys_are_the_roots_variables(provider):
    assert set(tfvars_for(platform(provider), public_key=KEY)) | set(SECRET_VARIABLES) == declared(provider)


groups = st.lists(
    st.fixed_dictionaries(
        {"name": st.from_regex(r"[a-z]{1,8}", fullmatch=True), "role": st.sampled_from(["engine", "gateway", "storage"])},
        optional={
            "count": st.integers(0, 20),
            "gpu": st.sampled_from([{"type": "T4"}, {"type": "h100", "count": 8}, {"type": "T4", "count": 4}]),
            "zones": st.lists(st.sampled_from(["1", "2", "3"]), max_size=3, unique=True),
            "disk": st.sampled_from(["1B", "8GiB", "100GB", "2TiB"]),
            "data_disk": st.sampled_from(["1GB", "500GiB"]),
        },
    ),
    max_size=4,
    unique_by=lambda group: group["name"],
)


@given(groups, st.sampled_from(["aws", "azure"]), st.lists(st.sampled_from(["1", "2", "3"]), max_size=3, unique=True), st.booleans())
def test_every_spec_gives_variables_that_the_root_accepts(some, provider, zones, behind_vpn):
    vpn = {"peer": "192.0.2.1", "networks": ["10.99.0.0/16"]} if behind_vpn else None
    changes = {
        "groups": [{"name": "control-plane", "role": "server"}, *some],
        "kubernetes": {"version": "v1.35.1+k3s1"},
        "zones": zones,
        "network": {"operators": ["198.51.100.0/24"], "vpn": vpn},
        "protect": [some[0]["name"]] if some else [],
    }
    spec = platform(provider, **changes)
    variables = tfvars_for(spec, public_key=KEY)
    assert set(variables) | set(SECRET_VARIABLES) == declared(provider)
    assert len(set(variables["zones"])) == len(variables["zones"]) >= 1
    assert set(variables["public_segments"]) <= {"gateway", "management"}
    assert (variables["public_segments"] == []) == behind_vpn
    for name, group in variables["groups"].items():
        assert set(group) == {"role", "count", "flavour", "gpus", "gpu_type", "zones", "disk_gib", "data_disk_gib", "protected"}
        assert group["zones"]
        assert set(group["zones"]) <= set(variables["zones"])
        assert group["disk_gib"] >= 8
        assert group["protected"] == (name in changes["protect"])
    assert sum(group["count"] for group in variables["groups"].values()) == len(machine_names(spec.infrastructure))


def test_the_keys_comment_goes_nowhere():
    assert tfvars_for(platform("aws"), public_key=KEY)["public_key"] == KEY.rpartition(" ")[0]


def test_disks_that_exist_are_kept():
    variables = tfvars_for(platform("aws"), public_key=KEY, kept_disks={"gpu-9": Disk("eu-central-1a", 100)})
    assert variables["kept_disks"] == {"gpu-9": {"zone": "eu-central-1a", "size_gib": 100}}


@pytest.mark.parametrize("provider", CLOUDS)
def test_quotas_are_asked_where_the_cloud_tells_them(provider):
    assert tfvars_for(platform(provider), public_key=KEY).get("ask_quotas") is (True if provider == "aws" else None)
    assert tfvars_for(platform(provider), public_key=KEY, ask_quotas=False).get("ask_quotas") is (False if provider == "aws" else None)


@pytest.mark.parametrize(("provider", "zone"), [("aws", "eu-central-1a"), ("azure", "1"), ("openstack", "nova"), ("stackit", "eu01-1")])
def test_a_cloud_has_a_first_zone(provider, zone):
    assert zones_of(platform(provider).infrastructure) == (zone,)


@pytest.mark.parametrize(("clients", "expected"), [(["10.0.0.0/8"], []), (["8.8.8.0/24"], ["gateway"]), ([], [])])
def test_behind_a_vpn_only_public_clients_need_a_public_gateway(clients, expected):
    vpn = {"peer": "192.0.2.1", "networks": ["10.99.0.0/16"]}
    spec = platform("aws", network={"operators": ["10.99.0.0/16"], "clients": clients, "vpn": vpn})
    assert public_segments(spec.infrastructure) == expected


@pytest.mark.parametrize(
    ("changes", "reached"),
    [
        ({}, True),
        ({"proxy": {"https": "http://proxy.example.org:3128"}}, False),
        ({"mirrors": {"apt": "https://m.example.org", "images": "r.example.org", "files": "https://f.example.org"}}, False),
        ({"mirrors": {"apt": "https://m.example.org"}}, True),
    ],
)
def test_machines_reach_the_internet_only_where_they_need_it(changes, reached):
    assert tfvars_for(platform("aws", **changes), public_key=KEY)["internet"] is reached


@pytest.mark.parametrize(
    ("network", "fault"),
    [
        ({"operators": ["0.0.0.0/0"]}, "is the whole internet"),
        ({"operators": ["2001:db8::/32"]}, "are IPv4"),
        ({"operators": ["198.51.100.0/24"], "segments": {"storage": "10.20.32.0/26"}}, "`network.segments.storage` 10.20.32.0/26 is too small"),
    ],
)
def test_what_no_cloud_can_do(network, fault):
    with pytest.raises(SpecError, match=re.escape(fault)):
        tfvars_for(platform("aws", network=network), public_key=KEY)


def test_too_many_zones():
    with pytest.raises(SpecError, match="8 zones are named"):
        tfvars_for(platform("aws", zones=[f"z{number}" for number in range(8)]), public_key=KEY)


def test_machines_that_exist_have_no_variables():
    static = {"provider": "static", "groups": [{"name": "box", "role": "host", "hosts": [{"name": "box-1", "address": "192.0.2.1"}]}]}
    spec = Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:x"}], "infrastructure": static})
    with pytest.raises(ValueError, match="no cloud"):
        tfvars_for(spec, public_key=KEY)


def test_the_segments_defaults_are_apart():
    segments = tfvars_for(platform("aws"), public_key=KEY)["segments"].values()
    networks = [ipaddress.ip_network(text) for text in segments]
    assert not any(one.overlaps(other) for one in networks for other in networks if one is not other)
