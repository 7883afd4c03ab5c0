"""A machine without Kubernetes serves a whole platform: real vLLM behind real Envoy as a service, made over SSH, asked from another network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asking import ask
from engine_machine import ENVIRONMENT, engine_model, give_engine
from machines import USER
from node_ground import make_authority

from kivactl import root
from kivactl.flows.provision import nodes
from kivactl.flows.provision.hosts import hosts_variables
from kivactl.flows.provision.nodes import apply_nodes, plan_nodes
from kivactl.spec.platform import Platform
from kivactl.stack import tokens
from kivactl.stack.infrastructure.inventory import static_inventory
from kivactl.stack.layout import Layout
from kivactl.tools.generators import drained

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1800)]

PORT = 4000

SCAN = """
import asyncio, sys
async def main(address, ports):
    limit = asyncio.Semaphore(1000)
    async def one(port):
        async with limit:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 1)
            except (OSError, asyncio.TimeoutError):
                return None
            writer.close()
            return port
    print(*[port for port in await asyncio.gather(*map(one, ports)) if port])
asyncio.run(main(sys.argv[1], range(1, 10001)))
"""


class HostGround:
    """A platform on one machine; its authority and its signing key are here."""

    def __init__(self, site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.layout = Layout(folder / "state", folder / "cache")
        make_authority(self.layout)
        self.layout.signing_key.parent.mkdir()
        words = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", self.layout.signing_key]
        subprocess.run(words, check=True, capture_output=True)
        self.client = site.client("asker", "65.5")
        self.machine = site.machine("alone", "16.31", disk="3g", start=False)
        give_engine(self.machine)
        self.machine.start()

    def platform(self, **gateway) -> Platform:
        infrastructure = {
            "provider": "static",
            "network": self.site.network,
            "access": {"user": USER, "key": str(self.site.key)},
            "mirrors": {"apt": f"{self.site.mirror}/debian", "environment": ENVIRONMENT},
            "groups": [{"name": "platform", "role": "host", "hosts": [{"name": self.machine.name, "address": self.machine.address}]}],
        }
        gateway = {"port": PORT, "tls": {"names": ["llm.example.org"]}, **gateway}
        return Platform.model_validate({"name": "kiva", "models": [engine_model()], "gateway": gateway, "infrastructure": infrastructure})

    def plan(self, platform: Platform | None = None):
        platform = platform or self.platform()
        return plan_nodes(platform, static_inventory(platform.infrastructure), self.folder, self.layout)

    def apply(self, platform: Platform | None = None, verb=apply_nodes):
        platform = platform or self.platform()
        run = verb(platform, static_inventory(platform.infrastructure), self.folder, self.layout)
        outcomes = []
        return outcomes, drained(run, outcomes.append)

    def token(self, tenant: str = "default") -> str:
        """As the operator issues it, with the key that is here alone."""
        key = self.layout.signing_key.read_bytes()
        made = tokens.issue(
            key, platform="kiva", tenant=tenant, name="asker", token_id=os.urandom(8).hex(), issued_at=datetime.now(UTC), lifetime=timedelta(hours=1)
        )
        return made.reveal()

    def ask(self, token: str) -> dict:
        """What the platform answers to a client in another network."""
        return ask(self.client, self.machine.address, PORT, self.layout.ca_certificate, "tiny", token)

    def until_it_serves(self) -> None:
        deadline, answer = time.monotonic() + 300, {}
        while time.monotonic() < deadline:
            answer = self.ask(self.token())
            if answer["status"] == 200:
                return
            time.sleep(0.5)
        shown = self.machine.run("systemctl", "status", "--no-pager", "kiva", check=False).stdout
        pytest.fail(f"{answer}\n{shown}")

    def until_another_supervisor(self, before: int) -> None:
        """Engines that lost their supervisor serve on until systemd has ended them: only another one proves a new start."""
        deadline = time.monotonic() + 300
        while (found := self.supervisor()) in {0, before}:
            assert time.monotonic() < deadline, self.machine.run("systemctl", "status", "--no-pager", "kiva", check=False).stdout
            time.sleep(0.5)
        assert found

    def supervisor(self) -> int:
        return int(self.machine.shell("systemctl show -P MainPID kiva"))


@pytest.fixture(scope="module")
def host(site, tmp_path_factory):
    ground = HostGround(site, tmp_path_factory.mktemp("host"))
    given = {"kiva_engine_host_packages": ["openssl", "libnuma1", "libgomp1", "libstdc++6"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "hosts_variables", lambda *words: hosts_variables(*words) | given)
        yield ground
    ground.machine.stop()


def test_a_machine_serves_a_platform_and_goes_on_serving(host, told):
    machine = host.machine
    with told("foretold"):
        plan = host.plan()
    assert any("user of the platform" in change.subject for change in plan.changes)
    assert "PRIVATE KEY" not in str(plan)

    with told("a fresh machine, from nothing to a platform that serves"):
        _, summary = host.apply()
    assert summary.succeeded
    answer = host.ask(host.token())
    assert (answer["status"], answer["tls"]) == (200, "TLSv1.3"), answer
    assert json.loads(answer["body"])["usage"]["completion_tokens"] > 0
    assert host.ask("")["status"] == 401

    with told("ports 1 to 10000 looked at from the clients' network"):
        words = ["ip", "netns", "exec", host.client, sys.executable, "-c", SCAN, machine.address]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == [str(PORT)]

    with told("the same again"):
        outcomes, summary = host.apply()
    assert (summary.succeeded, summary.changed) == (True, 0), [outcome for outcome in outcomes if outcome.data.get("changed")]
    with told("foretold, nothing to do"):
        assert host.plan().empty

    before = host.supervisor()
    machine.run("kill", "-9", str(before))
    with told("supervisor killed, serves again"):
        host.until_another_supervisor(before)
        host.until_it_serves()

    with told("power cut and boot, serves again"):
        machine.stop_and_start()
        host.until_it_serves()


def test_the_platform_has_no_rights_and_its_keys_are_its_own(host):
    machine = host.machine
    assert machine.run("runuser", "-u", "kiva-platform", "--", "sudo", "-n", "true", check=False).returncode != 0
    assert machine.shell("getent passwd kiva-platform").endswith(":/usr/sbin/nologin")
    keys = machine.shell("find /var/lib/kiva-platform/state/tls /var/lib/kiva-platform/state/tokens -type f -exec stat -c '%a %U' {} + | sort -u")
    assert keys == "600 kiva-platform"
    owners = set(
        machine.shell(
            "ps -o user:20= -p $(cat /var/lib/kiva-platform/state/run/supervisor.pid) --ppid $(cat /var/lib/kiva-platform/state/run/supervisor.pid)"
        ).split()
    )
    assert owners == {"kiva-platform"}
    carried = machine.shell("find /var/lib/kiva-platform/state/tokens /var/lib/kiva-platform/state/tls -type f -exec cat {} +")
    for private in (host.layout.signing_key, host.layout.ca_key):
        assert private.read_text().splitlines()[1] not in carried


def test_a_changed_spec_is_deployed_while_it_serves(host, told):
    host.until_it_serves()
    before = host.supervisor()
    engines = host.machine.shell("pgrep -f [a]pi_server | sort")
    changed = host.platform(tenants=[{"name": "default"}, {"name": "second"}])
    assert host.ask(host.token("second"))["status"] in {401, 403}
    assert not host.plan(changed).empty
    with told("a changed spec"):
        _, summary = host.apply(changed)
    assert summary.succeeded
    assert host.ask(host.token("second"))["status"] == 200
    assert host.supervisor() == before
    assert host.machine.shell("pgrep -f [a]pi_server | sort") == engines
    _, summary = host.apply(changed)
    assert summary.changed == 0


def test_by_the_command_line_it_is_planned_done_verified_and_taken_away(host, told, kivactl, tmp_path):
    """Authority and keys are here already, so the first run changes this machine's folders alone; what it did to the other one was done before."""
    spec = tmp_path / "kiva.yaml"
    data = host.platform().model_dump(mode="json", exclude_defaults=True)
    spec.write_text(json.dumps({**data, "storage": {"state": str(host.layout.state), "cache": str(host.layout.cache)}}))

    def run(*words: str):
        return kivactl("--spec", str(spec), "provision", *words)

    planned = run("--plan", "--output", "json")
    assert planned.code == 2, planned
    assert not [one for one in json.loads(planned.stdout)["changes"] if one["subject"].startswith("alone: ") and "second" not in str(one)]
    with told("provision"):
        done = run("--yes", "--output", "json")
    assert done.code == 0, done.stderr
    steps = json.loads(done.stdout)["steps"]
    assert any(step["step"].startswith("alone: ") for step in steps)
    with told("planned again, nothing to do"):
        assert run("--plan").code == 0
    with told("verified"):
        verified = run("--verify")
    assert verified.code == 0, verified.stderr
    assert "every machine is fit" in verified.stdout
    assert json.loads(host.layout.inventory.read_text())["machines"][0]["name"] == "alone"
    assert host.layout.inventory.stat().st_mode & 0o777 == 0o600

    refused = run("--destroy")
    assert refused.code == 2
    assert "needs its name typed" in refused.stderr
    assert run("--destroy", "--confirm", "other").code == 2
    with told("taken away"):
        gone = run("--destroy", "--confirm", "kiva")
    assert gone.code == 0, gone.stderr
    assert host.machine.shell("pgrep -u kiva-platform || true") == ""
    assert host.machine.run("systemctl", "is-enabled", "kiva", check=False).returncode != 0
    assert host.machine.shell("ls /var/lib/kiva-platform/state/tls /etc/kiva/platform 2>/dev/null || true") == ""


