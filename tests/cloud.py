"""A cloud for tests: an EC2 emulator (moto) as a process of its own, the real Terraform, and the real AWS provider where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kivactl.tools.ports import free_port

REGION = "eu-central-1"
IMAGE = "ami-12c6146b"
"""One that the emulator knows."""

PLACES = ("/usr/share/terraform/plugins", "/usr/local/share/terraform/plugins", "/opt/*", "/opt/*/*")
"""Where mirrors of Terraform's providers lie by custom."""


def mirror(provider: str = "hashicorp/aws") -> Path | None:
    """A folder that has a provider in the form of a mirror, None when there is none on this machine."""
    named = os.environ.get("KIVA_TERRAFORM_PROVIDERS")
    places = [Path(named)] if named else [place for pattern in PLACES for place in sorted(Path("/").glob(pattern.lstrip("/")))]
    return next((place for place in places if (place / "registry.terraform.io" / provider).is_dir()), None)


def missing() -> str:
    """Why tests with Terraform cannot run here; empty when they can."""
    if shutil.which("terraform") is None and shutil.which("tofu") is None:
        return "neither terraform nor tofu is on PATH"
    if mirror() is None:
        return "no mirror with Terraform's provider hashicorp/aws on this machine (KIVA_TERRAFORM_PROVIDERS names one)"
    return ""


def missing_cloud() -> str:
    """Why tests with the emulator cannot run here; empty when they can."""
    return missing() or ("" if find_spec("moto") else "moto is not installed (pip install 'moto[server,ec2,s3]')")


@dataclass(frozen=True)
class Cloud:
    """A running emulator.

    Attributes:
        url: Where it answers.
        quotas: File with the account's own quotas; see `emulator.py`.
    """

    url: str
    quotas: Path

    @property
    def environment(self) -> dict[str, str]:
        """What leads the AWS provider to it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": REGION,
            "AWS_MAX_ATTEMPTS": "2",
        }

    def client(self, service: str = "ec2") -> Any:
        """A client of it, to look behind Terraform's back."""
        import boto3

        return boto3.client(service, region_name=REGION, endpoint_url=self.url, aws_access_key_id="test", aws_secret_access_key="test")

    def reset(self) -> None:
        """Forget everything."""
        self.limit({})
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"), timeout=30).close()

    def limit(self, quotas: dict[str, float] | None) -> None:
        """What the account may have instead of the defaults, by the quota's code; None: it may not even ask."""
        self.quotas.write_text(json.dumps(quotas))

    def machines(self) -> list[str]:
        """Names of the machines that are not terminated, each as often as it is there."""
        states = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
        found = self.client().describe_instances(Filters=[states])["Reservations"]
        return sorted(name_of(machine) for reservation in found for machine in reservation["Instances"])

    def disks(self) -> list[str]:
        """Names of the data disks."""
        found = (name_of(disk) for disk in self.client().describe_volumes()["Volumes"])
        return sorted(name for name in found if name.endswith("-data"))

    def leftovers(self) -> dict[str, list[str]]:
        """Everything of a platform that is there, by kind; nothing of what an account has by itself."""
        ec2 = self.client()
        return {
            kind: names
            for kind, names in {
                "machines": self.machines(),
                "disks": self.disks(),
                "networks": [name_of(one) for one in ec2.describe_vpcs()["Vpcs"] if not one["IsDefault"]],
                "subnets": [name_of(one) for one in ec2.describe_subnets()["Subnets"] if not one["DefaultForAz"]],
                "addresses": [name_of(one) for one in ec2.describe_addresses()["Addresses"]],
                "gateways": [name_of(one) for one in ec2.describe_nat_gateways()["NatGateways"] if one["State"] != "deleted"],
                "groups": [one["GroupName"] for one in ec2.describe_security_groups()["SecurityGroups"] if one["GroupName"] != "default"],
                "keys": [one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]],
            }.items()
            if names
        }


def name_of(resource: dict[str, Any]) -> str:
    """What a resource is called."""
    return next((tag["Value"] for tag in resource.get("Tags", []) if tag["Key"] == "Name"), "?")


@contextmanager
def cloud() -> Iterator[Cloud]:
    """An emulator on a port of its own; gone afterwards."""
    port = free_port()
    with TemporaryDirectory() as folder:
        running = Cloud(f"http://127.0.0.1:{port}", Path(folder) / "quotas.json")
        running.limit({})
        words = [sys.executable, str(Path(__file__).with_name("emulator.py")), str(port), str(running.quotas)]
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            _until_it_answers(running.url, child)
            yield running
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _until_it_answers(url: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert child.poll() is None, "the emulator ended"
        try:
            urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the emulator does not answer")


def infrastructure(**changes: Any) -> dict[str, Any]:
    """A spec's part on machines that is small and has one of everything."""
    return {
        "provider": "aws",
        "region": REGION,
        "zones": [f"{REGION}a", f"{REGION}b"],
        "image": IMAGE,
        "kubernetes": {"version": "v1.35.1+k3s1"},
        "groups": [
            {"name": "control", "role": "server", "disk": "20GiB"},
            {"name": "edge", "role": "gateway", "disk": "20GiB"},
            {"name": "gpu", "role": "engine", "count": 2, "gpu": {"type": "L40S"}, "disk": "50GiB", "data_disk": "100GiB"},
        ],
        "network": {"clients": ["203.0.113.0/24"], "operators": ["198.51.100.0/24"]},
        **changes,
    }


def platform(**changes: Any) -> Any:
    """A platform on those machines."""
    from kivactl.spec.platform import Platform

    values = {"name": "kiva", "models": [{"name": "m", "source": "package:x"}], "infrastructure": infrastructure(**changes)}
    return Platform.model_validate(values)


def spec(**changes: Any) -> str:
    """The same as a file's text."""
    return json.dumps({"name": "kiva", "models": [{"name": "m", "source": "package:x"}], "infrastructure": infrastructure(**changes)})
