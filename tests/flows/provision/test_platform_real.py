"""From a spec to answers, by the command line: real Terraform makes two machines, they boot, real Ansible sets them up over SSH, real vLLM serves.

kivactl is killed in every stage on the way; each time the next run goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cloud
import pytest
from asking import ask
from booting_cloud import booting
from engine_machine import ENVIRONMENT, engine_model, give_engine
from machines import USER

pytestmark = [
    pytest.mark.machines,
    pytest.mark.skipif(bool(cloud.missing_cloud()), reason=cloud.missing_cloud() or "it can run"),
    pytest.mark.timeout(2400),
]

PORT = 4000


class Operator:
    """Somebody with a spec, credentials of the cloud, a terminal, and a machine that leads into the cloud's network."""

    def __init__(self, folder: Path, site, ec2) -> None:
        self.folder, self.site = folder, site
        self.environment = {**os.environ, **ec2.environment, "KIVA_TERRAFORM_PROVIDERS": str(cloud.mirror())}
        self.bastion = site.machine("bastion", "255.10")
        infrastructure = cloud.infrastructure(
            zones=[f"{cloud.REGION}a"],
            kubernetes=None,
            access={"user": USER, "key": str(site.key), "jump": f"{USER}@{self.bastion.address}:22"},
            mirrors={"apt": f"{site.mirror}/debian", "environment": ENVIRONMENT},
            network={**site.network, "operators": [f"{self.bastion.address}/32"]},
            groups=[{"name": "box", "role": "host", "count": 2, "disk": "20GiB"}],
        )
        spec = {
            "name": "kiva",
            "models": [engine_model()],
            "gateway": {"port": PORT, "tls": {"names": ["llm.example.org"]}},
            "infrastructure": infrastructure,
            "storage": {"state": str(folder / "state"), "cache": str(folder / "cache")},
        }
        (folder / "kiva.yaml").write_text(json.dumps(spec))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        done = subprocess.run(self._argv(*words), cwd=self.folder, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert (done.returncode, self.cloud.failed) == (0, None), f"{done.stdout}\n{done.stderr}"
        return done

    def killed(self, *words: str, when: Callable[[str], bool]) -> None:
        """One command that is killed at a line."""
        child = subprocess.Popen(
            self._argv(*words), cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines = []
        with child:
            for line in child.stdout:
                lines.append(line)
                if when(line):
                    child.kill()
                    break
            child.stdout.read()
        assert (child.returncode, self.cloud.failed) == (-signal.SIGKILL, None), "".join(lines)

    def _argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "kivactl", *words]


@pytest.fixture
def operator(site, tmp_path):
    with cloud.cloud() as ec2:
        made = Operator(tmp_path, site, ec2)
        with booting(ec2, site, give_engine) as made.cloud:
            yield made
    made.bastion.stop()


def test_killed_in_every_stage_a_platform_comes_serves_and_goes(operator, told):
    ec2, machines = operator.cloud.cloud, operator.cloud.machines
    with told("killed while it plans"):
        operator.killed("provision", "--plan", when=lambda line: "module.machines.data" in line)
    assert ec2.leftovers() == {}

    with told("killed while Terraform makes the network"):
        operator.killed("provision", "--yes", when=lambda line: "module.network.aws_subnet" in line)
    with told("goes on, and is killed while Ansible sets up"):
        operator.killed("provision", "--yes", when=lambda line: "box-1: Kernel settings" in line)
    assert ec2.machines() == ["kiva-box-1", "kiva-box-2"]

    with told("goes on, and is killed while it verifies"):
        operator.killed("provision", "--yes", when=lambda line: "What the machine shows" in line)
    with told("goes on to the end"):
        operator.run("provision", "--yes")
    with told("planned again: nothing to do"):
        again = operator.run("provision", "--plan", "--output", "json")
    assert json.loads(again.stdout)["changes"] == []

    left = ec2.leftovers()
    assert all(len(set(found)) == len(found) for found in left.values()), left
    # Four segments and what NAT lies in; an address for each machine and for NAT.
    assert (left["machines"], len(left["networks"]), len(left["subnets"]), len(left["addresses"])) == (["kiva-box-1", "kiva-box-2"], 1, 5, 3)
    assert sorted(operator.cloud.booted) == ["kiva-box-1", "kiva-box-2"]

    records = [path.read_text() for path in (operator.folder / "state/infrastructure/runs").iterdir()]
    assert any("TASK [kiva_engine_host" in text for text in records)
    assert not any("PRIVATE KEY" in text for text in records)

    inventory = operator.folder / "state/infrastructure/inventory.json"
    assert inventory.stat().st_mode & 0o777 == 0o600
    token = operator.run("token", "issue", "default").stdout.strip()
    client = operator.site.client("asker", "64.5")
    authority = operator.folder / "state/tls/ca.pem"
    for machine in machines.values():
        answer = ask(client, machine.address, PORT, authority, "tiny", token)
        assert (answer["status"], answer["tls"]) == (200, "TLSv1.3"), answer
        assert ask(client, machine.address, PORT, authority, "tiny", "")["status"] == 401
        for port in (22, 8000, 9100):
            assert not operator.site.reaches(machine.address, port, namespace=client, timeout_s=1)

    with told("destroyed"):
        operator.run("provision", "--destroy", "--confirm", "kiva")
    assert ec2.leftovers() == {}
    assert json.loads(inventory.read_text())["machines"] == []
