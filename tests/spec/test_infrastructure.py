"""What a spec may say of machines, and what its parts owe each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kivactl.spec.infrastructure import Infrastructure
from kivactl.spec.load import load

K3S = {"version": "v1.35.1+k3s1"}


def static(**changes: Any) -> dict[str, Any]:
    return {"provider": "static", "groups": [{"name": "box", "role": "host", "hosts": [{"name": "box-1", "address": "192.0.2.1"}]}], **changes}


def cloud(**changes: Any) -> dict[str, Any]:
    groups = [{"name": "control", "role": "server"}, {"name": "gpu", "role": "engine", "gpu": {"type": "L40S"}}]
    return {
        "provider": "aws",
        "region": "eu-central-1",
        "groups": groups,
        "kubernetes": K3S,
        "network": {"operators": ["198.51.100.0/24"]},
        **changes,
    }


def group(**changes: Any) -> list[dict[str, Any]]:
    return [{**static()["groups"][0], **changes}]


def test_little_is_needed():
    machines = Infrastructure.model_validate(static())
    assert (machines.access.user, machines.access.port, machines.network.clients, machines.kubernetes) == ("kiva", 22, (), None)
    assert Infrastructure.model_validate(cloud()).kubernetes is not None


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (static(groups=group(hosts=[])), "the group 'box' needs `hosts`"),
        (static(groups=group(role="server")), "the role server, which needs `kubernetes`"),
        (static(kubernetes=K3S), "has the role host, a platform without Kubernetes"),
        (static(groups=[*group(), *group()]), "two groups are named 'box'"),
        (static(groups=[*group(), *group(name="b")]), "two machines are named 'box-1'"),
        (static(groups=[*group(), *group(name="b", hosts=[{"name": "b-1", "address": "192.0.2.1"}])]), "two machines have the address '192.0.2.1'"),
        (static(groups=group(hosts=[{"name": "Box_1", "address": "192.0.2.1"}])), "must be a host name of 1 to 63"),
        (static(groups=group(hosts=[{"name": "b", "address": "192.0.2.1", "host_key": "ssh-ed25519 A"}])), "must be a public host key"),
        (static(access={"user": "Root!"}), "must be the name of a Linux user"),
        (static(network={"segments": {"gateway": "192.168.0.0/24"}}), "network.segments.gateway 192.168.0.0/24 does not lie in network.range 10.20.0.0/16"),
        (
            static(network={"segments": {"gateway": "10.20.16.0/24"}}),
            "network.segments.gateway 10.20.16.0/24 and network.segments.engines 10.20.16.0/20",
        ),
        (static(storage={"kind": "nfs"}), "`kind: nfs` needs `server` and `export`"),
        (
            static(storage={"kind": "nfs", "server": "nfs.example.org", "export": "/kiva"}, groups=group(data_disk="10GiB")),
            "has a `data_disk`, and `storage.kind: nfs` mounts a server where models lie",
        ),
        (static(mirrors={"environment": "opt/image"}), "should match pattern"),
        (static(gpu={"mig": "all-3g.40gb", "time_slicing": 4}), "choose one"),
        (static(gpu={"driver": "58"}), "must be a branch of NVIDIA's driver"),
        (static(terraform={"kind": "s3"}), "`kind: s3` needs `bucket`"),
        (static(terraform={"kind": "http"}), "`kind: http` needs `address`"),
        (static(protect=["db"]), "`protect` names the group 'db', which is none of: box"),
        (cloud(region=None), "`provider: aws` needs `region`"),
        (cloud(provider="azure"), "`provider: azure` needs `project`"),
        (cloud(network={}), "`network.operators` must name the networks you come from"),
        (cloud(groups=[*cloud()["groups"], group(role="engine")[0]]), "names `hosts`, which only `provider: static` has"),
        (cloud(groups=[{"name": "gpu", "role": "engine"}]), "there are 0"),
        (cloud(groups=[{"name": "c", "role": "server", "count": 2}]), "there are 2"),
        (cloud(kubernetes={"version": "1.35"}), "must be a release such as v1.35.1+k3s1"),
        (cloud(kubernetes={"version": "v1.35.1+rke2r1"}), "is no release of k3s: it must end like v1.35.1+k3s1"),
        (cloud(kubernetes={**K3S, "pods": "10.20.0.0/16"}), "network.segments.gateway 10.20.0.0/20 and kubernetes.pods 10.20.0.0/16 overlap"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_write(values: dict[str, Any], fault: str):
    with pytest.raises(ValidationError) as caught:
        Infrastructure.model_validate(values)
    assert fault in str(caught.value)


@given(st.integers(0, 20))
def test_a_control_plane_keeps_a_majority(count: int):
    groups = [{"name": "c", "role": "server", "count": count}]
    if count in {1, 3, 5, 7}:
        assert Infrastructure.model_validate(cloud(groups=groups)).groups[0].count == count
    else:
        with pytest.raises(ValidationError, match="1, 3, 5 or 7"):
            Infrastructure.model_validate(cloud(groups=groups))


def test_files_count_from_the_folder_of_the_spec(tmp_path: Path):
    (tmp_path / "kiva.yaml").write_text(
        "name: kiva\nmodels: [{name: m, source: a/b}]\ninfrastructure:\n  provider: static\n  access: {key: ./id}\n  mirrors: {terraform: ./providers}\n"
        "  network: {vpn: {peer: 192.0.2.9, networks: [10.9.0.0/16], key_file: vpn.key}}\n"
        "  groups: [{name: box, role: host, hosts: [{name: box-1, address: 192.0.2.1}]}]\n"
    )
    machines = load(tmp_path / "kiva.yaml").platform.infrastructure
    assert machines is not None
    assert machines.network.vpn is not None
    assert (machines.access.key, machines.mirrors.terraform, machines.network.vpn.key_file) == (
        str(tmp_path / "id"),
        str(tmp_path / "providers"),
        str(tmp_path / "vpn.key"),
    )