LOCKED = ("annotated-doc", "click", "markdown-it-py", "mdurl", "pygments", "rich", "shellingham", "typer", "typing-extensions")
"""What `kivactl --help` needs: a lock file small enough to be really installed."""


@pytest.fixture
def bare(site, tmp_path, monkeypatch):
    """A machine whose programs alone are installed, from a folder of wheels that it has."""
    lines = [line for line in (root.content("requirements") / "cpu.txt").read_text().splitlines() if line.partition("==")[0] in LOCKED]
    assert len(lines) == len(LOCKED)
    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "cpu.txt").write_text("\n".join(lines) + "\n")
    machine = site.machine("bare", "16.32")
    wheels = machine.root / "srv/wheels"
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, "-r", locks / "cpu.txt"], check=False, capture_output=True
    )
    if fetched.returncode != 0:
        machine.stop()
        pytest.skip(f"no package index is reached: {fetched.stderr.decode()[-200:]}")
    machine.shell("apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv >/dev/null")
    playbooks = tmp_path / "playbooks"
    playbooks.mkdir()
    task = "    - ansible.builtin.include_role: {name: kiva_engine_host, tasks_from: programs}\n"
    (playbooks / "site.yml").write_text(f"- hosts: hosts\n  become: true\n  gather_facts: false\n  tasks:\n{task}")
    (playbooks / "roles").symlink_to(root.content("playbooks") / "roles")
    given = {"kiva_engine_host_requirements": str(locks), "kiva_engine_host_wheelhouse": "/srv/wheels"}
    monkeypatch.setattr(nodes, "hosts_variables", lambda *words: hosts_variables(*words) | given)
    real = root.content
    monkeypatch.setattr(nodes.root, "content", lambda name: playbooks if name == "playbooks" else real(name))
    ground = HostGround.__new__(HostGround)
    ground.site, ground.folder, ground.machine, ground.layout = site, tmp_path, machine, Layout(tmp_path / "state", tmp_path / "cache")
    yield ground, locks
    machine.stop()


def test_programs_are_installed_from_wheels_beside_those_that_run(bare, told):
    ground, locks = bare
    with told("programs from a folder of wheels"):
        _, summary = ground.apply()
    assert summary.succeeded
    (first,) = ground.machine.shell("ls -d /opt/kiva/*/.complete").split()
    assert "kivactl" in ground.machine.shell(f"{first.removesuffix('.complete')}bin/kivactl --help")
    _, summary = ground.apply()
    assert summary.changed == 0
    (locks / "cpu.txt").write_text((locks / "cpu.txt").read_text() + "# another\n")
    _, summary = ground.apply()
    assert summary.changed > 0
    assert len(ground.machine.shell("ls -d /opt/kiva/*/.complete").split()) == 2
